from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clients.model_parts import ModelParts
from fl_app.settings import Settings
from fl_app.strategy import _private_mean, _warm_up_rounds, check_budgets
from rsdgc import ModelSpec
from rsdgc.errors import SettingError
from strategies.running_statistics import GROUP
from strategies.sites import DataInfo, ModalityInfo, SiteInfo, SiteManager
from tests.federation import run, settings


@pytest.mark.parametrize(
    ("given", "rounds"),
    [
        ({"method": "dgc"}, 4),
        ({"method": "dgc", "local-epochs": 3}, 2),
        # 100 and 50 chips are 7 and 4 steps, 5.5 on average: four epochs are 22 rounds.
        ({"method": "dgc", "local-steps": 1, "batch-size": 16}, 22),
        ({"method": "rs-dgc-paper", "local-steps": 2, "batch-size": 16}, 11),
        ({"method": "rs-dgc-paper", "warm-up-rounds": 3}, 3),
        ({"method": "rs-dgc"}, 0),
        ({"method": "topk", "local-steps": 1}, 0),
    ],
)
def test_the_published_warm_up_is_four_epochs(given: dict[str, Any], rounds: int) -> None:
    modality = ModalityInfo("optical", ("red",), 16)
    sites = SiteManager(DataInfo("made up", True, ("a", "b"), (modality,)))
    for number, chips in enumerate((100, 50)):
        sites.sites[f"s{number}"] = SiteInfo(f"s{number}", number, chips, 0, ("optical",))
    assert _warm_up_rounds(Settings.from_mapping(given), sites) == rounds


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": 3}, "budget=3: a budget of 3 bytes .*: allow at least"),
        ({"budget-down": "4000x"}, "budget-down=4000x: .*: allow at least"),
        ({"budget-final": "5"}, "budget-final=5: .*: allow at least"),
    ],
)
def test_a_budget_that_is_too_small_is_named(changes: dict[str, Any], words: str) -> None:
    spec = ModelSpec.from_shapes({"conv": (8, 3, 3, 3), "head": (3, 8)})
    whole = dict.fromkeys(("budget", "budget-down", "budget-final"), "1x")
    check_budgets(Settings.from_mapping(whole), spec)
    with pytest.raises(SettingError, match=words):
        check_budgets(Settings.from_mapping(whole | changes), spec)


class WithGrid(nn.Module):
    """A small network beside a large constant, and a normalization of a kind."""

    def __init__(self, num_bands: int, num_classes: int, norm: type[nn.Module] | None) -> None:
        super().__init__()
        wide = {"num_features": 100 * num_bands, "affine": False, "track_running_stats": True}
        self.norm = nn.Identity() if norm is None else norm(**wide)
        self.head = nn.Sequential(nn.Linear(num_bands, 32), nn.Linear(32, num_classes))
        self.register_buffer("grid", torch.linspace(0, 1, 4096).view(64, 64))

    def forward(self, x: Tensor) -> Tensor:
        parts = self.norm(x.repeat(1, 100, 1, 1)).unflatten(1, (100, -1))
        logits: Tensor = self.head(parts.mean((1, 3, 4))) + self.grid.mean()
        return logits


def with_grid(num_bands: int, num_classes: int) -> nn.Module:
    return WithGrid(num_bands, num_classes, None)


def with_instance_norm(num_bands: int, num_classes: int) -> nn.Module:
    return WithGrid(num_bands, num_classes, nn.InstanceNorm2d)


def with_batch_norm(num_bands: int, num_classes: int) -> nn.Module:
    return WithGrid(num_bands, num_classes, nn.BatchNorm2d)


def own(builder: Callable[..., nn.Module], **changes: Any) -> dict[str, Any]:
    name = f"tests.fl_app.test_strategy:{builder.__name__}"
    budgets = dict.fromkeys(("budget", "budget_down", "budget_final"), "2000")
    return {"model": name, "rounds": 1, **budgets, **changes}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("builder", "text"),
    [
        (with_grid, ""),
        (with_batch_norm, "raise budget and budget-down, or set batch-norm to 'group' or 'local'"),
        (with_instance_norm, "raise budget and budget-down, or set batch-norm to 'local'"),
    ],
)
def test_a_constant_buffer_is_in_no_budget_and_in_no_dense_size(
    data: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    builder: Callable[..., nn.Module],
    text: str,
) -> None:
    run(settings(data, tmp_path / "run", **own(builder)))
    lines = map(json.loads, (tmp_path / "run" / "rounds.jsonl").read_text().splitlines())
    (sent,) = {line["up_by_group"].get(GROUP, 0) for line in lines if line["phase"] == "train"}
    found = re.findall(r"running statistics: (\d+) bytes of every upload", caplog.text)
    assert found == ([str(sent)] if sent else [])
    assert sent < 1300
    assert text in caplog.text
    assert ("running statistics take" in caplog.text) == bool(text)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["dense_bytes_up"] < 3 * 3500  # of three sites; the grid alone has 16 kB


@pytest.mark.parametrize(
    ("norm", "batch_norm", "words"),
    [
        (nn.BatchNorm2d, "average", r"'norm.running_mean'; set batch-norm=group"),
        (nn.BatchNorm2d, "local", r"'norm.weight'; set batch-norm=group"),
        (
            nn.InstanceNorm2d,
            "average",
            r"'norm.running_mean'; build the layer without them \(track",
        ),
        (nn.InstanceNorm2d, "group", r"'norm.running_mean'; build the layer without them \(track"),
        (nn.Identity, "group", r"'grid'; register it with persistent=False if it is a constant"),
    ],
)
def test_what_differential_privacy_does_not_cover_is_named_with_a_remedy_that_helps(
    tmp_path: Path, norm: type[nn.Module], batch_norm: str, words: str
) -> None:
    model = WithGrid(3, 4, None if norm is nn.Identity else norm)
    if norm is not nn.Identity:
        del model.grid
    if norm is nn.BatchNorm2d:
        model.norm = nn.BatchNorm2d(3)
    given = {"dp-noise-multiplier": 1.0, "dp-clip": 1.0, "normalization": "site"}
    chosen = Settings.from_mapping({**given, "batch-norm": batch_norm})
    with pytest.raises(SettingError, match=words):
        _private_mean(chosen, ModelParts(model, batch_norm), tmp_path)
