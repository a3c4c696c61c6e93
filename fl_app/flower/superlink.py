"""A private Flower SuperLink for one run: started on a free port, ended whatever happens.

The SuperLink that ``flwr run`` starts would go on running in the background, with the environment
of its first call.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from fl_app.flower.processes import managed_process
from rsdgc.errors import RunError

START_TIMEOUT_S = 300.0
"""It takes three seconds on a quiet machine; one that ended is noticed at once."""
CONNECTION = "rsdgc"
"""Name of the only connection in the ``config.toml`` of a Flower home."""
LISTENING_PORTS = range(20_000, 32_000)
"""Ports to listen on; Linux gives those from 32768 to outgoing connections."""


@contextmanager
def superlink(
    home: Path,
    *,
    simulation: bool,
    variables: Mapping[str, str] | None = None,
    host: str = "127.0.0.1",
) -> Iterator[tuple[dict[str, str], int]]:
    """Run a SuperLink while the context lasts, without TLS.

    It simulates the nodes (``simulation``), or waits for SuperNodes to connect to ``host``. Flower
    writes to the existing folder ``home``, which is removed if this process is killed.
    ``variables`` are added to the environment of all that it starts. Yields the environment for
    processes that belong to it, such as ``flwr run``, and the port on which it listens. Raises
    RunError if it does not start.
    """
    (port,) = free_ports(1)
    environment = {**flower_environment(home), **(variables or {})}
    write_connection(home, f"127.0.0.1:{port}", "insecure = true")
    command = [*starter("flower-superlink"), "--insecure", "--host", host, "--port", str(port)]
    command += ["--isolation", "subprocess", *(["--simulation"] if simulation else [])]
    with managed_process(command, environment, home / "superlink.log", temporary=home) as running:
        _wait_until_healthy(running, port, home / "superlink.log")
        yield environment, port


def tool(name: str) -> str:
    """Return the path of a command that is installed beside this Python."""
    path = Path(sys.executable).parent / name
    return str(path) if path.exists() else name


def starter(command: str) -> list[str]:
    """Return Flower's ``command`` as it starts apps here (:mod:`fl_app.flower.app_starter`)."""
    return [sys.executable, "-P", str(Path(__file__).with_name("app_starter.py")), command]


def write_connection(home: Path, address: str, security: str) -> None:
    """Write the ``config.toml`` of a Flower home with one connection.

    ``security`` is the line of TOML that says how to trust the SuperLink at ``address``.
    """
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n'
        f'[superlink.{CONNECTION}]\naddress = "{address}"\n{security}\n',
        encoding="utf-8",
    )


def flower_environment(home: Path) -> dict[str, str]:
    """Return this process's environment with Flower's settings: private, and quick to act.

    Everything that Flower writes goes to the folder ``home``.
    """
    return {
        **os.environ,
        "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ.get("PATH", ""),
        "FLWR_HOME": str(home),
        # The app runs in this Python, which has what it needs, and nothing calls home.
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        # Ray's future default; without it every start prints a warning.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # Seconds between two polls for work, at either end of a message; Flower's default is 1 s.
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        # NumPy's matrices are small here. A second thread gains nothing, and waits for the first by
        # spinning, which takes the processor from PyTorch's threads and from other processes.
        "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1"),
        "PYTHONUNBUFFERED": "1",  # log lines appear when they are written
    }


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback on which no process listens.

    They are not among those that the system gives to outgoing connections: such a port could be
    gone before a process listens on it.
    """
    ports: list[int] = []
    # In random order, because another process may look for ports, too.
    for port in random.SystemRandom().sample(LISTENING_PORTS, len(LISTENING_PORTS)):
        if len(ports) == count:
            break
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            ports.append(port)
    return ports


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
