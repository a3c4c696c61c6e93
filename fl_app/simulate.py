"""Run the whole federation on one machine, through Flower's own simulation.

``flwr run`` leaves a server running in the background, reuses the environment that its first call
had, and exits with 0 even when the run failed. Here a private SuperLink is started for the one
run, on free ports and with the present environment, its log is passed through, and it is ended
when the run is over, whatever happened.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from fl_app.config import Settings
from fl_app.flower_cli import FlowerCli
from fl_app.superlink import CONNECTION, superlink
from rsdgc.errors import RunError


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
            flower = FlowerCli(environment, CONNECTION)
            run_id = flower.submit(settings, ["--federation-config", machine.federation_config()])
            log = flower.follow(run_id)
            run = flower.outcome(run_id)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    if not run.complete:
        raise RunError(log.error or f"the run ended as {run.told}")
    print(log.headline, flush=True)  # the command's last line
