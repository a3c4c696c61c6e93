"""A federation on the loopback, as an operator makes and runs it: every step is a command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from fl_app.deploy.party_config import read_server
from fl_app.deploy.server_checks import superlink_endpoint
from fl_app.flower.processes import managed_process
from fl_app.flower.superlink import free_ports
from rsdgc.errors import RunError

ROOT = Path(__file__).parents[2]
STEP_TIMEOUT_S = 900.0
"""For what takes a minute at most on a quiet machine."""


def rsdgc(*words: str | Path, timeout_s: float = STEP_TIMEOUT_S) -> tuple[int, str]:
    """Run a command to its end; return its exit code and all that it said."""
    done = subprocess.run(
        command(*words),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return done.returncode, done.stdout


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "fl_app.cli", *map(str, words)]


class Process:
    """A command that goes on by itself, and its log."""

    def __init__(self, stack: ExitStack, log: Path, *words: str | Path) -> None:
        self.log_path = log
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        self.popen = stack.enter_context(managed_process(command(*words), environment, log))

    def log(self) -> str:
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, text: str) -> None:
        """Wait until the log has a text."""
        until(lambda: text in self.log(), f"'{text}' in {self.log_path.name}", self)

    def end(self) -> int:
        """Wait for the end; return the exit code."""
        try:
            return self.popen.wait(STEP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.log_path.name} goes on:\n{self.log()}") from None


class Loopback:
    """A federation's folder, its configuration fitted to this machine, and its processes.

    Parameters
    ----------
    stack : ExitStack
        Ends the processes.
    folder : Path
        For everything.
    data : Path
        A partition with the sites.
    sites : sequence of str
        Their names.
    """

    def __init__(self, stack: ExitStack, folder: Path, data: Path, sites: tuple[str, ...]) -> None:
        self.stack, self.folder, self.sites = stack, folder, sites
        self.made = folder / "federation"
        self.runs = folder / "runs"
        self._logs = 0
        port, *own = free_ports(1 + len(sites))
        words = ["--sites", ",".join(sites), "--server", "127.0.0.1", "--port", str(port)]
        code, said = rsdgc("deploy", "init", *words, "--out", self.made)
        assert code == 0, said
        self.server_file = self.made / "server" / "server.toml"
        edit(
            self.server_file,
            listen=f"127.0.0.1:{port}",
            state_dir=str(folder / "server-state"),
            runs_dir=str(self.runs),
            min_free_gb=0.1,
        )
        for site, its_port in zip(sites, own, strict=True):
            self.fit_site(site, data, its_port)

    def fit_site(self, site: str, data: Path, port: int) -> None:
        edit(
            self.site_file(site),
            data_dir=str(data),
            state_dir=str(self.folder / "site-state" / site),
            port=port,
            min_free_gb=0.1,
        )

    def site_file(self, site: str) -> Path:
        return self.made / "sites" / site / "site.toml"

    def start(self, name: str, *words: str | Path) -> Process:
        """Start a command; its log has a name of its own, however often it is started."""
        self._logs += 1
        return Process(self.stack, self.folder / f"{name}-{self._logs}.log", *words)

    def start_server(self) -> Process:
        server = self.start("server", "server", "start", "--config", self.server_file)
        until(self.server_answers, "the server answers", server)
        return server

    def start_site(self, site: str) -> Process:
        return self.start(site, "site", "start", "--config", self.site_file(site))

    def server(self, word: str, *words: str | Path) -> tuple[int, str]:
        return rsdgc("server", word, *words, "--config", self.server_file)

    def server_answers(self) -> bool:
        try:
            return superlink_endpoint(read_server(self.server_file)).health().status == 200
        except RunError:
            return False

    def node(self, site: str) -> dict[str, Any]:
        """Return what a site's state folder says of its SuperNode."""
        path = self.folder / "site-state" / site / "node.json"
        return json.loads(path.read_text(encoding="utf-8"))

    def rows(self, run: str) -> list[dict[str, Any]]:
        """Return the ledger's lines of a run, so far."""
        path = self.runs / run / "rounds.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def summary(self, run: str) -> dict[str, Any]:
        return json.loads((self.runs / run / "summary.json").read_text(encoding="utf-8"))


def edit(path: Path, **values: Any) -> None:
    """Change values in a configuration file, as a person would with an editor."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for name, value in values.items():
        key = name.replace("_", "-")
        places = [i for i, line in enumerate(lines) if line.startswith(f"{key} = ")]
        assert len(places) == 1, f"{key} in {path}"
        lines[places[0]] = f"{key} = {json.dumps(value)}"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def until(true: Callable[[], bool], what: str, *processes: Process) -> None:
    """Wait until something is true, as long as the processes that should make it so go on."""
    deadline = time.monotonic() + STEP_TIMEOUT_S
    while not true():
        for one in processes:
            assert one.popen.poll() is None, f"{one.log_path.name} has ended:\n{one.log()}"
        assert time.monotonic() < deadline, f"not within {STEP_TIMEOUT_S:g} s: {what}" + "".join(
            f"\n--- {one.log_path.name}\n{one.log()[-3000:]}" for one in processes
        )
        time.sleep(0.1)


def kill(pid: int) -> None:
    """End a process without a chance to say so."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
