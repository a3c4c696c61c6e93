"""Flower's ServerApp: call the roll, build the model, run the strategy, write the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from logging import ERROR, INFO, WARNING
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ConfigRecord, Context
from flwr.common import log
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from clients.weights import load_vector, model_spec, model_to_vector
from fl_app.default_data import default_folder
from fl_app.home import home
from fl_app.models import build_model
from fl_app.report import write_report
from fl_app.runs import folder as run_folder
from fl_app.runs import lock as run_lock
from fl_app.settings import Settings, parse_budget
from fl_app.statistics_round import collect_statistics, run_statistics, write_statistics
from rsdgc import AGGREGATORS, RMS, Compressor, ModelSpec
from rsdgc.errors import RsdgcError, RunError
from strategies import DenseFedAvg, Ledger, RsDgc, SiteManager, discover_sites, messages
from strategies.base import RoundSettings, SiteStrategy
from strategies.checkpoints import Checkpoints
from strategies.downlink import PublishedModel
from strategies.rate_control import RateControl
from strategies.records import to_record, to_vector
from strategies.round_log import human_bytes

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that ``context.run_config`` describes."""
    try:
        run(grid, context)
    except RsdgcError as error:
        log(ERROR, "error: %s", error)
        raise


def run(grid: Grid, context: Context) -> Path:
    """Run the federation and return its run folder."""
    with ExitStack() as held:
        return _run(grid, context, held)


def _run(grid: Grid, context: Context, held: ExitStack) -> Path:
    settings = Settings.from_mapping(context.run_config)
    known = run_folder.reopen(settings) if settings.resume else None
    if known is not None:
        held.enter_context(run_lock.lock_run(known[0], context.run_id))
    roster = discover_sites(grid, settings.min_sites, settings.join_timeout_s)
    data = roster.data
    model = build_model(
        settings.model, data.bands, len(data.classes), data.chip_px, seed=settings.seed
    )
    spec = model_spec(model)
    mapping = settings.to_mapping()
    if known is None:
        out = Path(settings.out) if settings.out else _new_folder(settings, context.run_id)
        folder, run_id = run_folder.create(out.absolute()), context.run_id
        held.enter_context(run_lock.lock_run(folder, run_id))
        here = Path(settings.data_dir).absolute() if settings.data_dir else default_folder()
        path = str(here) if here.exists() else ""
        run_folder.write_config(folder, mapping, roster, spec, path, run_id)
    else:
        folder, run_id = known
    log(INFO, "run folder: %s", folder)

    weights = model_to_vector(model, spec)
    strategy = _strategy(settings, roster, folder, spec, weights, run_id)
    if known is not None:
        resume(strategy)
    ledger, arrays = strategy.ledger, to_record(weights, spec)
    every_task = _normalization(grid, settings, strategy, folder)
    result = strategy.start(
        grid,
        arrays,
        num_rounds=settings.rounds,
        timeout=settings.round_timeout_s,
        train_config=every_task,
        evaluate_config=every_task,
    )
    if strategy.rounds_combined == 0:
        reasons = ", ".join(f"{reason} ({n})" for reason, n in ledger.refusals.items())
        raise RunError(f"no round reached the quorum of {settings.quorum}: {reasons}")
    load_vector(model, spec, to_vector(result.arrays, spec))
    _finish(folder, mapping, strategy, model, strategy.seconds())
    return folder


def _normalization(
    grid: Grid, settings: Settings, strategy: SiteStrategy, folder: Path
) -> ConfigRecord:
    """Return what every task says of normalisation: nothing, or what the sites agreed on."""
    if settings.normalization == "site":
        return ConfigRecord()
    common = run_statistics(folder) if strategy.resumed_round else None
    if common is None and strategy.resumed_round:
        raise RunError(f"{folder} has lost its normalization.json: the run cannot be resumed")
    if common is None:
        timeout_s = settings.join_timeout_s
        common = collect_statistics(
            grid, strategy.site_manager, strategy.ledger, settings.min_sites, timeout_s
        )
        write_statistics(folder, common)
    return ConfigRecord({messages.NORMALIZATION: common.pack()})


def _strategy(
    settings: Settings,
    roster: SiteManager,
    folder: Path,
    spec: ModelSpec,
    weights: NDArray[np.float32],
    run_id: int,
) -> SiteStrategy:
    ledger = Ledger(folder, spec.dense_bytes)
    rules = RoundSettings(
        settings.fraction, settings.quorum, settings.seed, settings.learning_rate_at
    )
    checkpoints = Checkpoints(folder, settings.checkpoint_every, settings.checkpoint_keep)
    momentum = _server_momentum(settings, spec)
    if settings.method == "fedavg":
        return DenseFedAvg(roster, ledger, rules, checkpoints, server_momentum=momentum)
    up = _rates(settings, spec, settings.budget, settings.warm_up_rounds)
    down = _rates(settings, spec, settings.budget_down)
    last = _rates(settings, spec, settings.budget_final)
    compressor = Compressor(spec, settings.scheme(), RMS())
    model = PublishedModel(weights, down, compressor, run_id)
    return RsDgc(
        *(roster, ledger, rules, up, model, last, checkpoints),
        server_momentum=momentum,
        aggregator=AGGREGATORS[settings.aggregation],
    )


def _server_momentum(settings: Settings, spec: ModelSpec) -> float:
    """Return what was set, or the method's own, which makes up for what compression delays."""
    whole = parse_budget(settings.budget, spec.dense_bytes) >= spec.dense_bytes
    momentum: float = settings.resolved("server_momentum")
    return 0.0 if whole and settings.server_momentum < 0 else momentum


def _rates(
    settings: Settings, spec: ModelSpec, budget: str, warm_up_rounds: int = 0
) -> RateControl:
    return RateControl(
        spec,
        settings.scheme(),
        settings.resolved("ratio_policy"),
        parse_budget(budget, spec.dense_bytes),
        top_share=settings.top_share,
        dense_share=settings.dense_share,
        rounds=settings.rounds,
        warm_up_rounds=warm_up_rounds,
    )


def resume(strategy: SiteStrategy) -> None:
    """Take up the newest checkpoint that can be used, or start over where there is none."""
    checkpoints = strategy.checkpoints
    assert checkpoints is not None
    for checkpoint in checkpoints.newest():
        try:
            strategy.resume(checkpoint)
        except RunError as error:
            log(WARNING, "checkpoint of round %d: %s; trying one before", checkpoint.round, error)
            continue
        checkpoints.forget_after(checkpoint.round)
        log(INFO, "resumed after round %d", checkpoint.round)
        return
    checkpoints.forget_after(0)
    strategy.ledger.clear_files()
    log(WARNING, "no checkpoint in %s: the run starts over", checkpoints.folder)


def _finish(
    folder: Path,
    settings: dict[str, Any],
    strategy: SiteStrategy,
    model: torch.nn.Module,
    seconds: float,
) -> None:
    run_folder.write_model(folder, model)
    confusion: Sequence[Any] = [] if strategy.confusion is None else strategy.confusion.tolist()
    summary = run_folder.write_summary(
        folder, settings, strategy.site_manager, strategy.ledger, list(confusion), seconds
    )
    log(INFO, "%s", headline(summary, write_report(folder)))


def headline(summary: dict[str, Any], report: Path) -> str:
    """Return the line that a run ends with: the report, the accuracy, the bytes."""
    accuracy = "not scored" if summary["accuracy"] is None else f"{summary['accuracy']:.3f}"
    synthetic = " (synthetic data)" if summary["synthetic"] else ""
    lost = sum(summary["refused"].values())
    missing = f" | {lost} uploads refused or lost" if lost else ""
    return (
        f"report: {report} | accuracy {accuracy}{synthetic} | "
        f"up {human_bytes(summary['bytes_up'])}, down {human_bytes(summary['bytes_down'])} | "
        f"fewer bytes than dense FedAvg: {summary['compression_up']:.1f}× up, "
        f"{summary['compression_down']:.1f}× down, {summary['compression_total']:.1f}× in total"
        f"{missing}"
    )


def _new_folder(settings: Settings, run_id: int) -> Path:
    return home() / "runs" / f"{settings.method}-{run_id}"
