"""Settings that change nothing beside the others are named, and only those."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from clients.model_parts import ModelParts
from fl_app.idle_settings import idle_settings, idle_with_the_model, idle_with_the_sites
from fl_app.methods import METHODS
from fl_app.models.group_norm import replace_batch_norm
from fl_app.settings import Settings
from rsdgc.errors import RunError
from strategies.sites import DataInfo, ModalityInfo, SiteInfo, SiteManager
from tests.federation import make_data, run, settings

DENSE_BYTES = 400_000


def lines(**given: Any) -> list[str]:
    chosen = {key.replace("_", "-"): value for key, value in given.items()}
    return list(idle_settings(Settings.from_mapping(chosen), DENSE_BYTES))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"method": "fedavg", "budget": "50x"},
            "budget=50x does nothing with method=fedavg, which",
        ),
        (
            {"method": "fedavg", "values": "int8", "step_ahead": 2},
            "values=int8, step-ahead=2.0 do nothing with method=fedavg, which sends the whole "
            "model: leave them out, or choose another method",
        ),
        ({"method": "int8", "budget": "50x"}, "budget=50x does nothing where every layer is sent"),
        ({"method": "int8", "indices": "int32", "tile_px": 2}, "tile-px=2, indices=int32 do nothi"),
        ({"ratio_policy": "whole", "budget_down": "9x"}, "budget-down=9x does nothing where every"),
        ({"method": "topk", "top_share": 0.2}, "top-share=0.2 does nothing with ratio-policy=unif"),
        (
            {"dense_share": 0.2},
            "dense-share=0.2 does nothing with values in levels: leave it out, or",
        ),
        (
            {"dense_values": "int8"},
            "dense-values=int8 does nothing with values in levels, unless a",
        ),
        (
            {"warm_up_rounds": 3, "budget": "3x"},
            "warm-up-rounds=3 does nothing with a budget of a quarter of the model",
        ),
        ({"warm_up_rounds": 3, "rounds": 1}, "warm-up-rounds=3 does nothing in a run of one round"),
        ({"method": "topk", "tile_px": 5}, "tile-px=5 does nothing with neighborhood=element"),
        (
            {"neighborhood": "element", "nsi_std_weight": 1},
            "nsi-std-weight=1.0 does nothing with n",
        ),
        (
            {"indicator": "l1", "nsi_mean_weight": 0.1},
            "nsi-mean-weight=0.1 does nothing with indic",
        ),
        ({"dp_clip": 0.5}, "dp-clip=0.5 does nothing without noise: leave it out, or set dp-noise"),
        ({"dp_delta": 0.1}, "dp-delta=0.1 does nothing without noise"),
        (
            {"dp_noise_multiplier": 1, "clip_updates": 2},
            "clip-updates=2.0 does nothing with differ",
        ),
        (
            {"dp_noise_multiplier": 1, "max_site_chips": "a=5"},
            "max-site-chips=a=5 does nothing wit",
        ),
        ({"clip_norm": 0, "clip_scale": "sites"}, "clip-scale=sites does nothing with clip-norm=0"),
        (
            {"checkpoint_every": 0, "checkpoint_keep": 5},
            "checkpoint-keep=5 does nothing with check",
        ),
        ({"local_steps": 5, "local_epochs": 2}, "local-epochs=2 does nothing with local-steps=5"),
        ({"device": "cpu", "sites_per_gpu": 2}, "sites-per-gpu=2 does nothing with device=cpu"),
    ],
)
def test_a_setting_that_does_nothing_is_named_in_one_line(given: dict[str, Any], says: str) -> None:
    (text,) = lines(**given)
    assert text.startswith(says)
    assert "leave" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "given",
    [
        *({"method": name} for name in METHODS),
        {"method": "fedavg", "budget": "1x", "transform": "none", "step_ahead": 0},
        {"method": "topk", "dense_share": 0.3, "dense_values": "int8", "budget": "30x"},
        {"dense_values": "int8", "budget_down": "1x"},
        {"method": "rs-dgc-paper", "top_share": 0.3, "tile_px": 4, "nsi_mean_weight": 0.5},
        {"warm_up_rounds": 3},
        {"warm_up_rounds": 0, "rounds": 1},
        {"indicator": "my.module:Indicator", "nsi_mean_weight": 0.1},
        {"dp_noise_multiplier": 1, "dp_clip": 2, "clip_updates": 0, "max_site_share": 1},
        {"method": "dgc", "clip_norm": 0},
        {"local_steps": 5},
    ],
)
def test_a_setting_that_does_something_is_not_named(given: dict[str, Any]) -> None:
    assert not lines(**given)


def manager(count: int) -> SiteManager:
    modality = ModalityInfo("optical", ("red",), 8)
    sites = [SiteInfo(f"s{i}", i, 10, 2, ("optical",)) for i in range(count)]
    found = SiteManager(DataInfo("squares", False, ("a", "b"), (modality,)))
    found.sites.update((site.name, site) for site in sites)
    return found


@pytest.mark.parametrize(
    ("given", "count", "says"),
    [
        (
            {"quorum": 3},
            2,
            "quorum=3 is more than the 2 sites that train in a round (fraction=1): ",
        ),
        ({"quorum": 3, "fraction": 0.5}, 4, "quorum=3 is more than the 2 sites that train in a r"),
        ({"quorum": 2, "fraction": 0.5}, 4, ""),
        ({"aggregation": "trimmed-mean"}, 4, "aggregation=trimmed-mean does nothing with the 4 si"),
        ({"aggregation": "trimmed-mean", "fraction": 0.3}, 9, "aggregation=trimmed-mean does noth"),
        ({"aggregation": "trimmed-mean"}, 5, ""),
        ({"aggregation": "sign-agreement"}, 2, "aggregation=sign-agreement does nothing with the "),
        ({"aggregation": "sign-agreement"}, 3, ""),
        ({"max-site-chips": "s0=5,oslo=9"}, 2, "max-site-chips does nothing for oslo, unless a s"),
        ({"max-site-chips": "s0=5,s1=9"}, 2, ""),
    ],
)
def test_what_does_nothing_with_the_sites_is_named(
    given: dict[str, Any], count: int, says: str
) -> None:
    texts = list(idle_with_the_sites(Settings.from_mapping(given), manager(count)))
    assert len(texts) == bool(says)
    assert "".join(texts).startswith(says)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"), sites=2)


def outcome(data: Path, folder: Path, **given: Any) -> tuple[bytes, int, int]:
    run(settings(data, folder, rounds=2, evaluate_every=2, **given), nodes=2)
    summary = json.loads((folder / "summary.json").read_text())
    model = (folder / "model.safetensors").read_bytes()
    return model, summary["bytes_up"], summary["bytes_down"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("rs-dgc", {"dense_values": "int8", "dense_share": 0.6, "max_site_chips": "oslo=1"}),
        ("topk", {"tile_px": 5, "top_share": 0.3, "nsi_mean_weight": 0.1}),
        ("int8", {"budget": "40x", "indices": "int32", "indicator": "rms", "values": "float32"}),
        ("fedavg", {"budget": "40x", "values": "int8", "ratio_policy": "uniform"}),
    ],
)
def test_what_is_named_changes_neither_the_model_nor_the_bytes(
    data: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    method: str,
    given: dict[str, Any],
) -> None:
    plain = outcome(data, tmp_path / "plain", method=method)
    caplog.clear()
    assert outcome(data, tmp_path / "given", method=method, **given) == plain
    assert caplog.text.count("nothing") >= 1


@pytest.mark.slow
def test_a_run_that_never_reaches_its_quorum_says_what_to_change(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = settings(data, tmp_path / "run", rounds=1, quorum=3, round_timeout_s=1)
    with pytest.raises(
        RunError, match=r"quorum of 3: no upload was refused.*: lower quorum, raise"
    ):
        run(chosen, nodes=2)
    assert "quorum=3 is more than the 2 sites that train in a round" in caplog.text


@pytest.mark.parametrize("batch_norm", ["local", "local-statistics"])
def test_batch_norm_that_does_nothing_is_named(batch_norm: str) -> None:
    def texts(model: nn.Module) -> list[str]:
        chosen = Settings.from_mapping({"batch-norm": batch_norm, "model": "small-cnn"})
        return list(idle_with_the_model(chosen, ModelParts(model, batch_norm), [(3, 8, 8)]))

    head = nn.Linear(3, 2)
    frozen = nn.BatchNorm2d(3).requires_grad_(requires_grad=False)
    for model in (nn.Sequential(head), nn.Sequential(frozen, head)):
        (text,) = texts(model)
        assert text.startswith(
            f"batch-norm={batch_norm} does nothing: model small-cnn has no batch"
        )
    assert not texts(nn.Sequential(nn.BatchNorm2d(3), head))
    untracked = texts(nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), head))
    assert len(untracked) == (batch_norm == "local-statistics")


@pytest.mark.parametrize(
    ("given", "inputs", "says"),
    [
        ({"batch-norm": "group"}, [(3, 8, 8)], "batch-norm=group does nothing: model"),
        ({"band-dropout": 0.2}, [(1, 8, 8)], "band-dropout=0.2 does nothing with one band"),
        ({"band-dropout": 0.2}, [(1, 8, 8), (2, 8, 8)], ""),
        ({"modality-dropout": 0.2}, [(3, 8, 8)], "modality-dropout=0.2 does nothing with one"),
        ({"modality-dropout": 0.2}, [(3, 8, 8), (1, 8, 8)], ""),
    ],
)
def test_what_does_nothing_with_a_model_is_named(
    given: dict[str, Any], inputs: list[tuple[int, int, int]], says: str
) -> None:
    chosen = Settings.from_mapping(given)
    # A network's own group normalization is not in place of anything.
    model = nn.Sequential(nn.GroupNorm(1, 3), nn.Linear(3, 2))
    texts = list(idle_with_the_model(chosen, ModelParts(model), inputs))
    assert bool(says) == len(texts)
    assert "".join(texts).startswith(says)
    replaced = replace_batch_norm(nn.Sequential(nn.BatchNorm2d(3), nn.Linear(3, 2)))
    group = Settings.from_mapping({"batch-norm": "group"})
    assert not list(idle_with_the_model(group, ModelParts(replaced, "group"), inputs))


@pytest.mark.slow
def test_the_run_logs_that_batch_norm_does_nothing(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(settings(data, tmp_path / "run", rounds=1, method="fedavg", batch_norm="local"))
    assert "batch-norm=local does nothing: model small-cnn has no batch" in caplog.text
