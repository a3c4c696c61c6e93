"""A process that is ended together with everything it started, whatever happens.

As a script, with a mark as its argument, this file is the guard of such a process: it ends what
carries the mark if the process that has started it was killed, and removes the folders that follow.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

STOP_TIMEOUT_S = 20.0
"""For the processes to end after SIGTERM, and once more after SIGKILL."""
QUIET_SEARCHES = 4
"""Searches in a row that must find no process before all count as ended."""
SEARCH_INTERVAL_S = 0.1
MARK = "RSDGC_STARTED_BY"
"""Environment variable that marks a process and everything it starts."""
_ALL_ENDED = b"."
"""Tells the guard that there is nothing to do; a pipe that ends without it means a kill."""


@contextmanager
def managed_process(
    command: list[str],
    environment: dict[str, str],
    log: Path,
    temporary: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own; at the end, end it and everything it started.

    ``environment`` is its whole environment, to which :data:`MARK` is added. Its output goes to the
    file ``log``. If this process is killed, a guard does what is left to do, and removes the folder
    ``temporary``.
    """
    mark = uuid.uuid4().hex
    with _guarded(mark, *([] if temporary is None else [temporary])):
        with log.open("wb") as file:
            process = subprocess.Popen(  # noqa: S603  # our own command, no shell
                command,
                env={**environment, MARK: mark},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C reaches only us, and we end it in order
            )
        try:
            yield process
        finally:
            _end_all(mark)
            process.wait()


@contextmanager
def _guarded(mark: str, *folders: Path) -> Iterator[None]:
    """Have a guard end what carries the mark if this process is killed within the block.

    It removes the folders then.
    """
    guard = subprocess.Popen(  # noqa: S603  # our own file, no shell
        [sys.executable, "-I", __file__, mark, *map(str, folders)],
        stdin=subprocess.PIPE,
        start_new_session=True,  # what a terminal sends is for us
    )
    try:
        yield
    finally:
        guard.communicate(_ALL_ENDED)


def process_tree(
    variable: str, value: str, known: Set[psutil.Process] = frozenset()
) -> set[psutil.Process]:
    """Return the running processes with a variable or among the known, and all their descendants.

    Flower starts the simulation, and Ray its workers, in sessions of their own, so that neither a
    process group nor a parent holds them together. The environment does, except for Ray's agents,
    which write their titles over a part of it: those are found by their parent. Processes in
    ``known`` count whatever their environment says.
    """
    parents: dict[psutil.Process, int] = {}
    tree: set[psutil.Process] = set()
    for process in psutil.process_iter(["status", "ppid", "environ"]):
        if process.info["status"] in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            continue
        parents[process] = process.info["ppid"]
        # The environment is None for a process of another user.
        if process in known or (process.info["environ"] or {}).get(variable) == value:
            tree.add(process)
    while True:
        pids = {process.pid for process in tree}
        children = {process for process, parent in parents.items() if parent in pids}
        if children <= tree:
            return tree
        tree |= children


def _end_all(mark: str) -> None:
    """End every process that carries a mark, and all its descendants.

    A process that was found once stays known, so that it is found again when its parent has ended.
    One search can miss a process that its parent starts just after the list of processes was
    read, or that is in the middle of its ``exec``; only several empty searches in a row are proof.
    """
    known: set[psutil.Process] = set()
    for send_signal in (psutil.Process.terminate, psutil.Process.kill):
        deadline = time.monotonic() + STOP_TIMEOUT_S
        signaled: set[psutil.Process] = set()
        quiet = 0
        while quiet < QUIET_SEARCHES and time.monotonic() < deadline:
            running = process_tree(MARK, mark, known)
            quiet = 0 if running else quiet + 1
            for process in running - signaled:
                with suppress(psutil.NoSuchProcess):
                    send_signal(process)
            signaled |= running
            known |= running
            time.sleep(SEARCH_INTERVAL_S)
        if quiet == QUIET_SEARCHES:
            return


if __name__ == "__main__" and sys.stdin.buffer.read() != _ALL_ENDED:
    _end_all(sys.argv[1])
    for _folder in sys.argv[2:]:
        shutil.rmtree(_folder, ignore_errors=True)
