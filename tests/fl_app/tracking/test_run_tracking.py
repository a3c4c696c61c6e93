"""Tracking goes on beside a run, and changes nothing in it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fl_app.runs.records import read_run
from fl_app.settings import Settings
from fl_app.tracking import run_tracking
from rsdgc.errors import SettingError
from tests.command import rsdgc
from tests.federation import run, settings

FAKES = "tests.fl_app.tracking.fake_trackers"


def recorded(out: Path, name: str) -> list[list[Any]]:
    path = out / "tracking" / f"{FAKES}.{name}" / "recorded.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def logged(told: list[list[Any]]) -> dict[int, dict[str, float]]:
    """Return the figures by round; the last value of a name counts."""
    rounds: dict[int, dict[str, float]] = {}
    for words in told:
        if words[0] == "log":
            rounds.setdefault(words[1], {}).update(words[2])
    return rounds


def times_logged(told: list[list[Any]]) -> Counter[tuple[int, str]]:
    """Return how often each figure of each round was logged."""
    return Counter((words[1], name) for words in told if words[0] == "log" for name in words[2])


@pytest.fixture(scope="module")
def untracked(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("untracked") / "run"
    run(settings(data, out, rounds=4, checkpoint_every=2))
    return out


def test_a_tracked_run_has_the_same_result(data: Path, untracked: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(settings(data, out, rounds=4, checkpoint_every=2, tracking=f"{FAKES}:Recorder"))
    name = "model.safetensors"
    assert (out / name).read_bytes() == (untracked / name).read_bytes()
    told = recorded(out, "Recorder")
    assert told[0][:3] == ["open", "", 0]
    assert told[0][3]["rounds"] == 4
    rounds = logged(told)
    assert sorted(rounds) == [0, 1, 2, 3, 4]
    summary = read_run(out).summary
    assert rounds[4]["score/accuracy"] == pytest.approx(summary.accuracy, abs=1e-6)
    assert sum(figures["bytes/up"] for figures in rounds.values()) == summary.bytes_up
    assert rounds[2]["compression/total"] > 5
    assert rounds[2]["time/seconds"] > 0
    for site in ("site-00", "site-01", "site-02"):
        assert {f"site_{what}/{site}" for what in ("accuracy", "bytes_up", "seconds")} <= set(
            rounds[3]
        )
        assert f"site_accuracy/{site}" in rounds[0]  # of the model before training
    assert told[-1][0] == "finish"
    assert told[-1][2] is True
    assert told[-1][1]["final/compression_total"] == summary.compression_total


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "reason"), [("NoStart", "ConnectionError: no server"), ("NoLog", "disk full")]
)
def test_a_tracker_that_fails_costs_one_warning(
    data: Path,
    untracked: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    reason: str,
) -> None:
    out, path = tmp_path / "run", f"{FAKES}:{name}"
    run(settings(data, out, rounds=4, checkpoint_every=2, tracking=f"{path},{FAKES}:Recorder"))
    warnings = [each.getMessage() for each in caplog.records if "tracking=" in each.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith(f"tracking={path} has failed (")
    assert reason in warnings[0]
    assert "\n" not in warnings[0]
    assert sorted(logged(recorded(out, "Recorder"))) == [0, 1, 2, 3, 4]
    model = "model.safetensors"
    assert (out / model).read_bytes() == (untracked / model).read_bytes()


def test_a_tracker_that_hangs_is_given_up(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_tracking, "CLOSE_TIMEOUT_S", 0.2)
    run(settings(data, tmp_path / "run", rounds=1, tracking=f"{FAKES}:Hangs"))
    assert "has not finished within 0.2 s; the run goes on without it" in caplog.text
    assert (tmp_path / "run" / "summary.json").exists()


class Stopped(Exception):  # noqa: N818
    pass


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_same_tracked_run(
    data: Path, untracked: Path, tmp_path: Path
) -> None:
    """It ends in round 4, after the checkpoint of round 2, and is resumed with one more tracker."""
    out = tmp_path / "run"
    first = settings(data, out, rounds=4, checkpoint_every=2, tracking=f"{FAKES}:Recorder")

    def stop(message: Any, reply: Any) -> Any:
        if message.content.config_records.get("task", {}).get("round") == 4:
            raise Stopped
        return reply

    with pytest.raises(Stopped):
        run(first, fault=stop)
    before = recorded(out, "Recorder")
    assert before[-1] == ["finish", {}, False]
    assert max(logged(before)) == 2  # round 3 has no scores yet
    both = f"{FAKES}:Recorder,{FAKES}:NoLog"
    run(first.model_copy(update={"resume": True, "tracking": both}), run_id=8)
    told = recorded(out, "Recorder")
    opened = [words[:3] for words in told if words[0] == "open"]
    assert opened == [["open", "", 0], ["open", "the first", 3]]
    assert set(times_logged(told).values()) == {1}
    rounds = logged(told)
    history = read_run(out).history
    assert [rounds[line.round]["score/accuracy"] for line in history] == [
        line.accuracy for line in history
    ]
    # The new one is told of what was before it.
    assert recorded(out, "NoLog")[0][:3] == ["open", "", 0]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("tensorbord", "is not a tracker: choose none, tensorboard, mlflow, wandb"),
        ("mlflow,none", "'none' is not a tracker"),
        ("mlflow, mlflow", "named twice"),
        ("", "is not a tracker"),
    ],
)
def test_wrong_names_are_refused(text: str, part: str) -> None:
    with pytest.raises(SettingError, match=part):
        Settings.from_mapping({"tracking": text})


def test_several_names_are_kept_in_order() -> None:
    chosen = Settings.from_mapping({"tracking": "wandb, tensorboard"})
    assert chosen.tracking == "wandb,tensorboard"
    assert chosen.trackers == ("wandb", "tensorboard")
    assert Settings().trackers == ()


def test_a_missing_package_is_one_line_before_the_run_starts(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fl_app.tracking.find_spec", lambda _: None)
    words = ["simulate", "--data", data, "--out", tmp_path / "run", "tracking=mlflow"]
    assert rsdgc(monkeypatch, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: tracking=mlflow needs the package mlflow, which is not")
    assert 'pip install "rsdgc[mlflow]"' in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
