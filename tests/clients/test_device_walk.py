"""A round at a site on a CUDA device without a GPU (:mod:`tests.clients.fake_cuda`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clients.evaluation import score_model
from clients.loader import SplitLoader
from clients.site import Site
from clients.task import ReceivedModel, RoundTask, RunOrigin
from clients.training import train
from rsdgc.patches import fingerprint
from tests.clients.fake_cuda import GPU, fake_cuda
from tests.clients.toys import Arrays, TinyNet, train_settings, unit

OPTICAL = np.zeros((24, 2, 8, 8), np.uint16)
RADAR = np.zeros((24, 3, 4, 4), np.float32)
AUGMENTED = {"amp": True, "batch_size": 7, "jitter": 0.1, "band_dropout": 0.1, "crop": 0.5}


class Branches(nn.Module):
    """A branch for each modality; the mean of the branches that have chips is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleDict({"optical": nn.Conv2d(2, 6, 3), "radar": nn.Conv2d(3, 6, 3)})
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, *chips: torch.Tensor | None) -> torch.Tensor:
        features = [
            branch(x).relu().mean(dim=(2, 3))
            for branch, x in zip(self.branches.values(), chips, strict=True)
            if x is not None
        ]
        return self.head(self.norm(torch.stack(features).mean(dim=0)))


def partly_frozen() -> nn.Module:
    model = TinyNet()
    model.conv.requires_grad_(requires_grad=False)
    return model


def make_split(modalities: list[np.ndarray], **settings: Any) -> SplitLoader:
    labels = np.arange(24) % 3
    normalization = [unit(array.shape[1], nodata=0) for array in modalities]
    return SplitLoader(Arrays(modalities), np.arange(24), labels, normalization, GPU, **settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make_model", "modalities", "settings", "batch_norm"),
    [
        (partial(TinyNet, dropout=0.2), [OPTICAL], {}, "average"),
        (partial(TinyNet, bands=5), [OPTICAL, RADAR], {"cache_bytes": 0}, "average"),
        (partly_frozen, [OPTICAL], {}, "local"),
        (Branches, [OPTICAL, RADAR], {"stacked": False}, "average"),
        (Branches, [OPTICAL], {"stacked": False, "present": [True, False]}, "average"),
        (
            Branches,
            [OPTICAL],
            {"stacked": False, "present": [True, False], "cache_bytes": 0},
            "local-statistics",
        ),
    ],
    ids=["one modality", "stacked", "frozen", "fused", "one missing", "one missing, streamed"],
)
def test_a_round_stays_on_one_device(
    make_model: Callable[[], nn.Module],
    modalities: list[np.ndarray],
    settings: dict[str, Any],
    batch_norm: str,
    tmp_path: Path,
) -> None:
    model = make_model()
    with fake_cuda():
        split = make_split(modalities, **settings)
        assert (split.cached_bytes > 0) == ("cache_bytes" not in settings)
        site = Site(
            "oslo",
            model,
            train=split,
            test=split,
            num_classes=3,
            state_dir=tmp_path,
            initial=lambda: np.zeros(1, np.float32),
            batch_norm=batch_norm,
        )
        weights = np.zeros(site.spec.size, np.float32)
        for number in (1, 2):
            task = RoundTask(
                origin=RunOrigin(7),
                round=number,
                train=train_settings(**AUGMENTED, label_smoothing=0.1, proximal=0.1),
                ratios=np.full(len(site.spec.layers), 0.3),
                budget_bytes=500,
                momentum_correction=0.9,
            )
            result = site.work(task, ReceivedModel(0, fingerprint(weights), whole=weights))
            assert result.payload
        assert {tensor.device for tensor in model.state_dict().values()} == {GPU}


@pytest.mark.slow
@pytest.mark.parametrize("cache_bytes", [None, 0])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(("balanced", "has_bf16"), [(False, True), (True, False)])
def test_the_host_waits_as_often_for_one_step_as_for_many(
    cache_bytes: int | None, optimizer: str, balanced: bool, has_bf16: bool
) -> None:
    model = TinyNet(dropout=0.2)
    waits = []
    with fake_cuda(has_bf16=has_bf16) as device:
        model.to(GPU)
        split = make_split([OPTICAL], cache_bytes=cache_bytes)
        for steps in (1, 9):
            device.waits = 0
            settings = train_settings(
                **AUGMENTED,
                steps=steps,
                optimizer=optimizer,
                balanced_loss=balanced,
                balanced_batches=balanced,
            )
            train(model, split, settings, seed=1)
            waits.append(device.waits)
    assert waits[0] == waits[1] <= 4


@pytest.mark.parametrize("cache_bytes", [None, 0])
def test_scoring_waits_at_its_end(cache_bytes: int | None) -> None:
    model = TinyNet()
    with fake_cuda() as device:
        model.to(GPU)
        split = make_split([OPTICAL], cache_bytes=cache_bytes)
        device.waits = 0
        score_model(model, split, 3, batch_size=2)
    assert device.waits == 2  # for the confusion matrix, and for the loss


class Strays(TinyNet):
    """Adds something that is on the CPU."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) + torch.arange(3)


def test_a_mix_of_devices_is_found() -> None:
    model = Strays()
    with fake_cuda():
        model.to(GPU)
        split = make_split([OPTICAL])
        with pytest.raises(RuntimeError, match="two devices, cuda:0 and cpu"):
            score_model(model, split, 3)


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_mixed_precision_is_of_the_type_that_the_gpu_has(
    has_bf16: bool, dtype: torch.dtype
) -> None:
    seen = []
    model = TinyNet()
    model.conv.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    with fake_cuda(has_bf16=has_bf16):
        model.to(GPU)
        split = make_split([OPTICAL])
        train(model, split, train_settings(amp=True), seed=0)
        score_model(model, split, 3)
    assert seen == [dtype, torch.float32]
