"""A federation on the loopback, as an operator makes and runs it: every step is a command."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import psutil
from flwr.supercore import logger

from fl_app import cli
from fl_app.deploy.party_config import read_server
from fl_app.flower import command
from fl_app.flower.processes import managed_process
from fl_app.flower.superlink import free_ports, tool
from rsdgc.errors import RunError
from tests.federation import make_data

ROOT = Path(__file__).parents[2]
COMMON = ("batch-size=8", "learning-rate=0.02", "device=cpu")
QUICK_HEARTBEATS = Path(__file__).with_name("quick_heartbeats")
STEP_TIMEOUT_S = 900.0
"""For steps that take a minute at most on a quiet machine."""


def rsdgc(*words: str | Path) -> tuple[int, str]:
    """Run a command to its end; return its exit code and its output.

    It runs in this process, which has imported PyTorch already, and so does Flower's command.
    """
    output = io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    with (
        redirect_stdout(output),
        redirect_stderr(output),
        patch.object(sys, "argv", ["rsdgc", *map(str, words)]),
        patch.object(
            command, "subprocess", SimpleNamespace(**vars(subprocess) | {"run": run_flwr})
        ),
    ):
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            signal.signal(signal.SIGTERM, handler)
    return code, output.getvalue()


def run_flwr(words: list[str], *, env: Mapping[str, str], **_: Any) -> CompletedProcess[str]:
    """Run Flower's command in this process, in place of :func:`subprocess.run`."""
    output = io.StringIO()
    with (
        patch.dict(os.environ, env, clear=True),
        patch.object(sys, "__stdout__", output),
        patch.object(sys, "__stderr__", output),
        patch.object(logger.console_handler, "stream", output),
        redirect_stdout(output),
        redirect_stderr(output),
        suppress(SystemExit),
        warnings.catch_warnings(action="ignore"),
    ):
        from flwr.cli.app import app  # noqa: PLC0415  # which warns when it is imported

        app(words[1:])
    return CompletedProcess(words, 0, output.getvalue(), "")


class Process:
    """A command in a process of its own, and its log; ``variables`` are added to its environment.

    A site's sends signs of life more often (``quick_heartbeats``).
    """

    def __init__(
        self, stack: ExitStack, log: Path, *words: str | Path, variables: Mapping[str, str] = {}
    ) -> None:
        self.log_path = log
        plain = words[0] == "flower-supernode"
        command = [tool("flower-supernode")] if plain else [sys.executable, "-m", "fl_app.cli"]
        command += map(str, words[plain:])
        folders = [ROOT, QUICK_HEARTBEATS] if words[0] == "site" else [ROOT]
        path = os.pathsep.join(map(str, folders))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **variables}
        self.popen = stack.enter_context(managed_process(command, environment, log))

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, text: str) -> None:
        """Wait until the log contains a text."""
        until(lambda: text in self.log(), f"'{text}' in {self.log_path.name}", self)

    def end(self) -> int:
        """Wait until the process ends; return its exit code."""
        try:
            return self.popen.wait(STEP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.log_path.name} does not end:\n{self.log()}") from None


class Loopback:
    """A federation's folder, with its configuration adapted to this machine, and its processes.

    Parameters
    ----------
    stack : ExitStack
        Ends the processes.
    folder : Path
        Folder for all files.
    data : Path
        A partition with the sites.
    sites : tuple of str
        Names of the sites.
    """

    def __init__(self, stack: ExitStack, folder: Path, data: Path, sites: tuple[str, ...]) -> None:
        self.stack, self.folder, self.sites = stack, folder, sites
        self.made = folder / "federation"
        self.runs = folder / "runs"
        self._logs = 0
        port, *site_ports = free_ports(1 + len(sites))
        words = ["--sites", ",".join(sites), "--server", "127.0.0.1", "--port", str(port)]
        code, output = rsdgc("deploy", "init", *words, "--out", self.made)
        assert code == 0, output
        self.server_file = self.made / "server" / "server.toml"
        edit(
            self.server_file,
            listen=f"127.0.0.1:{port}",
            state_dir=str(folder / "server-state"),
            runs_dir=str(self.runs),
            min_free_gb=0.1,
        )
        for site, site_port in zip(sites, site_ports, strict=True):
            self.configure_site(site, data, site_port)

    def configure_site(self, site: str, data: Path, port: int) -> None:
        edit(
            self.site_file(site),
            data_dir=str(data),
            state_dir=str(self.folder / "site-state" / site),
            node_dir=str(self.folder / "node-state" / site),
            port=port,
            min_free_gb=0.1,
        )

    def site_file(self, site: str) -> Path:
        return self.made / "sites" / site / "site.toml"

    def start(self, name: str, *words: str | Path, **variables: str) -> Process:
        """Start a command in a process of its own, with a log of its own."""
        self._logs += 1
        log = self.folder / f"{name}-{self._logs}.log"
        return Process(self.stack, log, *words, variables=variables)

    def start_server(self) -> Process:
        server = self.start("server", "server", "start", "--config", self.server_file)
        until(self.server_answers, "the server answers", server)
        return server

    def start_site(self, site: str) -> Process:
        """Start a site's SuperNode, with its app if that is not a process of its own."""
        no_app = () if self.is_whole(site) else ("--no-app",)
        words = ("site", "start", *no_app, "--config", self.site_file(site))
        return self.start(site, *words, RSDGC_TEST_SLOW=str(self.slow(site)))

    def slow(self, site: str) -> Path:
        """Return the file that makes a site's app slow to start while it exists."""
        return self.folder / f"slow-{site}"

    def is_whole(self, site: str) -> bool:
        """Return whether a site's SuperNode starts the app itself; the first site's does not."""
        return site != self.sites[0]

    def start_app(self, site: str) -> Process:
        return self.start(f"{site}-app", "site", "start-app", "--config", self.site_file(site))

    def server(self, word: str, *words: str | Path) -> tuple[int, str]:
        return rsdgc("server", word, *words, "--config", self.server_file)

    def server_answers(self) -> bool:
        try:
            return read_server(self.server_file).superlink_endpoint.health().status == 200
        except RunError:
            return False

    def node(self, site: str) -> dict[str, Any]:
        """Return the record of a site's SuperNode."""
        path = self.folder / "node-state" / site / "node.json"
        return json.loads(path.read_text(encoding="utf-8"))

    def rows(self, run: str) -> list[dict[str, Any]]:
        """Return the rows that a run's ledger has so far."""
        path = self.runs / run / "rounds.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def summary(self, run: str) -> dict[str, Any]:
        return json.loads((self.runs / run / "summary.json").read_text(encoding="utf-8"))


class Running:
    """A federation, its server, which runs, and those of its sites that have been started."""

    def __init__(self, stack: ExitStack, folder: Path, sites: tuple[str, ...]) -> None:
        self.data = make_data(folder, sites=len(sites))
        self.federation = Loopback(stack, folder, self.data, sites)
        self.server = self.federation.start_server()
        code, output = self.federation.server("register")
        assert code == 0, output
        self.nodes: dict[str, Process] = {}
        self.apps: dict[str, Process] = {}
        self.runs: dict[str, Process] = {}

    def start(self, site: str) -> Process:
        """Start a site's SuperNode, and its app unless that runs already."""
        self.nodes[site] = self.federation.start_site(site)
        if site not in self.apps and not self.federation.is_whole(site):
            self.apps[site] = self.federation.start_app(site)
        return self.nodes[site]


def edit(path: Path, **values: Any) -> None:
    """Change values in a configuration file, as a person would with an editor."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for name, value in values.items():
        key = name.replace("_", "-")
        numbers = [i for i, line in enumerate(lines) if line.startswith(f"{key} = ")]
        assert len(numbers) == 1, f"{key} in {path}"
        lines[numbers[0]] = f"{key} = {json.dumps(value)}"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def until(condition: Callable[[], bool], description: str, *processes: Process) -> None:
    """Wait for a condition while the processes that should bring it about run."""
    deadline = time.monotonic() + STEP_TIMEOUT_S
    while not condition():
        for process in processes:
            ended = f"{process.log_path.name} has ended:\n{process.log()}"
            assert process.popen.poll() is None, ended
        logs = (f"\n--- {each.log_path.name}\n{each.log()[-3000:]}" for each in processes)
        late = f"not within {STEP_TIMEOUT_S:g} s: {description}"
        assert time.monotonic() < deadline, late + "".join(logs)
        time.sleep(0.1)


def kill(pid: int) -> None:
    """End a process so that it cannot report its end."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def starts_for(pid: int, seconds: float) -> bool:
    """Return whether a slow app has been starting for so long, and never a second one beside it.

    ``pid`` is the process that has started Flower.
    """
    forks = apps_of(pid)
    assert len(forks) <= 1
    return bool(forks) and time.time() - forks[0].create_time() > seconds


def apps_of(pid: int) -> list[psutil.Process]:
    """Return the processes that work on a message or a run: each is a fork of its parent."""
    tree = psutil.Process(pid).children(recursive=True)
    commands = {process.pid: command_of(process) for process in tree}
    parents = {process.pid: parent_of(process) for process in tree}
    return [p for p in tree if commands[p.pid] and commands[p.pid] == commands.get(parents[p.pid])]


def has_pytorch(pid: int) -> bool:
    """Return whether a process has loaded PyTorch; not if it has ended."""
    try:
        return any("libtorch" in mapped.path for mapped in psutil.Process(pid).memory_maps())
    except psutil.NoSuchProcess:
        return False


def command_of(process: psutil.Process) -> list[str]:
    """Return a process's command; empty if it has ended since it was listed."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def parent_of(process: psutil.Process) -> int:
    """Return the number of a process's parent; 0 if the process has ended since it was listed."""
    try:
        return process.ppid()
    except psutil.NoSuchProcess:
        return 0
