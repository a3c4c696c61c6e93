"""A process that is ended together with all that it started, whatever happened."""

from __future__ import annotations

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

STOP_TIMEOUT_S = 20.0
QUIET_LOOKS = 4
"""Looks in a row that must find no process before all are taken to have ended."""
MARK = "RSDGC_STARTED_BY"
"""Environment variable by which a process and all that it started are found again."""


class Process(NamedTuple):
    """A process; its number alone may come again."""

    pid: int
    started: int
    """Clock ticks after the machine's own start."""


@contextmanager
def managed_process(
    command: list[str], environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own; at the end, end it and all that it started.

    Parameters
    ----------
    command : list of str
        The command and its words.
    environment : dict of str to str
        Its whole environment; :data:`MARK` is added.
    log : Path
        File for what it prints.

    Yields
    ------
    subprocess.Popen
        The process.
    """
    mark = uuid.uuid4().hex
    with log.open("wb") as file:
        running = subprocess.Popen(  # noqa: S603  # our own command, no shell
            command,
            env={**environment, MARK: mark},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield running
    finally:
        _end_all_with(f"{MARK}={mark}".encode())
        running.wait()


def _end_all_with(variable: bytes) -> None:
    """End every process that has a variable in its environment, and all below it.

    Flower starts the simulation, and Ray its workers, in sessions of their own, so that neither a
    process group nor a parent holds them together. The environment does, but for Ray's agents,
    whose new titles are written over a part of it: those are known by their parent. Who was found
    once stays known, when the parent has ended too. One look can miss a process that its parent
    starts just after the list of processes was read, or that is in the middle of its ``exec``, so
    only several looks in a row that find nothing end the search.
    """
    known: set[Process] = set()
    for step in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_TIMEOUT_S
        told: set[Process] = set()
        quiet = 0
        while quiet < QUIET_LOOKS and time.monotonic() < deadline:
            left = process_tree(variable, known)
            quiet = 0 if left else quiet + 1
            for one in left - told:
                with suppress(ProcessLookupError):
                    os.kill(one.pid, step)
            told |= left
            known |= left
            time.sleep(0.1)
        if quiet == QUIET_LOOKS:
            return


def process_tree(variable: bytes, known: Set[Process] = frozenset()) -> set[Process]:
    """Return the running processes that have a variable or are known, and all below them.

    Parameters
    ----------
    variable : bytes
        As ``NAME=value``, in a process's environment.
    known : set of Process
        Processes that count whatever their environment says.
    """
    parents: dict[Process, int] = {}
    found: set[Process] = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            # After the name, in brackets: state, parent, …; the start is the 22nd field of all.
            state, parent, *fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if state in "ZX":  # ended, not yet waited for
                continue
            one = Process(int(folder.name), int(fields[17]))
            parents[one] = int(parent)
            if one in known or variable in (folder / "environ").read_bytes().split(b"\0"):
                found.add(one)
    while True:
        pids = {one.pid for one in found}
        below = {one for one, parent in parents.items() if parent in pids}
        if below <= found:
            return found
        found |= below
