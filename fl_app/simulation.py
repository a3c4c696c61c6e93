"""Run the whole federation on one machine, through Flower's own simulation.

``flwr run`` leaves a server running in the background, reuses the environment that its first call
had, and exits with 0 even when the run failed. Here a private SuperLink is started for the one
run, on free ports and with the present environment, its log is passed through, and it is ended
when the run is over, whatever happened.

Check everything that can be checked, then simulate.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from clients.weights import model_spec
from data_prep.dataset import Dataset, open_data
from fl_app.default_data import default_data, default_folder
from fl_app.flower.command import FlowerCli
from fl_app.flower.superlink import CONNECTION, superlink
from fl_app.home import home
from fl_app.models import build_model
from fl_app.runs.folder import check_resumable, in_use, read_settings
from fl_app.runs.lock import refuse_if_running
from fl_app.settings import Settings, parse_budget, parse_overrides
from fl_app.site_data import check_trainable
from rsdgc import fit_ratios, uniform_shares
from rsdgc.errors import RunError, SettingError


@dataclass(frozen=True)
class SimulationResources:
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


def simulate(settings: Settings, machine: SimulationResources) -> None:
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
        raise RunError(log.error or f"the run ended as {run.description}")
    print(log.headline, flush=True)  # the command's last line


GPU_SHARE = 0.25
"""Share of a GPU that one site holds: four sites train side by side on it."""


def run_simulation(
    overrides: list[str], options: Mapping[str, Any], *, cpus_per_site: int, force: bool
) -> Path:
    """Simulate with settings from ``key=value`` words and command-line options.

    Nothing is written before the settings, the data and the model have been found usable.

    Returns
    -------
    Path
        The run folder.
    """
    settings = Settings.from_mapping({**parse_overrides(overrides), **options})
    if settings.resume:
        folder, _ = check_resumable(settings)  # says what is wrong before anything starts
        refuse_if_running(folder)
    data = Path(settings.data_dir).absolute() if settings.data_dir else _built_in()
    dataset = open_data(data)
    _check(settings, dataset)
    out = (
        Path(settings.out).absolute()
        if settings.resume
        else _run_folder(settings, dataset, force=force)
    )
    settings = settings.model_copy(
        update={
            "data_dir": str(data),
            "out": str(out),
            "state_dir": settings.state_dir and str(Path(settings.state_dir).absolute()),
            "min_sites": len(dataset.sites),
        }
    )
    simulate(settings, _resources(settings, len(dataset.sites), cpus_per_site))
    if not (out / "summary.json").exists():
        raise RunError(f"the run left no summary in {out}; see the log above")
    return out


def resume_simulation(run: Path, *, cpus_per_site: int) -> Path:
    """Go on with a simulation that did not finish, from its last checkpoint.

    Parameters
    ----------
    run : Path
        Its folder.
    cpus_per_site : int
        CPUs of one site's work; with another number of threads the result may differ in the
        last bits.

    Returns
    -------
    Path
        The run folder.
    """
    settings, _ = read_settings(run.absolute())
    options = {**settings.to_mapping(), "out": str(run.absolute()), "resume": True}
    return run_simulation([], options, cpus_per_site=cpus_per_site, force=False)


def _built_in() -> Path:
    if not default_folder().exists():
        print("preparing the built-in synthetic data, once", flush=True)
    return default_data()


def _check(settings: Settings, dataset: Dataset) -> None:
    check_trainable(dataset, {name: name for name in dataset.sites})
    if settings.quorum > len(dataset.sites):
        raise SettingError(
            f"quorum={settings.quorum} is more than the {len(dataset.sites)} sites of the data"
        )
    store = dataset.store
    with torch.device("meta"):
        model = build_model(settings.model, store.num_bands, len(store.classes), store.chip_px)
    spec = model_spec(model)
    for budget in (settings.budget, settings.budget_down, settings.budget_final):
        budget_bytes = parse_budget(budget, spec.dense_bytes)
        if settings.method != "fedavg" and budget_bytes < spec.dense_bytes:
            fit_ratios(spec, settings.scheme(), uniform_shares(spec), budget_bytes)


def _run_folder(settings: Settings, dataset: Dataset, *, force: bool) -> Path:
    if not settings.out:
        return _unused(home() / "runs" / f"{dataset.name}-{settings.method}-{settings.seed}")
    out = Path(settings.out).absolute()
    if force and (out / "config.json").exists():
        refuse_if_running(out)
        shutil.rmtree(out)
    if in_use(out):
        raise SettingError(f"run folder {out} is not empty; choose another, or use --force")
    return out


def _unused(folder: Path) -> Path:
    number, candidate = 1, folder
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def _resources(settings: Settings, num_sites: int, cpus_per_site: int) -> SimulationResources:
    on_gpu = settings.device != "cpu" and torch.cuda.is_available()
    if settings.device == "cuda" and not on_gpu:
        raise SettingError("device='cuda', but this machine has no usable GPU; use device=cpu")
    return SimulationResources(num_sites, cpus_per_site, GPU_SHARE if on_gpu else 0.0)
