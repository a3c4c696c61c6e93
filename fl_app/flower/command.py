"""Flower's ``flwr`` command for one SuperLink.

``flwr run`` exits with 0 even when the run failed. So a run is submitted, its log followed, and its
status read afterwards.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_app.flower.log_filter import LogFilter, print_line
from fl_app.flower.superlink import CONNECTION, tool
from fl_app.settings import Settings
from rsdgc.errors import RunError
from strategies.transport import error_summary

_OUTCOME_TIMEOUT_S = 30.0
"""Flower enters the end of a run some seconds after the end of its log; several times that."""
_POLL_S = 0.5
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class FlowerRun:
    """A run as Flower's SuperLink knows it."""

    run_id: str
    status: str
    """Such as ``running`` or ``finished:completed``."""
    details: str
    """Why it failed; empty where Flower does not say."""
    bytes_up: int
    """Network traffic from the sites, as Flower counts it; 0 in a simulation."""
    bytes_down: int

    @property
    def over(self) -> bool:
        """Whether it has ended, with success or not."""
        return self.status.startswith("finished")

    @property
    def complete(self) -> bool:
        """Whether it has ended with success."""
        return self.status == "finished:completed"

    @property
    def description(self) -> str:
        """The status, and the reason if Flower gives one, in one line."""
        return f"{self.status}: {error_summary(self.details)}" if self.details else self.status


@dataclass(frozen=True)
class FlowerCli:
    """The command, for one SuperLink; a method raises :class:`RunError` if that does not answer."""

    environment: Mapping[str, str]
    """With a ``FLWR_HOME`` whose ``config.toml`` has the connection."""

    def submit(self, settings: Settings, options: Iterable[str] = ()) -> str:
        """Submit a run of this app and return Flower's number, or raise :class:`RunError`."""
        with tempfile.TemporaryDirectory(prefix="rsdgc-", ignore_cleanup_errors=True) as workspace:
            config = Path(workspace) / "run.toml"
            lines = [
                f"{key} = {json.dumps(value)}\n" for key, value in settings.to_mapping().items()
            ]
            config.write_text("".join(lines), encoding="utf-8")
            app = app_folder(Path(workspace))
            words = [str(app), CONNECTION, "--run-config", str(config)]
            answer = self.query("run", *words, *options)
        run_id = answer.get("run-id")
        if not run_id:
            raise RunError(f"Flower refused the run: {error_summary(answer.get('error-message'))}")
        return str(run_id)

    def follow(
        self, run_id: str, *, times: bool = False, show: Callable[[str], None] = print_line
    ) -> LogFilter:
        """Show a run's log until it ends, with times or without; return the filter."""
        log = LogFilter(times=times)
        command = [tool("flwr"), "log", run_id, CONNECTION, "--stream"]
        with subprocess.Popen(  # noqa: S603  # our own command, no shell
            command,
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            preexec_fn=_end_with_parent,  # noqa: PLW1509  # calls the system once, no Python locks
        ) as process:
            assert process.stdout is not None
            try:
                for line in process.stdout:
                    shown = log.show(line)
                    if shown is not None:
                        show(shown)
                process.wait()
            finally:  # on an exception or a signal, the command would follow the log for ever
                process.kill()
        return log

    def runs(self) -> list[FlowerRun]:
        """Return all runs, the newest first."""
        answer = self.query("list", CONNECTION)
        runs = sorted(answer.get("runs", []), key=lambda run: str(run["pending-at"]), reverse=True)
        return [_run(run) for run in runs]

    def run(self, run_id: str) -> FlowerRun:
        """Return one run, or raise :class:`RunError` if the SuperLink does not have it."""
        answer = self.query("list", CONNECTION, "--run-id", run_id)
        if not answer.get("runs"):
            raise RunError(
                f"run {run_id} is not found: {error_summary(answer.get('error-message'))}"
            )
        return _run(answer["runs"][0])

    def active_run_ids(self) -> list[str]:
        """Return Flower's numbers of the runs that are not over, the newest first."""
        return [run.run_id for run in self.runs() if not run.over]

    def outcome(self, run_id: str) -> FlowerRun:
        """Return a run whose log has ended, once Flower has entered its end."""
        deadline = time.monotonic() + _OUTCOME_TIMEOUT_S
        run = self.run(run_id)
        while not run.over and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            run = self.run(run_id)
        return run

    def query(self, *words: str) -> dict[str, Any]:
        """Run the command with ``--format json`` and return its answer."""
        process = subprocess.run(  # noqa: S603  # our own command, no shell
            [tool("flwr"), *words, "--format", "json"],
            env=dict(self.environment),
            capture_output=True,
            text=True,
            check=False,
        )
        start = process.stdout.find("{")  # Flower may print warnings before the answer
        if start < 0:
            lines = (process.stderr.strip() or process.stdout.strip()).splitlines()
            raise RunError(f"flwr {words[0]} failed: {lines[-1] if lines else 'no output'}")
        answer: dict[str, Any] = json.loads(process.stdout[start:])
        return answer

    def request(self, *words: str) -> dict[str, Any]:
        """As :meth:`query`, but raise :class:`RunError` if Flower refuses."""
        answer = self.query(*words)
        if not answer.get("success"):
            raise RunError(f"Flower refused: {error_summary(answer.get('error-message'))}")
        return answer


def _end_with_parent() -> None:
    """Have Linux end this process when its parent is gone, even if that was killed."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def app_folder(workspace: Path) -> Path:
    """Return a folder from which Flower can bundle the app.

    In a checkout that is its root; for an installed package the sources are copied into
    ``workspace``.
    """
    packages = Path(__file__).resolve().parents[2]
    if (packages / "pyproject.toml").exists():
        return packages
    folder = workspace / "app"
    for name in ("rsdgc", "clients", "strategies", "data_prep", "fl_app"):
        shutil.copytree(packages / name, folder / name, ignore=shutil.ignore_patterns("*.pyc"))
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(packages / "fl_app" / "bundle" / name, folder)
    return folder


def _run(run: Mapping[str, Any]) -> FlowerRun:
    traffic = run.get("network-traffic") or {}
    details = str(run.get("status-details") or "")
    return FlowerRun(
        run_id=str(run["run-id"]),
        status=str(run["status"]),
        details=details if details != "N/A" else "",  # what Flower's command writes for none
        bytes_up=int(traffic.get("inbound-bytes") or 0),
        bytes_down=int(traffic.get("outbound-bytes") or 0),
    )
