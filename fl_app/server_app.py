"""Flower's ServerApp: find the sites, build the model, run the strategy, write the run folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, INFO, WARNING
from pathlib import Path

import numpy as np
from flwr.app import Context
from flwr.common import log
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid import InMemoryGrid
from numpy.typing import NDArray

from clients.model_parts import ModelParts
from data_prep.dataset import Dataset, open_data
from fl_app.default_data import default_folder
from fl_app.live.report_renewal import ReportRenewal
from fl_app.live.status_file import StatusWriter
from fl_app.model_catalog import LEAST_CHIP_PX
from fl_app.models.adapters import is_adapter
from fl_app.models.code_signature import model_signature
from fl_app.prepared_model import agree_on_model
from fl_app.run_summary import headline, summarize
from fl_app.runs.folder import ActiveRun, open_run
from fl_app.runs.inputs import INPUTS_FILE, RunInputs
from fl_app.runs.own_code import check_code
from fl_app.runs.records import BEST_MODEL_FILE, SUMMARY_FILE, FrozenRecord, RunSummary
from fl_app.settings import Settings
from fl_app.site_data import modality_infos
from fl_app.statistics_round import normalization_config
from fl_app.strategy import build_strategy
from fl_app.tracking import check_installed
from fl_app.tracking.run_tracking import RunTracking
from rsdgc import ModelSpec
from rsdgc.documents import shorten
from rsdgc.errors import DataError, RsdgcError, RunError
from rsdgc.frozen_part import FrozenPart
from rsdgc.registry import add_code_dir
from strategies import SiteManager, discover_sites
from strategies.base import SiteStrategy
from strategies.model_record import array_values, to_record, to_vector
from strategies.observer import Observers
from strategies.round_log import log_times
from strategies.sites import ModelCode

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that ``context.run_config`` describes."""
    log_times()
    try:
        run(grid, context)
    except RsdgcError as error:
        log(ERROR, "error: %s", error)
        raise


def run(grid: Grid, context: Context) -> Path:
    """Run the federation, write its report and return its run folder."""
    settings = Settings.from_mapping(context.run_config)
    check_installed(settings.trackers)
    with open_run(settings, context.run_id) as active:
        summary = run_federation(grid, active)
        from fl_app.report import write_report  # noqa: PLC0415  # loads Matplotlib

        log(INFO, "%s", headline(summary, write_report(active.folder)))
    return active.folder


def run_federation(grid: Grid, active: ActiveRun) -> RunSummary:
    """Run the federation and write everything into its run folder but the report."""
    settings = active.settings
    add_code_dir(settings.code_dir)
    if active.resumed:
        check_code(active.folder, settings)
    record = active.recorded_data if active.resumed else None
    names = (record.modality_names if record else ()) or settings.modality_names
    code = ModelCode(settings.model, model_signature(settings.model))
    sites = discover_sites(
        *(grid, settings.min_sites, settings.join_timeout_s, names, record, code),
        weights=settings.weight_rules(),
        registered_only=settings.site_names == "registered",
        simulated=isinstance(grid, InMemoryGrid),
    )
    model, match = agree_on_model(sites, settings)
    parts = ModelParts(model, settings.batch_norm)
    spec, initial = parts.spec, parts.vector()
    frozen = _compared_part(parts, settings)
    _record_start(active, sites, parts, frozen)
    # Logged once the run can be resumed: commands read the folder from this line and offer that.
    log(INFO, "run folder: %s", active.folder)
    if match is not None:
        active.write_initial_weights(match)
        log(INFO, "initial weights %s: %s", settings.init_weights, match.summary())

    strategy = build_strategy(active, sites, parts, initial, frozen)
    if active.resumed:
        resume(strategy, spec)
    with showing(strategy, active):
        return _train_and_deliver(grid, active, strategy, parts, initial)


@contextmanager
def showing(strategy: SiteStrategy, active: ActiveRun) -> Iterator[None]:
    """Show the run while the block lasts: progress, a renewed report, trackers."""
    folder, settings = active.folder, active.settings
    status = StatusWriter(folder, settings.rounds)
    renewal = ReportRenewal(folder)
    tracking = RunTracking(folder, settings.trackers, strategy.resumed_round)
    strategy.observer = Observers(status, renewal)
    try:
        yield
        status.close()
    finally:
        renewal.close()
        tracking.close(complete=(folder / SUMMARY_FILE).exists())


def _train_and_deliver(
    grid: Grid,
    active: ActiveRun,
    strategy: SiteStrategy,
    parts: ModelParts,
    initial: NDArray[np.float32],
) -> RunSummary:
    """Run the rounds, and write the model and the summary."""
    settings, spec, model = active.settings, parts.spec, parts.model
    modalities = strategy.site_manager.data.modalities
    task_config = normalization_config(grid, settings, strategy, active.folder)
    result = strategy.start(
        grid,
        to_record(initial, spec),
        num_rounds=settings.rounds,
        timeout=settings.round_timeout_s,
        train_config=task_config,
        evaluate_config=task_config,
    )
    if strategy.rounds_combined == 0:  # the untrained model must not pass for a result
        refusals = strategy.ledger.refusals.items()
        reasons = ", ".join(f"{reason} ({count})" for reason, count in refusals)
        if not reasons:
            reasons = (
                "no upload was refused, so too few sites trained: lower quorum, raise fraction"
            )
        raise RunError(f"no round reached the quorum of {settings.quorum}: {reasons}")

    parts.load_vector(to_vector(result.arrays, spec))
    parts.load_arrays(strategy.running.current | strategy.final.local)
    summary = summarize(settings, strategy, spec)
    active.write_model(model, modalities)
    if settings.adapters != "none":
        active.write_adapters(parts)
    best = strategy.best
    if best.arrays is not None:
        parts.load_vector(to_vector(best.arrays, spec))
        running = {name: array_values(best.arrays[name]) for name in parts.running}
        parts.load_arrays(running | strategy.final.local)
        active.write_model(model, modalities, BEST_MODEL_FILE)
        text = "best round on the validation splits: %d, balanced accuracy %.3f; its model is in %s"
        log(INFO, text, best.round, best.balanced_accuracy, BEST_MODEL_FILE)
    # The summary comes last: a folder that has one counts as complete.
    summary.write(active.folder)
    return summary


def _compared_part(parts: ModelParts, settings: Settings) -> FrozenPart | None:
    """Return what sites must have of the model before training, if they are to compare it.

    From the seed alone all of them build the same built-in network, unless a part stays as it is
    for the whole run. Other networks may take what they start from from a file or from their
    surroundings.
    """
    part = parts.frozen_part()
    own = settings.model not in LEAST_CHIP_PX
    return part if part.size and (own or parts.frozen or settings.init_weights) else None


def _record_start(
    active: ActiveRun, sites: SiteManager, parts: ModelParts, frozen: FrozenPart | None
) -> None:
    """Write a new run's configuration, or check that a resumed one has the same model."""
    num_frozen, spec = _num_frozen(parts), parts.spec
    record = None if frozen is None else FrozenRecord(frozen.digest.hex(), num_frozen)
    if active.resumed:
        active.check_model(spec, record)
        if changed := active.changed_versions():
            text = "this run goes on with %s: its result may not be that of one without a stop"
            log(WARNING, text, changed)
        # A full disk may have ended the run before this file was written.
        if not (active.folder / INPUTS_FILE).exists() and (dataset := _own_data(active, sites)):
            RunInputs.of(dataset.store).write(active.folder)
    else:  # the folder keeps the settings and the number of its first start
        dataset = _own_data(active, sites)
        digest = "" if dataset is None else dataset.digest()
        active.write_config(sites, spec, _data_path(active.settings), record, digest)
        if dataset is not None:
            RunInputs.of(dataset.store).write(active.folder)
    if num_frozen:
        adapters = sum(layer.size for layer in spec.layers if is_adapter(layer.name))
        text = "%d parameters are trained and sent, %d of them in adapters; %d are frozen"
        log(INFO, text, spec.size, adapters, num_frozen)


def _own_data(active: ActiveRun, sites: SiteManager) -> Dataset | None:
    """Return the run's data, if this machine has them."""
    path = _data_path(active.settings)
    if not path:
        return None
    try:
        dataset = open_data(path, active.settings.modality_names)
    except DataError:  # a server of real sites need not have data there
        return None
    store = dataset.store
    own = {modality.name: modality for modality in modality_infos(store)}
    # A server of real sites may have other data by chance.
    known = all(own.get(modality.name) == modality for modality in sites.data.modalities)
    return dataset if known and tuple(store.classes) == sites.data.classes else None


def _num_frozen(parts: ModelParts) -> int:
    parameters = dict(parts.model.named_parameters())
    return sum(parameters[name].numel() for name in parts.frozen if name in parameters)


def _data_path(settings: Settings) -> str:
    """Return where the data are on this machine; empty if only the sites have them."""
    if not settings.data_dir and settings.site_names == "registered":
        return ""  # real sites, even if the built-in data happen to be here
    path = Path(settings.data_dir).absolute() if settings.data_dir else default_folder()
    return str(path) if path.exists() else ""


def resume(strategy: SiteStrategy, spec: ModelSpec) -> None:
    """Resume from the newest usable checkpoint, or start over where there is none.

    Raises :class:`RunError` if there are checkpoints and none of them can be used: they stay.
    """
    checkpoints = strategy.checkpoints
    assert checkpoints is not None
    for checkpoint in checkpoints.newest():
        try:
            strategy.resume(checkpoint)
            _check_layers(strategy, spec)
        except RunError as error:
            log(
                WARNING,
                "checkpoint of round %d: %s; trying the one before",
                checkpoint.round,
                error,
            )
            continue
        # Later ones, unusable now, must not be taken for those of the rounds that follow.
        checkpoints.forget_after(checkpoint.round)
        log(INFO, "resumed after round %d", checkpoint.round)
        return
    if checkpoints.rounds():
        raise RunError(
            f"no checkpoint in {checkpoints.folder} can be used, see the warnings above: restore "
            "the folder from a backup, or start a new run with another out"
        )
    strategy.ledger.clear_files()
    log(WARNING, "no checkpoint in %s: the run starts over", checkpoints.folder)


def _check_layers(strategy: SiteStrategy, spec: ModelSpec) -> None:
    """Raise RunError unless a restored model has the layers of the run's."""
    arrays = strategy.arrays()
    restored = {name: (tuple(array.shape), array.dtype) for name, array in arrays.items()}
    expected = {layer.name: (layer.shape, "float32") for layer in spec.layers}
    if restored != expected:
        differing = dict(restored.items() ^ expected.items())
        raise RunError(f"its model is not the run's, which differs in {shorten(min(differing))}")
