"""The adapters with the real programs, whose files are read back."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fl_app.runs.records import read_run
from fl_app.tracking import TRACKERS
from fl_app.tracking.tracker import TrackedRun
from rsdgc.registry import Registry
from tests.federation import run, settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of these programs' own dependencies
]
SITES = ("site-00", "site-01", "site-02")


def program(name: str) -> ModuleType:
    return pytest.importorskip(name, reason=f"{name} is not installed: pip install rsdgc[{name}]")


def adapter(name: str) -> Any:
    return Registry("tracker")[TRACKERS[name]]


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    """Return a function that opens a tracker of a small run, new or resumed."""

    def open_tracker(name: str, identity: str = "", first_round: int = 0) -> Any:
        folder = tmp_path / "demo" / "tracking" / name
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"rounds": 4, "method": "rs-dgc", "amp": True}
        return adapter(name)(TrackedRun("demo", folder, facts, identity, first_round))

    return open_tracker


def events(folder: Path) -> Any:
    name = "tensorboard.backend.event_processing.event_accumulator"
    read = importlib.import_module(name).EventAccumulator(str(folder))
    read.Reload()
    return read


def test_tensorboard_has_the_run_that_the_ledger_has(data: Path, tmp_path: Path) -> None:
    program("tensorboard")
    out = tmp_path / "run"
    run(settings(data, out, rounds=3, tracking="tensorboard"))
    read = events(out / "tracking" / "tensorboard")
    history = read_run(out).history
    accuracy = [(event.step, event.value) for event in read.Scalars("score/accuracy")]
    assert accuracy == [(line.round, pytest.approx(line.accuracy)) for line in history]
    sent = [event.value for event in read.Scalars("bytes/up")]
    assert sent == [line.bytes_up for line in history]
    names = set(read.Tags()["scalars"])
    for site in SITES:
        assert {f"site_train_loss/{site}", f"site_bytes_up/{site}"} <= names
    assert {"compression/total", "time/seconds", "final/accuracy"} <= names


def test_tensorboard_replaces_rounds_that_are_run_again(opened: Any, tmp_path: Path) -> None:
    program("tensorboard")
    first = opened("tensorboard")
    for number in range(4):
        first.log(number, {"score/loss": float(number)})
    first.finish({}, complete=False)
    again = opened("tensorboard", first.identity, 2)
    for number in (2, 3, 4):
        again.log(number, {"score/loss": 10.0 + number})
    again.finish({"final/loss": 1.0}, complete=True)
    scalars = events(tmp_path / "demo" / "tracking" / "tensorboard").Scalars("score/loss")
    assert [(event.step, event.value) for event in scalars] == [
        *((0, 0.0), (1, 1.0), (2, 12.0), (3, 13.0), (4, 14.0)),
    ]


def test_mlflow_goes_on_with_the_same_run(
    opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = program("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first = opened("mlflow")
    for number in range(3):
        first.log(number, {"score/loss": 3.0 - number, "site_accuracy/øst [1]": 0.5})
    first.finish({}, complete=False)
    again = opened("mlflow", first.identity, 2)
    again.log(3, {"score/loss": 0.25} | {f"layer_share/{n}": 0.1 for n in range(1500)})
    again.finish({"final/accuracy": 0.9}, complete=True)
    address = f"sqlite:///{tmp_path / 'demo/tracking/mlflow/mlflow.db'}"
    client = mlflow.tracking.MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("rsdgc")
    (only,) = client.search_runs([experiment.experiment_id])
    assert (only.info.run_name, only.info.status) == ("demo", "FINISHED")
    assert only.data.params["method"] == "rs-dgc"
    assert only.data.metrics["final/accuracy"] == 0.9
    history = client.get_metric_history(only.info.run_id, "score/loss")
    assert [(each.step, each.value) for each in history] == [(0, 3), (1, 2), (2, 1), (3, 0.25)]
    assert "layer_share/1499" in only.data.metrics


def test_wandb_works_offline_and_goes_on_with_the_same_run(
    opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("wandb")
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    first = opened("wandb")
    first.log(1, {"score/loss": 3.5, "site_accuracy/oslo": 0.5})
    first.finish({}, complete=False)
    again = opened("wandb", first.identity, 1)
    assert again.identity == first.identity
    again.log(2, {"score/loss": 2.5})
    again.finish({"final/accuracy": 0.9}, complete=True)
    files = sorted((tmp_path / "demo" / "tracking" / "wandb").rglob("*.wandb"))
    assert [file.name for file in files] == [f"run-{first.identity}.wandb"] * 2
    assert b"site_accuracy/oslo" in files[0].read_bytes()
    assert b"final/accuracy" in files[1].read_bytes()
