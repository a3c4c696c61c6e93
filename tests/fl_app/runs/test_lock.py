"""One run at a time in a folder, and the lock of one that was killed is free."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from fl_app.runs.lock import (
    HOLDER_FILE,
    LOCK_FILE,
    LockHolder,
    lock_holder,
    lock_run,
    refuse_if_running,
)
from fl_app.simulation import resume_simulation, run_simulation
from rsdgc.errors import RunError
from tests.federation import run, settings
from tests.killed_process import forkserver, start_process


def hold_until_killed(folder: Path, ready: Any) -> None:
    with lock_run(folder, 11):
        ready.set()
        signal.pause()


def test_the_lock_of_a_killed_run_is_free_and_names_the_run(tmp_path: Path) -> None:
    assert lock_holder(tmp_path) is None
    refuse_if_running(tmp_path)
    ready = forkserver().Event()
    process = start_process(hold_until_killed, tmp_path, ready)
    assert ready.wait(60)
    assert lock_holder(tmp_path) == LockHolder("11", str(process.pid), at_work=True)
    message = f"run 11 is at work in {tmp_path} (process {process.pid})"
    with pytest.raises(RunError, match=re.escape(message)):
        refuse_if_running(tmp_path)
    with pytest.raises(RunError, match=re.escape(message)), lock_run(tmp_path, 12):
        pass
    process.kill()
    process.join()
    assert lock_holder(tmp_path) == LockHolder("11", str(process.pid), at_work=False)
    with lock_run(tmp_path, 123):
        assert lock_holder(tmp_path) == LockHolder("123", str(os.getpid()), at_work=True)
    with lock_run(tmp_path, 4):
        pass
    assert lock_holder(tmp_path) == LockHolder("4", str(os.getpid()), at_work=False)
    refuse_if_running(tmp_path)


def test_nothing_changes_the_folder_of_a_run_in_progress(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(settings(data, folder), run_id=7)
    assert lock_holder(folder) == LockHolder("7", str(os.getpid()), at_work=False)
    (folder / "summary.json").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    with lock_run(folder, 9):
        with pytest.raises(RunError, match="run 9 is at work"):
            run(settings(data, folder, resume=True), run_id=8)
        with pytest.raises(RunError, match="run 9 is at work"):
            resume_simulation(folder, [], cpus_per_site=1)
        with pytest.raises(RunError, match="run 9 is at work"):
            run_simulation(settings(data, folder), cpus_per_site=1, force=True)
    for name in (LOCK_FILE, HOLDER_FILE):
        before.pop(folder / name)
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_the_holder_is_known_though_a_probe_empties_the_locked_file(tmp_path: Path) -> None:
    """Older versions of filelock truncate the locked file when they open it."""
    with lock_run(tmp_path, 5):
        os.truncate(tmp_path / LOCK_FILE, 0)
        assert lock_holder(tmp_path) == LockHolder("5", str(os.getpid()), at_work=True)


def test_a_lock_that_a_probe_holds_for_an_instant_is_waited_for(tmp_path: Path) -> None:
    probe = FileLock(tmp_path / LOCK_FILE, thread_local=False)
    probe.acquire()
    threading.Timer(0.2, probe.release).start()
    with lock_run(tmp_path, 5):
        assert not probe.is_locked
