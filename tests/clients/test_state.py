from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clients.mapped_vectors import checksum
from clients.state import LOCK_FILE, STATE_FILE, SiteState, StateFolder, StateHistory
from clients.task import STEP_SECONDS, RoundResult, RunOrigin
from rsdgc.codec.wire import decode
from rsdgc.errors import RunError, SettingError, StateError
from rsdgc.spec import ModelSpec
from rsdgc.update import Stamp
from tests.clients.toys import TinyNet

EARLIER_SUMS = ((0.11676846, 0.11734916), (0.6862932, 0.36320755))
"""Of residual and velocity."""
SPEC = ModelSpec.from_shapes({"w": (30, 10)})
ORIGIN = RunOrigin(1)


def upload_of(number: int) -> bytes:
    return bytes([number % 256]) * (100 + number)


def save(
    folder: StateFolder, number: int, kept_rounds: tuple[int, ...] = (), *, durable: bool = True
) -> None:
    """Keep a state whose every part tells its round."""
    origin = RunOrigin(folder.run, attempt=5, kept_rounds=kept_rounds)
    with folder.transaction(origin, durable=durable) as transaction:
        names = {}
        for kind, value in (("replica", -number), ("residual", number)):
            names[kind], target = transaction.new_vector(kind)
            target[:] = value
            transaction.sync(names[kind])
        state = SiteState(
            round=number,
            version=number + 1,
            residual_check=checksum(target),
            upload=transaction.write_bytes("upload", upload_of(number)),
            upload_check=checksum(upload_of(number)),
            task=f"task {number}",
            reply={"loss": number / 7, "confusion": [[number, 0], [0, 1]]},
            **names,
        )
        transaction.commit(state)


def test_a_state_that_is_not_durable_forces_only_its_figures_to_the_disk(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr("clients.state.sync", lambda path: synced.append(path.name))
    save(folder, 1)
    assert {name.partition("-")[0] for name in synced} == {"replica", "residual", "upload"}
    synced.clear()
    save(folder, 2, durable=False)
    assert synced == []
    assert assert_whole(folder) == 2


def test_a_loss_of_power_between_checkpoints_leaves_the_state_of_the_checkpoint(
    folder: StateFolder,
) -> None:
    """In a simulation the server, too, returns to its checkpoint of round 2."""
    save(folder, 2)
    save(folder, 3, kept_rounds=(2,), durable=False)
    for name in folder.load().states[-1].files:
        (folder.path / name).write_bytes(b"")
    resumed = RunOrigin(folder.run, attempt=6, resumed_round=2)
    with folder.transaction(resumed) as transaction:
        assert transaction.state.round == 2
    assert assert_whole(folder, at=0) == 2


def assert_whole(folder: StateFolder, at: int = -1) -> int:
    """Check that a state's parts belong together; return its round."""
    state = folder.load().states[at]
    number = state.round
    assert (state.version, state.task) == (number + 1, f"task {number}")
    assert state.reply == {"loss": number / 7, "confusion": [[number, 0], [0, 1]]}
    np.testing.assert_array_equal(folder.replica(state), np.full(SPEC.size, -number))
    np.testing.assert_array_equal(folder.residual(state), np.full(SPEC.size, number))
    assert folder.upload(state) == upload_of(number)
    return number


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    folder = StateFolder(tmp_path / "state", 2**64 - 1, "site-00", SPEC)
    with folder.transaction(ORIGIN):
        pass
    return folder


def test_saved_state_comes_back_and_the_files_of_the_last_serve_again(folder: StateFolder) -> None:
    assert folder.load() == StateHistory()
    for number in (1, 2, 3):
        save(folder, number)
        assert assert_whole(folder) == number
    names = {path.name.partition("-")[0] for path in folder.path.iterdir()}
    assert names == {STATE_FILE, LOCK_FILE, "replica", "residual", "upload", "spare"}
    assert len(list(folder.path.iterdir())) == 7


def test_what_is_written_to_a_mapped_state_stays_out_of_the_file(folder: StateFolder) -> None:
    save(folder, 1)
    found = folder.replica(folder.load().states[-1])
    found[:] = 9
    assert assert_whole(folder) == 1


def test_states_at_the_servers_checkpoints_are_kept(folder: StateFolder) -> None:
    for number, kept in ((1, ()), (2, ()), (4, (3,)), (5, (3,)), (7, (3, 5)), (8, (3, 6))):
        save(folder, number, kept)
    assert [state.round for state in folder.load().states] == [2, 5, 8]
    assert [assert_whole(folder, at) for at in range(3)] == [2, 5, 8]
    save(folder, 9, (6, 8))
    assert [state.round for state in folder.load().states] == [5, 8, 9]


def test_a_resumed_server_finds_the_state_of_its_checkpoint(folder: StateFolder) -> None:
    for number, kept in ((1, ()), (2, ()), (4, (3,)), (5, (3,))):
        save(folder, number, kept)
    history = folder.load()
    assert [state.round for state in history.known_to(5, 0)] == [2, 5]  # the attempt it knows
    assert [state.round for state in history.known_to(6, 3)] == [2]
    assert history.known_to(6, 0) == ()
    went_back = replace(history, attempts=(5, 6))
    with pytest.raises(RunError, match="attempt 5 of this run is over"):
        went_back.known_to(5, 0)


def test_other_runs_and_sites_are_apart(folder: StateFolder, tmp_path: Path) -> None:
    save(folder, 1)
    assert not StateFolder(tmp_path / "state", 2, "site-00", SPEC).load().states
    assert not StateFolder(tmp_path / "state", 2**64 - 1, "site-01", SPEC).load().states


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\0b"])
def test_names_that_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot name a folder"):
        StateFolder(tmp_path, 1, name, SPEC)


def damaged(content: bytes) -> list[bytes]:
    return [
        b"",
        content[:7],
        content[: len(content) // 2],
        content + b"x",
        b"\xff" * 64,
        b"[" * 100_000,
        b"[]",
        content.replace(b"rsdgc-site-2", b"rsdgc-site-1"),
        content.replace(b'"task"', b'"tusk"'),
        content.replace(b'"replica-', b'"../../x-'),
        content.replace(b'"serial": ', b'"serial": "x'),
        content.replace(b'"serial": ', b'"serial": -'),
        content.replace(b'"round": 1', b'"round": "1"'),
        content.replace(b'"round": 1', b'"round": -1'),
        content.replace(b'"round": 1', b'"round": 1e999'),
        content.replace(b'"version": 2', b'"version": [2]'),
        content.replace(b'"change_norm": 0.0', b'"change_norm": NaN'),
        content.replace(b'"reply": {', b'"reply": 3, "x": {'),
        content.replace(b'"replica": "replica-', b'"replica": "lock", "x": "'),
        content.replace(b'"task": "', b'"task": "\\ud800'),
        content.replace(b'"attempts": [', b'"attempts": [[], '),
        content.replace(b'"attempts": [5]', b'"attempts": 5'),
    ]


def test_a_damaged_file_is_passed_over_with_a_warning(
    folder: StateFolder, caplog: pytest.LogCaptureFixture
) -> None:
    save(folder, 1)
    content = (folder.path / STATE_FILE).read_bytes()
    for wrong in damaged(content):
        assert wrong != content
        (folder.path / STATE_FILE).write_bytes(wrong)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert folder.load() == StateHistory()
        assert "cannot be used" in caplog.text
    save(folder, 2)
    assert assert_whole(folder) == 2


@pytest.mark.parametrize("kind", ["residual", "upload"])
@pytest.mark.parametrize("how", ["changed", "short", "gone"])
def test_a_damaged_part_is_passed_over_with_a_warning(
    folder: StateFolder, kind: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(folder, 1)
    (path,) = folder.path.glob(f"{kind}-*")
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.unlink()
    if how != "gone":
        path.write_bytes(content if how == "changed" else content[:-4])
    state = folder.load().states[-1]
    assert (folder.residual if kind == "residual" else folder.upload)(state) is None
    assert "cannot be used" in caplog.text


def test_a_state_of_another_model_is_not_used(folder: StateFolder, tmp_path: Path) -> None:
    save(folder, 1)
    other = ModelSpec.from_shapes({"v": (30, 10)})
    assert not StateFolder(tmp_path / "state", 2**64 - 1, "site-00", other).load().states


def test_an_unreadable_file_is_an_error_and_not_a_fresh_start(folder: StateFolder) -> None:
    (folder.path / STATE_FILE).mkdir(parents=True)
    with pytest.raises(StateError, match="cannot be read"):
        folder.load()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    blocked = StateFolder(tmp_path / "state", 1, "site-00", SPEC)
    with pytest.raises(StateError, match="state-dir") as caught, blocked.transaction(ORIGIN):
        pass
    assert "\n" not in str(caught.value)


def test_a_vector_that_finds_no_room_is_an_error_before_it_is_written(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StateError, match="No space left"):
        save(folder, 1)


class Killed(BaseException):
    """Stands for SIGKILL: no handler of ordinary errors sees it."""


def killing(monkeypatch: pytest.MonkeyPatch, at: int, *, error: BaseException) -> list[str]:
    """Let the at-th durable step of a save raise instead; list the steps that ran."""
    steps: list[str] = []

    def wrap(name: str, attribute: str) -> None:
        inner = getattr(os, attribute)

        def step(*arguments: object) -> object:
            if len(steps) == at:
                raise error
            steps.append(name)
            return inner(*arguments)

        monkeypatch.setattr(os, attribute, step)

    wrap("claim", "posix_fallocate")
    wrap("sync", "fsync")
    wrap("rename", "replace")
    return steps


STEPS = ["claim", "sync", "claim", "sync", "sync", "sync", "rename", "sync"]
TIDYING = ["rename", "rename"]


@pytest.mark.parametrize("at", range(len(STEPS + TIDYING) + 1))
@pytest.mark.parametrize("disk_full", [False, True])
def test_killed_at_every_step_it_is_the_old_or_the_new(
    at: int, disk_full: bool, folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(folder, 1)
    error = OSError(28, "No space left on device") if disk_full else Killed()
    with monkeypatch.context() as patch:
        steps = killing(patch, at, error=error)
        if at < len(STEPS) + (0 if disk_full else len(TIDYING)):
            with pytest.raises(StateError if disk_full else Killed):
                save(folder, 2)
        else:
            save(folder, 2)  # tidying may fail: what is left over does no harm
            assert steps == (STEPS + TIDYING)[:at]
    assert assert_whole(folder) == (2 if at >= STEPS.index("rename") + 1 else 1)
    save(folder, 3)
    assert assert_whole(folder) == 3
    assert len(list(folder.path.glob("*.f32"))) <= 4  # what was left over is gone


@pytest.mark.slow
def test_killed_for_real_it_is_whole(tmp_path: Path) -> None:
    script = f"""
        import itertools, os, signal
        from tests.clients.test_state import *
        folder = StateFolder({str(tmp_path / "state")!r}, 2**64 - 1, "site-00", SPEC)
        for delay_s in (0.003, 0.017, 0.029):
            child = os.fork()
            if child == 0:
                for number in itertools.count(1):
                    save(folder, number, (number - 3,))
            give_up = time.monotonic() + 60
            while not folder.load().states and time.monotonic() < give_up:
                time.sleep(0.01)
            time.sleep(delay_s)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            assert assert_whole(folder) >= 1
            assert_whole(folder, 0)
            (folder.path / STATE_FILE).unlink()
    """
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], cwd=root, check=True)


def test_the_lock_keeps_others_out_and_is_released_on_errors(folder: StateFolder) -> None:
    script = textwrap.dedent(f"""
        import fcntl
        lock = open({str(folder.path / "lock")!r}, "w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            print("free")
        except BlockingIOError:
            print("held")
    """)

    def ask() -> str:
        return subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout.strip()

    def fail() -> None:
        with folder.transaction(ORIGIN):
            assert ask() == "held"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert ask() == "free"


def test_who_waits_for_the_lock_is_told_and_gets_it(
    folder: StateFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("clients.state.PROBE_S", 0.01)
    entered = []

    def wait() -> None:
        with folder.transaction(ORIGIN):
            entered.append(True)

    waiting = threading.Thread(target=wait)
    with folder.transaction(ORIGIN):
        waiting.start()
        while "waiting for" not in caplog.text:
            time.sleep(0.01)
        assert not entered
    waiting.join(60)
    assert entered


def test_a_state_written_by_an_earlier_release_is_read(tmp_path: Path) -> None:
    """The folder in data/ was written by the code of 2026-11-26, before its names changed."""
    shutil.copytree(Path(__file__).parent / "data" / "state", tmp_path / "state")
    # The running statistics stood among the weights then.
    entries = {n: t.numpy() for n, t in TinyNet().state_dict().items() if t.is_floating_point()}
    spec = ModelSpec.from_shapes({name: array.shape for name, array in entries.items()})
    folder = StateFolder(tmp_path / "state", 7, "site-00", spec)
    history = folder.load()
    assert (history.attempts, history.serial) == ((1,), 3)
    assert [state.round for state in history.states] == [1, 3]
    for state, sums in zip(history.states, EARLIER_SUMS, strict=True):
        residual, velocity = folder.residual(state), folder.velocity(state)
        assert (residual.sum(), velocity.sum()) == pytest.approx(sums)
        model = np.concatenate([array.reshape(-1) for array in entries.values()])
        np.testing.assert_array_equal(folder.replica(state), model)
        assert decode(folder.upload(state), folder.spec).stamp == Stamp(7, state.round, 0)
        result = RoundResult.from_figures(state.reply, b"", state.version)
        figures = result.figures()
        # The score of the test split stood among the other figures.
        # It had one time for all of the work.
        assert {figures.pop(name) for name in STEP_SECONDS} == {0.0}
        assert figures | figures.pop("scores")["test"] == state.reply
        assert result.num_examples == 24
