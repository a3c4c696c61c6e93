"""A private Flower SuperLink for one run: started on free ports, ended whatever happened."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from rsdgc.errors import RunError

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
QUIET_LOOKS = 4
"""Looks in a row that must find no process before all are taken to have ended."""
MARK = "RSDGC_STARTED_BY"
"""Environment variable by which a process and all that it started are found again."""
CONNECTION = "here"
"""Name of the connection in the private Flower home's ``config.toml``."""


@contextmanager
def superlink(
    home: Path,
    *,
    simulation: bool,
    variables: Mapping[str, str] | None = None,
    host: str = "127.0.0.1",
) -> Iterator[tuple[dict[str, str], int]]:
    """Run a SuperLink while the context lasts, without TLS.

    Parameters
    ----------
    home : Path
        An existing folder for everything that Flower writes.
    simulation : bool
        Whether the SuperLink simulates the nodes, or waits for SuperNodes to connect.
    variables : mapping of str to str, optional
        More of the environment, for it and all that it starts.
    host : str
        Address to listen on: the loopback, or 0.0.0.0, which the loopback is part of.

    Yields
    ------
    environment : dict of str to str
        For processes that belong to it, such as ``flwr run``.
    port : int
        Where it listens.

    Raises
    ------
    RunError
        If it does not start.
    """
    (port,) = free_ports(1)
    environment = {**flower_environment(home), **(variables or {})}
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n'
        f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{port}"\ninsecure = true\n',
        encoding="utf-8",
    )
    command = [tool("flower-superlink"), "--insecure", "--host", host, "--port", str(port)]
    command += ["--isolation", "subprocess", *(["--simulation"] if simulation else [])]
    with process(command, environment, home / "superlink.log") as running:
        _wait_until_healthy(running, port, home / "superlink.log")
        yield environment, port


@contextmanager
def process(
    command: list[str], environment: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in a session of its own; at the end, end it and all that it started."""
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
        _end_all_with(f"{MARK}={mark}")
        running.wait()


def tool(name: str) -> str:
    """Path of a command that is installed beside this Python."""
    path = Path(sys.executable).parent / name
    return str(path) if path.exists() else name


def flower_environment(home: Path) -> dict[str, str]:
    """Return the environment for Flower's commands: the present one, private, quick to act.

    Parameters
    ----------
    home : Path
        Folder for everything that Flower writes.
    """
    bin_folder = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": bin_folder + os.pathsep + os.environ.get("PATH", ""),
        "FLWR_HOME": str(home),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Between two looks for work; Flower's own default is 1 s, at either end of a message.
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "PYTHONUNBUFFERED": "1",
    }


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _wait_until_healthy(running: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and running.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2.0):
                return
        except OSError:
            pass
        time.sleep(0.1)
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise RunError(f"Flower's SuperLink did not start: {lines[-1] if lines else 'no output'}")


def _end_all_with(variable: str) -> None:
    """End every process that has a variable in its environment, by force if it does not go.

    Flower starts the simulation, and Ray its workers, in sessions of their own, so that neither a
    process group nor a parent holds them together; the environment does. One look can miss a
    process that its parent starts just after the list of processes was read, or that is in the
    middle of its ``exec``, so only several looks in a row that find nothing end the search.
    """
    for step in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + STOP_TIMEOUT_S
        told: set[int] = set()
        quiet = 0
        while quiet < QUIET_LOOKS and time.monotonic() < deadline:
            left = _processes_with(variable)
            quiet = 0 if left else quiet + 1
            for pid in left - told:
                with suppress(ProcessLookupError):
                    os.kill(pid, step)
            told |= left
            time.sleep(0.1)
        if quiet == QUIET_LOOKS:
            return


def _processes_with(variable: str) -> set[int]:
    found: set[int] = set()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if variable.encode() in environ.read_bytes().split(b"\0"):
                found.add(int(environ.parent.name))
    return found
