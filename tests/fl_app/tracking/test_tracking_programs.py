"""The adapters with the real programs, whose files are read back."""

from __future__ import annotations

import importlib
import time
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


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Need the program, with nothing set for it."""
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    program("wandb")


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


@pytest.mark.usefixtures("wandb")
def test_wandb_works_offline_and_goes_on_with_the_same_run(opened: Any, tmp_path: Path) -> None:
    first = opened("wandb")
    first.log(1, {"score/loss": 3.5, "site_accuracy/oslo": 0.5})
    first.finish({}, complete=False)
    again = opened("wandb", first.identity, 1)
    assert again.identity == first.identity
    again.log(2, {"score/loss": 2.5})
    again.finish({"final/accuracy": 0.9}, complete=True)
    files = sorted((tmp_path / "demo" / "tracking" / "wandb").rglob("*.wandb"))
    assert [file.name for file in files] == [f"run-{first.identity}.wandb"] * 2
    assert b"site_accuracy/oslo" in written(files[0])
    assert b"final/accuracy" in written(files[1])


def stop_and_resume(data: Path, out: Path, tracking: str) -> None:
    """Run four rounds that stop in the last one, after the checkpoint of the second; resume."""

    def stop(message: Any, reply: Any) -> Any:
        if message.content.config_records.get("task", {}).get("round") == 4:
            raise InterruptedError
        return reply

    first = settings(data, out, rounds=4, checkpoint_every=2, tracking=tracking)
    with pytest.raises(InterruptedError):
        run(first, fault=stop)
    run(first.model_copy(update={"resume": True}), run_id=8)


def test_mlflow_has_every_round_of_a_resumed_run_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = program("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = tmp_path / "a run's folder"
    stop_and_resume(data, out, "mlflow")
    address = f"sqlite:///{out / 'tracking/mlflow/mlflow.db'}"
    client = mlflow.tracking.MlflowClient(tracking_uri=address)
    (only,) = client.search_runs([client.get_experiment_by_name("rsdgc").experiment_id])
    assert only.info.status == "FINISHED"
    for name in ("score/accuracy", "bytes/up", "time/seconds"):
        history = client.get_metric_history(only.info.run_id, name)
        assert [each.step for each in history] == [0, 1, 2, 3, 4], name
    for site in SITES:
        history = client.get_metric_history(only.info.run_id, f"site_train_loss/{site}")
        assert [each.step for each in history] == [1, 2, 3, 4]
    accuracy = client.get_metric_history(only.info.run_id, "score/accuracy")
    assert [each.value for each in accuracy] == [line.accuracy for line in read_run(out).history]


@pytest.mark.usefixtures("wandb")
def test_wandb_has_every_round_of_a_resumed_run_once(data: Path, tmp_path: Path) -> None:
    stop_and_resume(data, tmp_path / "run", "wandb")
    files = sorted((tmp_path / "run" / "tracking" / "wandb").rglob("*.wandb"))
    assert len(files) == 2  # before the stop and after it
    rounds = [number for file in files for number in wandb_rounds(file)]
    assert sorted(rounds) == [0, 1, 2, 3, 4]


def written(path: Path) -> bytes:
    """Return an offline run; wandb's own process closes it a moment after ``finish`` returns."""
    for _ in range(100):
        content = path.read_bytes()
        time.sleep(0.1)
        if len(content) > 1000 and path.read_bytes() == content:
            break
    return content


def wandb_rounds(path: Path) -> list[int]:
    """Return the rounds of the rows that an offline run has."""
    records = importlib.import_module("wandb.proto.wandb_internal_pb2")
    rows = [records.Record.FromString(content).history for content in leveldb_records(path)]
    items = [item for row in rows for item in row.item]
    return [int(item.value_json) for item in items if "round" in (item.key, *item.nested_key)]


def leveldb_records(path: Path) -> list[bytes]:
    """Read a log in LevelDB's format: blocks of 32 kB with pieces of records."""
    content, position, parts, read = written(path), 7, b"", []
    while position + 7 <= len(content):
        left = 2**15 - position % 2**15
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), position + 6
        parts += content[position + 7 : position + 7 + length]
        if content[kind] in (1, 4):  # a whole record, or its last piece
            read.append(parts)
            parts = b""
        position += 7 + length
    return read
