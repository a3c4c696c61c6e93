"""One server application at a time works in a run's folder.

Flower considers a run whose server was killed as running until a minute after its last sign of
life. The lock says at once whether a process is at work: the system releases it when the process
that holds it ends, however it ends.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from rsdgc.durable import ACQUIRE_TIMEOUT_S, is_locked, replace_text
from rsdgc.errors import RunFolderError

LOCK_FILE = "run.lock"
HOLDER_FILE = "run.holder"
"""Names the holder. Older versions of filelock empty the locked file itself on opening it."""


class LockHolder(NamedTuple):
    """Who works, or was the last to work, in a run's folder."""

    run_id: str
    """Flower's number of the run."""
    pid: str
    at_work: bool
    """Whether the process still holds the lock."""


@contextmanager
def lock_run(folder: Path, run_id: int) -> Iterator[None]:
    """Hold a run's folder while the context lasts, for the run that has Flower's number ``run_id``.

    Raises RunFolderError if another run is at work there.
    """
    lock = FileLock(folder / LOCK_FILE, timeout=ACQUIRE_TIMEOUT_S)
    try:
        lock.acquire()
    except Timeout:
        raise _refusal(folder, lock_holder(folder)) from None
    try:
        replace_text(folder / HOLDER_FILE, f"{run_id} {os.getpid()}")
        yield
    finally:
        lock.release()


def lock_holder(folder: Path) -> LockHolder | None:
    """Return who works, or was the last to work, in a run's folder; None if no one ever did."""
    try:
        text = (folder / HOLDER_FILE).read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None
    run_id, _, pid = text.partition(" ")
    # Probed last: a run that starts after the reading counts as at work, not as the one before it.
    return LockHolder(run_id, pid, is_locked(folder / LOCK_FILE))


def refuse_if_running(folder: Path) -> None:
    """Raise :class:`RunFolderError` if a run is at work in a folder."""
    holder = lock_holder(folder)
    if holder is not None and holder.at_work:
        raise _refusal(folder, holder)


def _refusal(folder: Path, holder: LockHolder | None) -> RunFolderError:
    if holder is None:
        return RunFolderError(f"another run is at work in {folder}: wait until it ends, or stop it")
    where = f"{folder} (process {holder.pid})"
    return RunFolderError(
        f"run {holder.run_id} is at work in {where}: wait until it ends, or stop it"
    )
