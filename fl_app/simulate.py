"""Run the whole federation on one machine, through Flower's own simulation.

``flwr run`` leaves a server running in the background, reuses the environment that its first call
had, and exits with 0 even when the run failed. Here a private SuperLink is started for the one
run, on free ports and with the present environment, its log is passed through, and it is ended
when the run is over, whatever happened.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_app.config import Scalar, Settings
from fl_app.log_view import LogView
from fl_app.superlink import CONNECTION, superlink, tool
from rsdgc.errors import RunError
from strategies.exchange import last_line


@dataclass(frozen=True)
class Machine:
    """How a simulation is laid out on this machine.

    Attributes
    ----------
    num_sites : int
        Nodes to simulate, one a site.
    cpus_per_site : int
        CPUs that a site's work holds; sites work side by side while CPUs last.
    gpus_per_site : float
        Share of a GPU that a site's work holds; 0 without a GPU.
    """

    num_sites: int
    cpus_per_site: int = 1
    gpus_per_site: float = 0.0

    def federation_config(self) -> str:
        """Return the text for ``flwr run --federation-config``."""
        return (
            f"num-supernodes={self.num_sites} client-resources-num-cpus={self.cpus_per_site} "
            f"client-resources-num-gpus={float(self.gpus_per_site)}"
        )


def simulate(settings: Settings, machine: Machine) -> None:
    """Run the simulation and wait for its end; the log goes to standard output.

    Raises
    ------
    RunError
        If Flower does not start, or the run ends in any way but complete.
    """
    home = Path(tempfile.mkdtemp(prefix="rsdgc-"))
    try:
        # As many threads as CPUs held: with more, sites that work side by side stall each other.
        threads = {"OMP_NUM_THREADS": str(machine.cpus_per_site)}
        with superlink(home, simulation=True, variables=threads) as (environment, _):
            run_id = _submit(home, environment, settings, machine)
            log = _follow(environment, run_id)
            status, details = _status(environment, run_id)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if status != "finished:completed":
        raise RunError(log.error or f"the run ended as {status}: {last_line(details)}")
    print(log.headline, flush=True)  # the command's last line


def app_folder(workspace: Path) -> Path:
    """Return a folder from which Flower can bundle the app.

    In a checkout that is its root; for an installed package the sources are laid out anew in
    ``workspace``.
    """
    packages = Path(__file__).resolve().parents[1]
    if (packages / "pyproject.toml").exists():
        return packages
    folder = workspace / "app"
    for name in ("rsdgc", "clients", "strategies", "data_prep", "fl_app"):
        shutil.copytree(packages / name, folder / name, ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(packages / "fl_app" / "bundle" / "pyproject.toml", folder)
    shutil.copy(packages / "fl_app" / "bundle" / "LICENSE", folder)
    return folder


def _submit(
    home: Path, environment: Mapping[str, str], settings: Settings, machine: Machine
) -> str:
    config = home / "run.toml"
    lines = [f"{key} = {_toml(value)}" for key, value in settings.to_mapping().items()]
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    answer = _flwr(
        environment,
        ["run", str(app_folder(home)), CONNECTION, "--format", "json"],
        ["--run-config", str(config), "--federation-config", machine.federation_config()],
    )
    run_id = answer.get("run-id")
    if not run_id:
        raise RunError(f"Flower refused the run: {last_line(answer.get('error-message'))}")
    return str(run_id)


def _follow(environment: Mapping[str, str], run_id: str) -> LogView:
    """Pass the log through until the run is over; return what was made of it."""
    view = LogView()
    command = [tool("flwr"), "log", run_id, CONNECTION, "--stream"]
    with subprocess.Popen(  # noqa: S603  # our own command, no shell
        command,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                shown = view.show(line)
                if shown is not None:
                    print(shown, flush=True)  # the log is what the command prints
            process.wait()
        finally:
            process.kill()
    return view


def _status(environment: Mapping[str, str], run_id: str) -> tuple[str, str]:
    for _ in range(20):
        answer = _flwr(environment, ["list", CONNECTION, "--run-id", run_id, "--format", "json"])
        run = answer["runs"][0]
        if str(run["status"]).startswith("finished"):
            break
        time.sleep(0.5)
    return str(run["status"]), str(run.get("status-details") or "")


def _flwr(environment: Mapping[str, str], *words: list[str]) -> dict[str, Any]:
    command = [tool("flwr"), *(word for group in words for word in group)]
    done = subprocess.run(  # noqa: S603  # our own command, no shell
        command, env=dict(environment), capture_output=True, text=True, check=False
    )
    start = done.stdout.find("{")
    if start < 0:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise RunError(f"flwr {words[0][0]} failed: {lines[-1] if lines else 'no output'}")
    answer: dict[str, Any] = json.loads(done.stdout[start:])
    return answer


def _toml(value: Scalar) -> str:
    return json.dumps(value)
