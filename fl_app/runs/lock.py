"""Who works in a run's folder: one server application at a time, for as long as it lives.

Flower takes a run whose server was killed for one that goes on, until a minute after its last sign
of life. The lock says at once, and truly, whether anybody is still at work: the system lets go of
it when the process that holds it ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rsdgc.durable import is_locked
from rsdgc.errors import RunError

_NAME = "run.lock"


class LockHolder(NamedTuple):
    """Who works, or was the last to work, in a run's folder."""

    run_id: str
    """Flower's number of the run."""
    pid: str
    """Of its process."""
    at_work: bool
    """Whether it still is."""


@contextmanager
def lock_run(folder: Path, run_id: int) -> Iterator[None]:
    """Be the only one that works in a run's folder.

    Parameters
    ----------
    folder : Path
        The run folder.
    run_id : int
        Flower's number of the run that will work there.

    Raises
    ------
    RunError
        Another run is at work there.
    """
    path = folder / _NAME
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _at_work(folder, *_written(path)) from None
        file.truncate(0)
        file.write(f"{run_id} {os.getpid()}".encode())
        file.flush()
        yield


def lock_holder(folder: Path) -> LockHolder | None:
    """Return who works, or was the last to work, in a run's folder; None if nobody ever did."""
    path = folder / _NAME
    try:
        written = _written(path)
    except FileNotFoundError:
        return None
    # Looked at last: whoever comes in between is at work, and not taken for the one that is gone.
    return LockHolder(*written, is_locked(path))


def refuse_if_running(folder: Path) -> None:
    """Refuse a folder in which a run is at work.

    Raises
    ------
    RunError
        One is.
    """
    last = lock_holder(folder)
    if last is not None and last.at_work:
        raise _at_work(folder, last.run_id, last.pid)


def _written(path: Path) -> tuple[str, str]:
    run_id, _, pid = path.read_text(encoding="ascii", errors="replace").partition(" ")
    return run_id, pid


def _at_work(folder: Path, run_id: str, pid: str) -> RunError:
    return RunError(
        f"run {run_id} is at work in {folder} (process {pid}): wait for its end, or end it"
    )
