"""Run a whole federation on this machine, through Flower's simulation.

Settings, data and model are checked first, so that a mistake costs a second and leaves nothing
behind. Then a private SuperLink (:mod:`fl_app.flower.superlink`) runs the federation, its log is
printed, and it is ended with the run.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from clients.model_parts import ModelParts
from data_prep.dataset import Dataset, open_data
from fl_app.default_data import default_data, default_folder
from fl_app.flower.command import FlowerCli
from fl_app.flower.superlink import CONNECTION, superlink
from fl_app.home import home
from fl_app.prepared_model import check_modalities, prepare_model
from fl_app.runs.folder import check_resumable, in_use, read_settings
from fl_app.runs.lock import refuse_if_running
from fl_app.settings import Settings, parse_budget, parse_overrides
from fl_app.site_data import NodeData, check_trainable, describe_sites
from rsdgc import fit_ratios, uniform_shares
from rsdgc.errors import RunError, SettingError
from rsdgc.registry import add_code_dir
from strategies.sites import SiteManager


def simulate(settings: Settings, *, num_sites: int, cpus_per_site: int) -> None:
    """Run the simulation and wait for its end; the log goes to standard output.

    As many sites work in parallel as there are CPUs, and shares of a GPU, for them.
    """
    on_gpu = settings.device != "cpu" and torch.cuda.is_available()
    gpus_per_site = _gpus_per_site(settings.sites_per_gpu) if on_gpu else 0.0
    resources = (
        f"num-supernodes={num_sites} client-resources-num-cpus={cpus_per_site} "
        f"client-resources-num-gpus={gpus_per_site}"
    )
    # As many threads as CPUs held: with more, sites that work in parallel slow each other down.
    threads = {"OMP_NUM_THREADS": str(cpus_per_site)}
    with (
        tempfile.TemporaryDirectory(prefix="rsdgc-", ignore_cleanup_errors=True) as flower_home,
        superlink(Path(flower_home), simulation=True, variables=threads) as (environment, _),
    ):
        flower = FlowerCli(environment, CONNECTION)
        run_id = flower.submit(settings, ["--federation-config", resources])
        log = flower.follow(run_id)
        run = flower.outcome(run_id)
    if not run.complete:
        raise RunError(log.error or f"the run ended as {run.description}")
    print(log.headline, flush=True)  # the command's last line


def _gpus_per_site(sites_per_gpu: int) -> float:
    """Return a share of which so many are at most 1; Ray counts in ten-thousandths."""
    return (10_000 // sites_per_gpu) / 10_000


def run_simulation(
    overrides: list[str], options: Mapping[str, Any], *, cpus_per_site: int, force: bool
) -> Path:
    """Simulate with settings from ``key=value`` words and options, and return the run folder.

    Nothing is written before the settings, the data and the model are known to be usable.
    """
    settings = Settings.from_mapping({**parse_overrides(overrides), **options})
    # At once, because a run to resume or to compare with has recorded the absolute path.
    settings = settings.with_absolute_weights()
    code_dir = Path(settings.code_dir).absolute()
    add_code_dir(code_dir)
    if settings.resume:
        folder, _ = check_resumable(settings)
        refuse_if_running(folder)
    # Sites and server open the data for themselves; generated here, no process has to wait.
    if not settings.data_dir and not default_folder().exists():
        print("preparing the built-in synthetic data, once", flush=True)
    data = Path(settings.data_dir).absolute() if settings.data_dir else default_data()
    dataset = open_data(data, settings.modality_names)
    _check_feasible(settings, dataset)
    out = folder if settings.resume else _new_run_folder(settings, dataset, force=force)
    # Absolute, because Flower's processes work in other folders.
    settings = settings.model_copy(
        update={
            "data_dir": str(data),
            "out": str(out),
            "code_dir": str(code_dir),
            "state_dir": settings.state_dir and str(Path(settings.state_dir).absolute()),
            "min_sites": len(dataset.sites),  # all start at once, and every run has the same ones
        }
    )
    simulate(settings, num_sites=len(dataset.sites), cpus_per_site=cpus_per_site)
    if not (out / "summary.json").exists():
        raise RunError(f"the run left no summary in {out}; see the log above")
    return out


def resume_simulation(run: Path, *, cpus_per_site: int) -> Path:
    """Continue an unfinished simulation in its folder ``run`` and return the folder.

    With other ``cpus_per_site`` than before, the last bits of the result can change.
    """
    settings, _ = read_settings(run.absolute())
    options = {**settings.to_mapping(), "out": str(run.absolute()), "resume": True}
    return run_simulation([], options, cpus_per_site=cpus_per_site, force=False)


def _check_feasible(settings: Settings, dataset: Dataset) -> None:
    """Raise an error if this machine, the sites, the model or the budgets cannot do the run."""
    check_trainable(dataset, {name: name for name in dataset.sites})
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingError("device='cuda', but this machine has no usable GPU; use device=cpu")
    # As many as SiteManager.draw takes for a round.
    drawn = max(1, round(settings.fraction * len(dataset.sites)))
    if settings.quorum > drawn:
        raise SettingError(
            f"quorum={settings.quorum} is more than the {drawn} sites that train in a round, by "
            f"fraction={settings.fraction:g} of {len(dataset.sites)}: lower quorum, raise fraction"
        )
    node = NodeData(dataset, {name: name for name in dataset.sites})
    data, site_infos = describe_sites(node)
    sites = SiteManager(data, min_sites=len(site_infos))
    sites.register(data, site_infos)
    sites.fix_modalities(settings.modality_names)
    with torch.device("meta"):  # shapes alone are enough, and cost no memory
        weights = settings.initial_weights()
        model, _ = prepare_model(settings, sites.data.modalities, len(data.classes), weights)
        spec = ModelParts(model, settings.batch_norm).spec
    check_modalities(sites, settings, model)
    down, final = settings.resolved("budget_down"), settings.resolved("budget_final")
    for budget in (settings.budget, down, final):
        budget_bytes = parse_budget(budget, spec.dense_bytes)
        if settings.method != "fedavg" and budget_bytes < spec.dense_bytes:
            fit_ratios(spec, settings.scheme(), uniform_shares(spec), budget_bytes)


def _new_run_folder(settings: Settings, dataset: Dataset, *, force: bool) -> Path:
    if not settings.out:
        first = folder = home() / "runs" / f"{dataset.name}-{settings.method}-{settings.seed}"
        number = 1
        while folder.exists():
            number += 1
            folder = first.with_name(f"{first.name}-{number}")
        return folder
    out = Path(settings.out).absolute()
    if force and (out / "config.json").exists():
        refuse_if_running(out)
        shutil.rmtree(out)
    if in_use(out):
        raise SettingError(f"run folder {out} is not empty; choose another, or use --force")
    return out
