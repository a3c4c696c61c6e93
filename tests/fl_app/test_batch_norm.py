"""Networks with batch normalization, through whole runs of the app."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fl_app import client_app
from strategies.running_statistics import GROUP
from tests.federation import run, settings
from tests.fl_app.test_resume import CHOSEN, assert_equal_runs, kill_a_run

pytestmark = pytest.mark.slow

BATCH_NORMS = ("average", "local-statistics", "local")
MODEL = "tests.fl_app.batch_norm_network:build"
# Element top-k is the strategy of rs-dgc with other neighborhoods, which have no say in statistics.
WAYS = [
    *((method, kept) for method in ("rs-dgc", "fedavg") for kept in BATCH_NORMS),
    ("topk", "average"),
]
WHOLE = {"budget": "1x", "budget_down": "1x", "budget_final": "1x"}


def start_run(data: Path, folder: Path, **changes: Any) -> Path:
    client_app.opened_sites.clear()
    run(settings(data, folder, **{"model": MODEL, **changes}))
    return folder


def statistics(folder: Path) -> dict[str, np.ndarray]:
    return {n: a for n, a in load_file(folder / "model.safetensors").items() if "running_" in n}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("method", "batch_norm"), WAYS)
def test_the_model_that_is_delivered_has_the_statistics_of_the_sites(
    data: Path, tmp_path: Path, method: str, batch_norm: str
) -> None:
    budgets = {"budget": "5x", "budget_down": "5x"}  # of 20 kB
    chosen = {"method": method, "batch_norm": batch_norm, **budgets}
    folder = start_run(data, tmp_path / "run", **chosen)
    for name, array in statistics(folder).items():
        untouched = 1.0 if name.endswith("_var") else 0.0
        assert (array != untouched).all()
        assert (array > 0).all() or name.endswith("_mean")
    for line in lines(folder):
        average, train = batch_norm == "average", line["phase"] == "train"
        assert (GROUP in line["up_by_group"]) == (average and train)
        # Sites build the statistics of the first round themselves.
        assert (GROUP in line["down_by_group"]) == (average and (line["round"] > 1 or not train))
    assert not any(name.endswith("batches_tracked") for name in statistics(folder))


def test_compressed_or_not_the_mean_of_the_statistics_is_the_same(
    data: Path, tmp_path: Path
) -> None:
    """After one round, which starts from the same model; momentum changes nothing of them."""
    dense = start_run(data, tmp_path / "dense", rounds=1, method="fedavg")
    tight = start_run(data, tmp_path / "tight", rounds=1, budget="20x", budget_down="20x")
    quick = start_run(data, tmp_path / "quick", rounds=1, method="fedavg", server_momentum=0.9)
    assert statistics(dense).keys() == statistics(tight).keys()
    for name, array in statistics(dense).items():
        np.testing.assert_array_equal(statistics(tight)[name], array)
        np.testing.assert_array_equal(statistics(quick)[name], array)


def test_without_compression_a_run_trains_as_fedavg_does(data: Path, tmp_path: Path) -> None:
    dense = start_run(data, tmp_path / "dense", method="fedavg")
    whole = start_run(data, tmp_path / "whole", **WHOLE)
    expected = load_file(dense / "model.safetensors")
    for name, array in load_file(whole / "model.safetensors").items():
        np.testing.assert_allclose(array, expected[name], atol=2e-3)


@pytest.mark.parametrize(
    ("method", "batch_norm"), [("rs-dgc", "average"), ("rs-dgc", "local"), ("fedavg", "average")]
)
def test_a_killed_run_ends_as_one_that_was_not_killed(
    data: Path, tmp_path: Path, batch_norm: str, method: str
) -> None:
    chosen = {**CHOSEN, "model": MODEL, "batch_norm": batch_norm, "method": method}
    start_run(data, tmp_path / "whole", **chosen)
    kill_a_run(settings(data, tmp_path / "run", **chosen), "sync")
    client_app.opened_sites.clear()
    run(settings(data, tmp_path / "run", **chosen, resume=True), run_id=8)
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")


def test_local_entries_differ_from_site_to_site(data: Path, tmp_path: Path) -> None:
    folder = start_run(data, tmp_path / "run", batch_norm="local")
    states = [load_file(path) for path in sorted((folder / "state").rglob("local-*.bin"))]
    assert len(states) == 3
    assert set(states[0]) >= {"1.weight", "1.bias", "1.running_mean", "1.running_var"}
    delivered = load_file(folder / "model.safetensors")
    for name in states[0]:
        values = np.array([state[name] for state in states])
        assert (values.std(axis=0) > 0).any()
        # The sites have equal numbers of chips; float16 on the way.
        np.testing.assert_allclose(delivered[name], values.mean(axis=0), rtol=1e-2, atol=1e-2)


def test_group_normalization_sends_no_statistics(data: Path, tmp_path: Path) -> None:
    folder = start_run(data, tmp_path / "run", batch_norm="group")
    assert not statistics(folder)
    assert not any(GROUP in line["up_by_group"] for line in lines(folder))


def test_statistics_count_in_the_budget(data: Path, tmp_path: Path) -> None:
    folder = start_run(data, tmp_path / "run", rounds=6, budget="5000", budget_down="5000")
    trained = [line for line in lines(folder) if line["phase"] == "train"]
    assert all(line["bytes_up"] < 5600 for line in trained)
    assert np.mean([line["bytes_up"] for line in trained if line["round"] > 2]) < 5200
    assert np.mean([line["bytes_down"] for line in trained if line["round"] > 2]) < 5300
