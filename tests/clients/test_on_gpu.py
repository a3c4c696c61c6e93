"""What only a card can show; skipped on machines without one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clients.acceleration import half_type
from clients.device_memory import estimate_training, free_bytes, process_bytes
from clients.evaluation import score_model
from clients.loader import SplitLoader
from clients.micro_batch import MicroBatch
from clients.site import Site
from clients.task import ReceivedModel, RoundTask, RunOrigin
from clients.training import train
from clients.transfers import send
from rsdgc.patches import fingerprint
from tests.clients.toys import CPU, Arrays, TinyNet, train_settings, unit

pytestmark = pytest.mark.gpu

GPU = torch.device("cuda")
COUNT = 96


@pytest.fixture(autouse=True)
def _exact() -> Iterator[None]:
    """Compute convolutions in float32, not in TF32."""
    allowed = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = allowed


def make_split(device: torch.device, px: int = 16, **settings: Any) -> SplitLoader:
    rng = np.random.default_rng(0)
    labels = np.arange(COUNT) % 3
    optical = rng.integers(0, 1000, (COUNT, 2, px, px)).astype(np.uint16)
    optical[:, 0] += (labels * 1500).astype(np.uint16)[:, None, None]
    radar = rng.standard_normal((COUNT, 3, px // 2, px // 2), dtype=np.float32)
    return SplitLoader(
        Arrays([optical, radar]), np.arange(COUNT), labels, [unit(2), unit(3)], device, **settings
    )


def scaled(split: SplitLoader) -> SplitLoader:
    """Bring pixels near 1, as statistics of a store would."""
    for normalizer in split._normalizers:
        normalizer._slope *= 1e-3
    return split


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten().cpu() for p in model.parameters()])


def trained(device: torch.device, cache_bytes: int | None = None, **changes: Any) -> torch.Tensor:
    model = TinyNet(bands=5).to(device)
    split = scaled(make_split(device, cache_bytes=cache_bytes))
    settings = train_settings(lr=0.01, batch_size=16, epochs=2, jitter=0.1, **changes)
    train(model, split, settings, seed=1)
    return weights(model)


@pytest.mark.parametrize("optimizer", ["sgd", "sgd-nesterov", "adamw"])
def test_training_is_that_of_a_cpu(optimizer: str) -> None:
    on_cpu, on_gpu = (trained(device, optimizer=optimizer) for device in (CPU, GPU))
    moved = (on_cpu - weights(TinyNet(bands=5))).norm()
    # AdamW makes whole steps of the noise in a bias before batch normalization.
    assert (on_gpu - on_cpu).norm() < (0.2 if optimizer == "adamw" else 0.01) * moved


def test_mixed_precision_is_near_float32() -> None:
    assert half_type(GPU) in (torch.bfloat16, torch.float16)
    full, half = (trained(GPU, amp=amp) for amp in (False, True))
    assert (half - full).norm() < 0.2 * (full - weights(TinyNet(bands=5))).norm()


@pytest.mark.parametrize("stacked", [True, False])
def test_streamed_batches_arrive_whole_while_the_gpu_is_busy(stacked: bool) -> None:
    """A buffer that were used again too early would hold another batch's chips."""
    expected = make_split(CPU, px=64, stacked=stacked)
    streamed = make_split(GPU, px=64, stacked=stacked, cache_bytes=0)
    for seed in range(4):
        pairs = zip(expected.batches(8, seed), streamed.batches(8, seed), strict=True)
        for (chips, y), (on_gpu, labels) in pairs:
            torch.cuda._sleep(2_000_000)
            for x, other in zip(chips, on_gpu, strict=True):
                torch.testing.assert_close(other.cpu(), x, rtol=1e-5, atol=1e-5)
            assert torch.equal(labels.cpu(), y)


def test_small_tensors_are_sent_whole_while_the_gpu_is_busy() -> None:
    sent = []
    for number in range(200):
        torch.cuda._sleep(100_000)
        sent.append(send(torch.full((64,), number), GPU))
    assert [int(tensor.sum()) for tensor in sent] == [64 * number for number in range(200)]


def test_scores_are_those_of_a_cpu() -> None:
    on_cpu, on_gpu = (
        score_model(TinyNet(bands=5).to(device), scaled(make_split(device)), 3)
        for device in (CPU, GPU)
    )
    np.testing.assert_array_equal(on_gpu.confusion, on_cpu.confusion)
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=1e-4)


class Wide(nn.Module):
    """Keeps much of every chip for its backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(5, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(x).mean(dim=(2, 3)))


def test_the_estimate_is_near_what_training_takes() -> None:
    # As PyTorch has it by default: cuDNN's float32 kernels take much larger workspaces.
    torch.backends.cudnn.allow_tf32 = True
    model = Wide()
    memory = estimate_training(model, [(5, 128, 128)], 32, states=1)
    model.to(GPU)
    split = make_split(GPU, px=128, cache_bytes=0)
    settings = train_settings(batch_size=32, amp=False)
    train(model, split, settings, seed=0)
    torch.cuda.reset_peak_memory_stats()
    train(model, split, settings, seed=0)
    peak = torch.cuda.max_memory_allocated()
    assert 0.7 * peak < memory.weights + memory.step(32) < 1.5 * peak


def test_a_card_that_is_full_gets_smaller_micro_batches() -> None:
    total = torch.cuda.mem_get_info()[1]
    model, micro_batch = Wide().to(GPU), MicroBatch()
    split = make_split(GPU, px=128, cache_bytes=0)
    torch.cuda.empty_cache()
    try:
        share = (torch.cuda.memory_reserved() + 400e6) / total
        torch.cuda.set_per_process_memory_fraction(share)
        settings = train_settings(batch_size=COUNT, amp=False, lr=1e-4)
        report = train(model, split, settings, 0, micro_batch)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert report.samples == COUNT
    assert micro_batch.chips is not None
    assert micro_batch.chips < COUNT


def test_free_memory_is_bounded_by_the_share() -> None:
    total = torch.cuda.mem_get_info()[1]
    assert 0 < process_bytes(GPU, 0.25) <= 0.25 * total
    assert free_bytes(GPU) <= total


def test_a_round_ends_in_an_upload(tmp_path: Path) -> None:
    model = TinyNet(bands=5)
    split = scaled(make_split(GPU))
    site = Site(
        "oslo",
        model,
        train=split,
        test=split,
        num_classes=3,
        state_dir=tmp_path,
        initial=lambda: np.zeros(1, np.float32),  # not asked for: the whole model is received
    )
    received = site.parts.vector()
    task = RoundTask(
        origin=RunOrigin(7),
        round=1,
        train=train_settings(batch_size=16, amp=True),
        ratios=np.full(len(site.spec.layers), 0.3),
        budget_bytes=500,
    )
    result = site.work(task, ReceivedModel(0, fingerprint(received), whole=received))
    assert result.payload
    assert result.scores is not None
    assert result.scores.test.samples == COUNT
    assert not np.array_equal(site.parts.vector(), received)
