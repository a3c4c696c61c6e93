"""Run a whole federation on this machine, through Flower's simulation.

Settings, folders, data and model are checked first, so that a mistake costs a second and leaves
nothing behind. Then a private SuperLink (:mod:`fl_app.flower.superlink`) runs the federation, its
log is printed, and it is ended with the run.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch

from clients.model_parts import ModelParts
from data_prep.dataset import Dataset, open_data
from fl_app.default_data import default_data, default_folder
from fl_app.flower.command import FlowerCli
from fl_app.flower.superlink import superlink
from fl_app.home import home
from fl_app.interruption import explain_interruption
from fl_app.live.terminal_view import run_display
from fl_app.models.code_signature import packages_that_hide_ours
from fl_app.prepared_model import check_modalities, prepare_model
from fl_app.runs.lock import refuse_if_running
from fl_app.runs.own_code import check_code
from fl_app.runs.records import CONFIG_FILE, SUMMARY_FILE, RunConfig
from fl_app.runs.replacement import check_replaceable, in_use, replacing
from fl_app.runs.resumption import check_resumable, settings_to_resume
from fl_app.settings import Settings
from fl_app.site_data import NodeData, check_trainable, describe_sites
from fl_app.strategy import check_budgets
from fl_app.tracking import check_installed
from rsdgc.durable import probe_folder
from rsdgc.errors import RunError, SettingError
from rsdgc.registry import add_code_dir
from strategies.checkpoints import Checkpoints
from strategies.sites import SiteManager, sites_in_round


def simulate(settings: Settings, *, num_sites: int, cpus_per_site: int, title: str = "") -> None:
    """Run the simulation and wait for its end; the log goes to standard output.

    As many sites work in parallel as there are CPUs, and shares of a GPU, for them. A terminal
    shows the run as a table, with ``title`` before its name.
    """
    num_gpus = 0 if settings.device == "cpu" else torch.cuda.device_count()
    gpus_per_site = _gpus_per_site(settings.sites_per_gpu) if num_gpus else 0.0
    resources = (
        f"num-supernodes={num_sites} client-resources-num-cpus={cpus_per_site} "
        f"client-resources-num-gpus={gpus_per_site}"
    )
    # As many threads as CPUs held: with more, sites that work in parallel slow each other down.
    threads = {"OMP_NUM_THREADS": str(cpus_per_site)}
    at_once = _sites_at_once(num_sites, cpus_per_site, num_gpus * settings.sites_per_gpu)
    print(
        f"starting Flower's simulation: {num_sites} sites, {at_once} at a time, which takes some "
        f"seconds; run folder: {settings.out}",
        flush=True,
    )
    with (
        tempfile.TemporaryDirectory(prefix="rsdgc-", ignore_cleanup_errors=True) as flower_home,
        run_display(title) as display,
    ):
        display.stage("starting Flower's server")
        with superlink(Path(flower_home), simulation=True, variables=threads) as (variables, _):
            flower = FlowerCli(variables)
            display.stage("handing the run to Flower")
            run_id = flower.submit(settings, ["--federation-config", resources])
            display.stage("starting the server and Ray's workers")
            log = flower.follow(run_id, show=display.show)
            run = flower.outcome(run_id)
    if not run.complete:
        raise RunError(log.error or f"the run ended as {run.description}")
    print(log.headline, flush=True)  # the command's last line


def _sites_at_once(num_sites: int, cpus_per_site: int, gpu_places: int) -> int:
    """Return how many sites work in parallel; without a GPU there are no places on one."""
    places = (os.cpu_count() or 1) // cpus_per_site
    return max(1, min(num_sites, places, gpu_places or places))


def _gpus_per_site(sites_per_gpu: int) -> float:
    """Return a share of which so many are at most 1; Ray counts in ten-thousandths."""
    return (10_000 // sites_per_gpu) / 10_000


def run_simulation(
    settings: Settings, *, cpus_per_site: int, force: bool = False, title: str = ""
) -> Path:
    """Simulate and return the run folder.

    Nothing is written before the settings, the folders, the data and the model are known to be
    usable. With ``force`` an earlier run in the folder is replaced. ``title`` stands before the
    name of the run where a terminal shows it.
    """
    _check_machine(settings, cpus_per_site)
    # At once: a run to resume or to compare with has recorded the absolute paths, and Flower's
    # processes work in other folders.
    settings = settings.with_absolute_paths()
    code_dir = Path(settings.code_dir).absolute()
    add_code_dir(code_dir)
    _check_folders(settings, force=force)
    # Sites and server open the data for themselves; generated here, no process has to wait.
    if not settings.data_dir and not default_folder().exists():
        print("preparing the built-in synthetic data, once", flush=True)
    data = Path(settings.data_dir) if settings.data_dir else default_data()
    dataset = open_data(data, settings.modality_names)
    if settings.resume:
        _check_same(settings, dataset)
    _check_feasible(settings, dataset)
    out = Path(settings.out) if settings.out else _free_run_folder(settings, dataset)
    settings = settings.model_copy(
        update={
            "data_dir": str(data),
            "out": str(out),
            "code_dir": str(code_dir),
            "min_sites": len(dataset.sites),  # all start at once, and every run has the same ones
        }
    )
    place = replacing(out) if force and not settings.resume else nullcontext()
    saved = Checkpoints(out, 0, 1).rounds() if settings.resume else []
    with place, explain_interruption(lambda: what_stands(out, settings.rounds)):
        num_sites = len(dataset.sites)
        try:
            simulate(settings, num_sites=num_sites, cpus_per_site=cpus_per_site, title=title)
        except RunError as error:
            # A complete run's report can be written again; one without a checkpoint starts anew,
            # and one that was resumed and got no further would end so again.
            rounds = Checkpoints(out, 0, 1).rounds()
            if not rounds or (rounds == saved and not (out / SUMMARY_FILE).exists()):
                raise
            raise RunError(f"{error}; {what_stands(out, settings.rounds)}") from error
        if not (out / SUMMARY_FILE).exists():
            raise RunError(f"the run left no summary in {out}; see the log above")
    return out


def resume_simulation(run: Path, overrides: list[str], *, cpus_per_site: int) -> Path:
    """Continue an unfinished simulation in its folder ``run`` and return the folder.

    ``overrides`` are ``key=value`` for what :func:`~fl_app.runs.resumption.settings_to_resume`
    allows. With other ``cpus_per_site`` than before, the last bits of the result can change.
    """
    settings = settings_to_resume(run.absolute(), overrides)
    return run_simulation(settings, cpus_per_site=cpus_per_site)


def what_stands(out: Path, rounds: int) -> str:
    """Say what an interrupted run has left in its folder, and which command goes on from there."""
    name = shlex.quote(str(out))
    if (out / SUMMARY_FILE).exists():
        # Its report is the last thing that a run writes, and may be of an earlier round.
        return f"the run in {out} is complete; rsdgc report {name} writes its report"
    if not (out / CONFIG_FILE).exists():
        return "the run had not begun, and left nothing; the same command starts it"
    done = max(Checkpoints(out, 0, 1).rounds(), default=0)
    where = f"from round {done + 1} of {rounds}" if done else "from the start: no checkpoint yet"
    return f"the run is in {out}; rsdgc simulate --resume {name} goes on {where}"


def _check_machine(settings: Settings, cpus_per_site: int) -> None:
    """Raise :class:`SettingError` if this machine or the current folder cannot do the run."""
    check_installed(settings.trackers)
    cpus = os.cpu_count() or 1
    if cpus_per_site > cpus:
        raise SettingError(
            f"--cpus-per-site is {cpus_per_site}, but this machine has {cpus} CPUs: lower it"
        )
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingError("device='cuda', but this machine has no usable GPU; use device=cpu")
    if hiding := packages_that_hide_ours(Path.cwd()):
        raise SettingError(
            f"{hiding[0]} would hide the package of that name that rsdgc consists of: rename it, "
            "or start rsdgc in another folder, with code-dir if the run needs your code"
        )


def _check_folders(settings: Settings, *, force: bool) -> None:
    """Raise an error unless the run can write where it is to write."""
    out = Path(settings.out) if settings.out else None
    if settings.resume:
        out, _ = check_resumable(settings)
        refuse_if_running(out)
    elif out is not None and in_use(out):
        if not force:
            raise SettingError(f"run folder {out} is not empty; choose another, or use --force")
        check_replaceable(out)
    probe_folder(out or home())
    if settings.state_dir:
        probe_folder(Path(settings.state_dir))


def _check_same(settings: Settings, dataset: Dataset) -> None:
    """Raise :class:`SettingError` if the run to resume was started with other code or data."""
    folder = Path(settings.out)
    check_code(folder, settings)
    before = RunConfig.read(folder).data.digest  # empty in folders of older versions
    if before and before != dataset.digest():
        raise SettingError(
            f"{dataset.path} is not what the run in {folder} was started on: its chips, labels or "
            "sites have changed; name the same data with data-dir, or start a new run with another "
            "out"
        )


def _check_feasible(settings: Settings, dataset: Dataset) -> None:
    """Raise an error if this machine, the sites, the model or the budgets cannot do the run."""
    check_trainable(dataset, {name: name for name in dataset.sites})
    if settings.min_sites > len(dataset.sites):
        raise SettingError(
            f"min-sites={settings.min_sites} is more than the {len(dataset.sites)} sites of the "
            "data: lower it, or partition the data for more sites (rsdgc partition --sites)"
        )
    drawn = sites_in_round(settings.fraction, len(dataset.sites))
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
    check_budgets(settings, spec)


def _free_run_folder(settings: Settings, dataset: Dataset) -> Path:
    first = folder = home() / "runs" / f"{dataset.name}-{settings.method}-{settings.seed}"
    number = 1
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    return folder
