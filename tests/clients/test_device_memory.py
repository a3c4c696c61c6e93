from __future__ import annotations

import logging
from pathlib import Path

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clients import device_memory
from clients.device_memory import (
    TrainingMemory,
    estimate_training,
    free_bytes,
    plan_memory,
    process_bytes,
)
from rsdgc.errors import SettingError
from tests.clients.toys import CPU, TinyNet

GPU = torch.device("cuda", 0)
GB = 10**9


def estimated(model: nn.Module, batch_size: int = 16, half: bool = False) -> TrainingMemory:
    return estimate_training(model, [(2, 32, 32)], batch_size, states=1, half=half)


def cpu_peak_bytes(model: nn.Module, chips: torch.Tensor) -> int:
    """Most memory that a forward and backward pass hold at once, gradients included."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        model(chips).square().mean().backward()
    events = profile.profiler.kineto_results.events()
    changes = [
        e.nbytes() for e in sorted(events, key=lambda e: e.start_ns()) if e.name() == "[memory]"
    ]
    held = peak = 0
    for change in changes:
        held += change
        peak = max(peak, held)
    return peak


def deep_network(norm: type[nn.Module]) -> nn.Module:
    layers: list[nn.Module] = []
    for bands, width in ((2, 24), (24, 24), (24, 32), (32, 32)):
        layers += [nn.Conv2d(bands, width, 3, padding=1), norm(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 256, 5))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, nn.Identity])
def test_a_trial_step_without_memory_predicts_that_of_a_real_one(norm: type[nn.Module]) -> None:
    model = deep_network(norm)
    chips = torch.randn(16, 2, 32, 32)
    memory = estimated(model)
    pixels = 3 * chips.nbytes
    expected = memory.gradients + 16 * memory.activations - pixels
    assert expected == pytest.approx(cpu_peak_bytes(model, chips), rel=0.25)


def test_the_estimate_changes_nothing() -> None:
    model = TinyNet().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    estimated(model)
    assert not model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.rand(2), expected)


def test_parameters_that_are_not_trained_need_no_gradients() -> None:
    model = deep_network(nn.Identity)
    whole = estimated(model)
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    part = estimated(model)
    assert part.weights == whole.weights
    assert part.gradients == whole.gradients - sum(p.nbytes for p in model[0].parameters())


def test_mixed_precision_keeps_half() -> None:
    model = deep_network(nn.BatchNorm2d)
    assert estimated(model, half=True).activations < 0.7 * estimated(model).activations


def test_a_model_without_a_trial_step_has_an_estimate_of_its_weights(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Reads(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * float(x.mean())

    with caplog.at_level(logging.WARNING):
        assert estimated(Reads()).weights == 0
    assert "no trial step" in caplog.text


@given(
    st.builds(
        TrainingMemory,
        weights=st.integers(0, GB),
        gradients=st.integers(0, GB),
        optimizer=st.integers(0, GB),
        activations=st.integers(0, GB // 10),
    ),
    st.integers(0, 80 * GB),
    st.integers(1, 256),
    st.integers(1, 16),
)
def test_what_is_planned_fits(
    memory: TrainingMemory, limit: int, batch_size: int, sites: int
) -> None:
    try:
        plan = plan_memory(memory, limit, batch_size, sites)
    except SettingError:
        assert memory.weights + memory.step(1) > 0.9 * limit - 1
        return
    kept = plan.sites * (memory.weights + plan.cache_bytes)
    assert kept + memory.step(plan.chips_at_once) <= limit
    assert 1 <= plan.sites <= sites
    assert 1 <= plan.chips_at_once <= batch_size


def test_vgg_19_on_a_quarter_of_a_card_of_24_gb() -> None:
    """The case that wanted 45 GB: four processes, each with the chips of 16 sites."""
    memory = TrainingMemory(GB * 56 // 100, GB * 56 // 100, GB * 56 // 100, 70 * 10**6)
    plan = plan_memory(memory, 6 * GB, 32, 16)
    assert plan.chips_at_once == 32
    assert 4 * (plan.sites * (memory.weights + plan.cache_bytes) + memory.step(32)) < 24 * GB


def test_what_cannot_fit_is_refused_in_one_line() -> None:
    with pytest.raises(SettingError, match=r"2\.10 GB .*may take 1\.80 GB: lower x, choose a"):
        plan_memory(TrainingMemory(GB // 2, GB // 2, GB, GB // 10), 2 * GB, 8, 4, "lower x, ")


def test_a_process_takes_its_share_and_no_more_than_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10 * GB, 24 * GB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 * GB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * GB)
    assert process_bytes(GPU, 0.25) == 6 * GB
    assert process_bytes(GPU) == 13 * GB  # the cache of PyTorch's allocator is free, too
    assert free_bytes(GPU) == 11 * GB


@pytest.mark.parametrize(
    ("limit", "used", "cache", "free"),
    [(7 * GB, 6 * GB, GB // 2, GB + GB // 2), (2 * GB, 2 * GB, 0, 0), (GB, 2 * GB, 0, 0)],
)
def test_what_a_container_has_taken_is_not_free(
    limit: int,
    used: int,
    cache: int,
    free: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = psutil.virtual_memory()._replace(available=100 * GB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: host)
    monkeypatch.setattr(device_memory, "CGROUP", tmp_path)
    assert free_bytes(CPU) == 100 * GB
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    (tmp_path / "memory.current").write_text(f"{used}\n")
    pages = {"anon": used - cache, "active_file": cache // 4, "inactive_file": cache - cache // 4}
    (tmp_path / "memory.stat").write_text("".join(f"{n} {count}\n" for n, count in pages.items()))
    assert free_bytes(CPU) == free
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(CPU) == 100 * GB
