"""Killed at any step of writing a checkpoint, a run resumes and ends as one that was not killed."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

import strategies.checkpoints
from data_prep.partition import partition
from fl_app import client_app, simulation
from fl_app.runs.inputs import RunInputs
from fl_app.runs.resumption import check_resumable, read_settings
from fl_app.settings import Settings
from rsdgc.errors import RunError, SettingError
from strategies import messages
from strategies.checkpoints import Checkpoint, Checkpoints
from tests.federation import grid, run, serve, settings
from tests.killed_process import run_until_killed
from tests.loopback import LoopbackGrid

CHOSEN: dict[str, Any] = {
    "rounds": 5,
    "checkpoint_every": 1,
    "fraction": 0.67,
    "budget": "20x",
    "budget_down": "10x",
}
STEPS = ("begin", "half", "sync", "rename", "sync folder", "delete", "after")
KILLED_AT = 4  # two are before it, so that writing it deletes one


def lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines without the wall clock."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if "seconds" not in key and key != "time"}
        for line in found
    ]


def assert_equal_runs(one: Path, two: Path) -> None:
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    for name in ("rounds.jsonl", "history.jsonl"):
        assert lines(one / name) == lines(two / name)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, two)]
    assert {**summaries[0], "seconds": 0} == {**summaries[1], "seconds": 0}
    for state in (one / "state").rglob("*"):
        if state.suffix == ".f32" and not state.name.startswith("spare"):
            (run_folder,) = (two / "state").iterdir()
            twin = run_folder / state.parent.name
            contents = [p.read_bytes() for p in twin.glob(state.name.partition("-")[0] + "-*")]
            assert state.read_bytes() in contents


def die(*arguments: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(step: str) -> None:
    """Let a step of writing a checkpoint be this process's last."""
    fsync, write = os.fsync, strategies.checkpoints.save_file
    synced = []

    def sync(descriptor: int) -> None:
        synced.append(descriptor)
        if (step, len(synced)) in (("sync", 1), ("sync folder", 2)):
            die()
        fsync(descriptor)

    def half(arrays: Any, path: Path, metadata: Any) -> None:
        write(arrays, path, metadata)
        os.truncate(path, path.stat().st_size // 2)
        die()

    os.fsync = sync
    if step == "begin":
        die()
    elif step == "half":
        strategies.checkpoints.save_file = half
    elif step == "rename":
        os.replace = die
    elif step == "delete":
        Path.unlink = die


def die_at(step: str, at_round: int, chosen: Any, run_id: int) -> None:
    """Run in this process, which dies by SIGKILL at a step of writing a checkpoint."""
    inner = Checkpoints.save

    def save(self: Checkpoints, checkpoint: Checkpoint) -> None:
        if checkpoint.round == at_round:
            arm(step)
        inner(self, checkpoint)
        if checkpoint.round == at_round and step == "after":
            die()

    Checkpoints.save = save
    run(chosen, run_id=run_id)


def kill_a_run(chosen: Any, step: str, at_round: int = KILLED_AT, run_id: int = 7) -> None:
    run_until_killed(die_at, step, at_round, chosen, run_id)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(settings(data, folder, **CHOSEN))
    return folder


def resume(data: Path, folder: Path, run_id: int = 8, **changes: Any) -> LoopbackGrid:
    client_app.opened_sites.clear()  # the sites' processes have gone, too
    chosen = {**CHOSEN, "resume": True, **changes}
    return run(settings(data, folder, **chosen), run_id=run_id)


ORDERS = range(len(STEPS)) if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else (0, 3)
MANY = {**CHOSEN, "rounds": KILLED_AT + len(STEPS)}


@pytest.fixture(scope="module")
def long(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long") / "run"
    run(settings(data, folder, **MANY))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("first", ORDERS)
def test_a_run_killed_at_every_step_one_after_the_other_ends_the_same(
    data: Path, tmp_path: Path, long: Path, first: int
) -> None:
    """Seven deaths of one run; each step comes at another round in each of the orders.

    A death that left anything else than the run had before would show in all that comes after it.
    """
    folder = tmp_path / "run"
    for number, step in enumerate(STEPS[first:] + STEPS[:first]):
        chosen = settings(data, folder, **MANY, resume=number > 0)
        kill_a_run(chosen, step, KILLED_AT + number, run_id=7 + number)
    resume(data, folder, run_id=7 + len(STEPS), **MANY)
    assert_equal_runs(long, folder)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["topk", "fedavg"])
def test_other_methods_resume_too_with_their_velocity(
    data: Path, tmp_path: Path, method: str
) -> None:
    chosen = {**CHOSEN, "method": method, "server_momentum": 0.5}
    run(settings(data, tmp_path / "whole", **chosen))
    kill_a_run(settings(data, tmp_path / "run", **chosen), "sync")
    run(settings(data, tmp_path / "run", **chosen, resume=True), run_id=8)
    assert_equal_runs(tmp_path / "whole", tmp_path / "run")


def test_sites_ahead_of_the_server_return_to_its_round(
    data: Path, tmp_path: Path, whole: Path
) -> None:
    """Two rounds after its last checkpoint the server dies, and again at the next start."""
    kill_a_run(settings(data, tmp_path / "run", **CHOSEN), "begin")
    for attempt in (8, 9):

        def die_in_round_5(message: Message, reply: Message) -> Message:
            if message.content.config_records[messages.TASK].get(messages.ROUND) == 5:
                raise KeyboardInterrupt
            return reply

        chosen = settings(data, tmp_path / "run", **CHOSEN, resume=True)
        with pytest.raises(KeyboardInterrupt):
            serve(grid(chosen, run_id=attempt, fault=die_in_round_5), chosen, attempt)
        for checkpoint in (tmp_path / "run" / "checkpoints").glob("*4.safetensors"):
            checkpoint.unlink()
    resume(data, tmp_path / "run", run_id=10)
    assert_equal_runs(whole, tmp_path / "run")


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(
    data: Path, tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kill_a_run(settings(data, tmp_path / "run", **CHOSEN), "after")
    newest = tmp_path / "run" / "checkpoints" / "round-000004.safetensors"
    content = bytearray(newest.read_bytes())
    content[-100] ^= 1
    newest.write_bytes(content)
    resume(data, tmp_path / "run")
    assert "its checksum does not match): trying the one before" in caplog.text
    assert "resumed after round 3" in caplog.text
    assert_equal_runs(whole, tmp_path / "run")


def test_without_a_checkpoint_the_run_starts_over(
    data: Path, tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kill_a_run(settings(data, tmp_path / "run", **CHOSEN), "half", at_round=1)
    resume(data, tmp_path / "run")
    assert "the run starts over" in caplog.text
    assert_equal_runs(whole, tmp_path / "run")


def test_a_message_from_before_the_run_was_resumed_is_refused(data: Path, tmp_path: Path) -> None:
    chosen = settings(data, tmp_path / "run", **CHOSEN)
    seen: list[Message] = []

    def keep(message: Message, reply: Message) -> Message:
        seen.append(message)
        if len(seen) > 8:
            raise KeyboardInterrupt
        return reply

    old = grid(chosen, fault=keep)
    with pytest.raises(KeyboardInterrupt):
        serve(old, chosen)
    resume(data, tmp_path / "run")
    late = next(m for m in seen[3:] if m.metadata.message_type == "train")
    with pytest.raises(RunError, match="attempt 7 of this run is over"):
        client_app.app(late, old.contexts[late.metadata.dst_node_id])


def test_what_cannot_be_resumed_is_named(data: Path, tmp_path: Path, whole: Path) -> None:
    with pytest.raises(RunError, match="is finished"):
        resume(data, whole)
    with pytest.raises(RunError, match="no run to resume"):
        resume(data, tmp_path / "nothing")
    kill_a_run(settings(data, tmp_path / "run", **CHOSEN), "begin")
    with pytest.raises(SettingError, match=r"learning-rate was 0.02 .* is 0.5 now"):
        resume(data, tmp_path / "run", learning_rate=0.5)
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        resume(data, tmp_path / "run")


def test_a_run_folder_without_a_later_setting_can_be_resumed(
    data: Path, tmp_path: Path, whole: Path
) -> None:
    chosen = settings(data, tmp_path / "run", **CHOSEN, resume=True)
    config = json.loads((whole / "config.json").read_text())
    del config["aggregation"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert check_resumable(chosen) == (tmp_path / "run", 7)
    # A run from before the setting goes on as it began, whatever the default is now.
    del config["step-ahead"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert read_settings(tmp_path / "run")[0].step_ahead == 0
    with pytest.raises(SettingError, match=r"step-ahead was 0.0 when .* is 'auto' now"):
        check_resumable(chosen)


def test_where_code_and_devices_are_may_change(data: Path, tmp_path: Path, whole: Path) -> None:
    """They do not enter a run's result; another machine has others."""
    config = json.loads((whole / "config.json").read_text())
    (tmp_path / "run").mkdir()
    elsewhere = {"code-dir": "/elsewhere", "sites-per-gpu": 2, "gpu-share": 0.5}
    (tmp_path / "run" / "config.json").write_text(json.dumps({**config, **elsewhere}))
    chosen = settings(data, tmp_path / "run", **CHOSEN, resume=True)
    assert check_resumable(chosen) == (tmp_path / "run", 7)


def test_a_model_that_has_other_layers_now_is_not_resumed(
    data: Path, tmp_path: Path, whole: Path
) -> None:
    """Code of one's own may change, and earlier versions sent running statistics as layers."""
    chosen = settings(data, tmp_path / "run", **CHOSEN)
    kill_a_run(chosen, "after")
    kept = sorted((tmp_path / "run" / "checkpoints").iterdir())
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    config["layers"].insert(1, {"name": "stem.running_var", "shape": [32]})
    path.write_text(json.dumps(config))
    with pytest.raises(SettingError, match=r"small-cnn .* layer 'stem.running_var' of shape 32"):
        resume(data, tmp_path / "run")
    assert sorted((tmp_path / "run" / "checkpoints").iterdir()) == kept


def resume_as_a_command(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    def simulate(chosen: Settings, *, num_sites: int, **_: Any) -> None:
        serve(grid(chosen, nodes=num_sites, run_id=8), chosen, 8)

    monkeypatch.setattr(simulation, "simulate", simulate)
    client_app.opened_sites.clear()
    simulation.resume_simulation(folder, list(words), cpus_per_site=1)


def test_a_run_goes_on_with_the_same_data_wherever_they_are(
    data: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_a_run(settings(data, tmp_path / "run", **CHOSEN), "after")
    others = {"seed": {"seed": 4}, "sites": {"sites": 2}}
    for name, how in others.items():
        partition(data.parent / "store", tmp_path / name, **{"sites": 3, "scheme": "iid", **how})
        with pytest.raises(SettingError, match=f"{name} is not what the run in .*/run was started"):
            resume_as_a_command(tmp_path / "run", monkeypatch, f"data-dir={tmp_path / name}")
    shutil.copytree(data.parent / "store", tmp_path / "store")
    shutil.copytree(data, tmp_path / "data")
    resume_as_a_command(tmp_path / "run", monkeypatch, f"data-dir={tmp_path / 'data'}")
    assert_equal_runs(whole, tmp_path / "run")


def test_another_version_of_a_package_is_named(
    data: Path, tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kill_a_run(settings(data, tmp_path / "run", **CHOSEN), "after")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    assert config["versions"]["rsdgc"] == version("rsdgc")
    now = config["versions"]["torch"]
    config["versions"] |= {"torch": "1.4.0", "numpy": config["versions"]["numpy"]}
    path.write_text(json.dumps(config))
    resume(data, tmp_path / "run")
    assert f"this run goes on with torch {now} instead of 1.4.0: its result" in caplog.text
    assert "numpy" not in caplog.text


def test_what_the_model_needs_on_imagery_is_written_though_the_disk_was_full(
    data: Path, tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_is_full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    chosen = settings(data, tmp_path / "run", **CHOSEN)
    with monkeypatch.context() as patch:
        patch.setattr(RunInputs, "write", disk_is_full)
        with pytest.raises(OSError, match="No space"):
            run(chosen)
    resume(data, tmp_path / "run")
    assert (tmp_path / "run" / "inputs.json").read_text() == (whole / "inputs.json").read_text()
    assert_equal_runs(whole, tmp_path / "run")


def test_a_run_whose_checkpoints_are_unusable_is_not_said_to_go_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_a_run(settings(data, tmp_path / "run", **CHOSEN), "after")
    (tmp_path / "run" / "history.jsonl").unlink()
    with pytest.raises(RunError, match=r"can be used.* start a new run with another out$"):
        resume_as_a_command(tmp_path / "run", monkeypatch)
