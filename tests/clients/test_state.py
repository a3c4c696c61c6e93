from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

import clients.state
from clients.state import FILE, SiteState, StateFolder
from rsdgc.errors import SettingError, StateError
from rsdgc.spec import ModelSpec

SPEC = ModelSpec.from_shapes({"w": (30, 10)})


def state_of(number: int) -> SiteState:
    """Make a state whose every part tells its round."""
    return SiteState(
        round=number,
        task=f"task {number}",
        residual=np.full(SPEC.size, number, np.float32),
        upload=bytes([number % 256]) * (100 + number),
        reply={"loss": number / 7, "confusion": [[number, 0], [0, 1]]},
    )


def assert_whole(state: SiteState | None) -> int:
    assert state is not None
    expected = state_of(state.round)
    np.testing.assert_array_equal(state.residual, expected.residual)
    assert (state.task, state.upload, state.reply) == (
        expected.task,
        expected.upload,
        expected.reply,
    )
    return state.round


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "state", 2**64 - 1, "site-00", SPEC)


def test_saved_state_comes_back(folder: StateFolder) -> None:
    assert folder.load() is None
    for number in (1, 2):
        folder.save(state_of(number))
        loaded = folder.load()
        assert assert_whole(loaded) == number
    loaded.residual[0] = 5
    assert sorted(p.name for p in folder.path.iterdir()) == [FILE]


def test_other_runs_and_sites_are_apart(folder: StateFolder, tmp_path: Path) -> None:
    folder.save(state_of(1))
    assert StateFolder(tmp_path / "state", 2, "site-00", SPEC).load() is None
    assert StateFolder(tmp_path / "state", 2**64 - 1, "site-01", SPEC).load() is None


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\0b"])
def test_names_that_leave_the_folder_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot name a folder"):
        StateFolder(tmp_path, 1, name, SPEC)


def damaged(content: bytes) -> list[bytes]:
    flipped = bytearray(content)
    flipped[-40] ^= 1
    return [
        b"",
        content[:7],
        content[: len(content) // 2],
        content + b"x",
        bytes(flipped),
        b"\xff" * 64,
        content.replace(b'"run":"1844', b'"run":"1845'),
        content.replace(b"rsdgc-site-1", b"rsdgc-site-0"),
        content.replace(b'"task"', b'"tusk"'),
    ]


def test_a_damaged_file_is_passed_over_with_a_warning(
    folder: StateFolder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.save(state_of(1))
    content = (folder.path / FILE).read_bytes()
    for wrong in damaged(content):
        assert wrong != content
        (folder.path / FILE).write_bytes(wrong)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            assert folder.load() is None
        assert "cannot be used" in caplog.text
    folder.save(state_of(2))
    assert assert_whole(folder.load()) == 2


def test_a_state_of_another_model_is_not_used(folder: StateFolder, tmp_path: Path) -> None:
    folder.save(state_of(1))
    other = ModelSpec.from_shapes({"v": (30, 10)})
    assert StateFolder(tmp_path / "state", 2**64 - 1, "site-00", other).load() is None


def test_an_unreadable_file_is_an_error_and_not_a_fresh_start(folder: StateFolder) -> None:
    (folder.path / FILE).mkdir(parents=True)
    with pytest.raises(StateError, match="cannot be read"):
        folder.load()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    blocked = StateFolder(tmp_path / "state", 1, "site-00", SPEC)
    with pytest.raises(StateError, match="state-dir") as caught:
        blocked.save(state_of(1))
    assert "\n" not in str(caught.value)
    with pytest.raises(StateError), blocked.locked():
        pass


class Killed(BaseException):
    """Stands for SIGKILL: no handler of ordinary errors sees it."""


def killing(monkeypatch: pytest.MonkeyPatch, at: int, *, error: BaseException) -> list[str]:
    """Let the at-th durable step of a save raise instead; list the steps that ran."""
    steps: list[str] = []

    def wrap(name: str, module: object, attribute: str) -> None:
        inner = getattr(module, attribute)

        def step(*arguments: object) -> object:
            if len(steps) == at:
                raise error
            steps.append(name)
            return inner(*arguments)

        monkeypatch.setattr(module, attribute, step)

    wrap("write", clients.state, "save_file")
    wrap("sync", os, "fsync")
    wrap("rename", os, "replace")
    return steps


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("disk_full", [False, True])
def test_killed_at_every_step_it_is_the_old_or_the_new(
    at: int, disk_full: bool, folder: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.save(state_of(1))
    error = OSError(28, "No space left on device") if disk_full else Killed()
    with monkeypatch.context() as patch:
        steps = killing(patch, at, error=error)
        if at < 4:
            with pytest.raises(StateError if disk_full else Killed):
                folder.save(state_of(2))
        else:
            folder.save(state_of(2))
            assert steps == ["write", "sync", "rename", "sync"]
    assert assert_whole(folder.load()) == (2 if at >= 3 else 1)
    folder.save(state_of(3))
    assert assert_whole(folder.load()) == 3


def test_killed_for_real_it_is_whole(folder: StateFolder, tmp_path: Path) -> None:
    script = f"""
        import itertools
        from tests.clients.test_state import *
        folder = StateFolder({str(tmp_path / "state")!r}, 2**64 - 1, "site-00", SPEC)
        for number in itertools.count(1):
            folder.save(state_of(number))
    """
    root = Path(__file__).parents[2]
    for delay_s in (0.003, 0.017):
        with subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], cwd=root) as child:
            give_up = time.monotonic() + 60
            while folder.load() is None and time.monotonic() < give_up:
                time.sleep(0.01)
            time.sleep(delay_s)
            child.send_signal(signal.SIGKILL)
        assert assert_whole(folder.load()) >= 1
        (folder.path / FILE).unlink()


def test_the_lock_keeps_others_out_and_is_left_on_errors(folder: StateFolder) -> None:
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
        with folder.locked():
            assert ask() == "held"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert ask() == "free"
