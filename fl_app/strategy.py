"""The strategy of a run, built from its settings."""

from __future__ import annotations

import math
from logging import INFO, WARNING
from pathlib import Path

import numpy as np
from flwr.common import log
from numpy.typing import NDArray

from clients.model_parts import ModelParts, entries_of, has_statistics, is_batch_norm
from fl_app.conflicting_settings import conflicting_settings
from fl_app.idle_settings import idle_settings, idle_with_the_model, idle_with_the_sites
from fl_app.methods import find_method
from fl_app.models.network_trial import changing_buffers
from fl_app.prepared_model import input_shapes
from fl_app.runs.folder import ActiveRun
from fl_app.setting_values import AUTO
from fl_app.settings import Settings, hyphenated
from rsdgc import AGGREGATORS, RMS, Compressor, ModelSpec, fit_ratios, uniform_shares
from rsdgc.budget import parse_budget
from rsdgc.errors import SettingError
from rsdgc.frozen_part import FrozenPart
from strategies import DenseFedAvg, Ledger, RsDgc, SiteManager
from strategies.base import RoundSettings, SiteStrategy
from strategies.checkpoints import Checkpoints
from strategies.differential_privacy import PrivateMean, epsilon
from strategies.downlink import PublishedModel
from strategies.rate_control import RateControl
from strategies.running_statistics import RunningStatistics


def build_strategy(
    run: ActiveRun,
    sites: SiteManager,
    model: ModelParts,
    initial: NDArray[np.float32],
    frozen: FrozenPart | None,
) -> SiteStrategy:
    """Build the strategy that runs a federation's rounds.

    Ledger and checkpoints go into the folder of ``run``; ``initial``, float32 [size], is the
    shared part of the model before training, and ``frozen`` what its sites are not sent, if they
    are to compare it.
    """
    settings, spec = run.settings, model.spec
    shapes = input_shapes(settings.model, sites.data.modalities)
    warnings = (
        *conflicting_settings(settings),
        *idle_settings(settings, spec.dense_bytes),
        *(*idle_with_the_model(settings, model, shapes), *idle_with_the_sites(settings, sites)),
    )
    for text in warnings:
        log(WARNING, "%s", text)
    changing = changing_buffers(model.model, shapes, model.running)
    remedy = _statistics_remedy(model, changing)
    running = RunningStatistics(model.arrays(model.running), changing, remedy)
    local = model.arrays(model.local)
    # FedAvg would send the statistics in float32, too.
    statistics_bytes = sum(running.initial[name].nbytes for name in changing)
    ledger = Ledger(run.folder, spec.dense_bytes + statistics_bytes)
    rounds = RoundSettings(
        settings.fraction,
        settings.quorum,
        settings.seed,
        settings.learning_rate_at,
        settings.evaluate_every,
        settings.suspend_after,
        settings.clip_updates,
        scale_clip=settings.resolved("clip_scale") == "sites",
    )
    checkpoints = Checkpoints(run.folder, settings.checkpoint_every, settings.checkpoint_keep)
    momentum = settings.effective_server_momentum(spec.dense_bytes)
    privacy = _private_mean(settings, model, run.folder)
    if settings.method == "fedavg":
        return DenseFedAvg(
            *(sites, ledger, rounds, checkpoints, running, local, frozen),
            server_momentum=momentum,
            run_id=run.run_id,
            privacy=privacy,
            aggregator=AGGREGATORS[settings.aggregation],
        )
    check_budgets(settings, spec)
    # One control each: patches carry the changes of all sites, which are spread over the layers
    # differently than one site's, and the last patch has a budget of its own.
    up = _rate_control(settings, spec, settings.budget, _warm_up_rounds(settings, sites))
    down = _rate_control(settings, spec, settings.resolved("budget_down"))
    final = _rate_control(settings, spec, settings.resolved("budget_final"))
    # Whatever ranks the uploads, patches are ranked by RMS: of equally large neighborhoods it keeps
    # the most energy of the step.
    compressor = Compressor(spec, settings.scheme(), RMS())
    published = PublishedModel(initial, down, compressor, run.run_id)
    return RsDgc(
        *(sites, ledger, rounds, up, published, final, checkpoints, running, local, frozen),
        server_momentum=momentum,
        aggregator=AGGREGATORS[settings.aggregation],
        privacy=privacy,
    )


def check_budgets(settings: Settings, spec: ModelSpec) -> None:
    """Raise :class:`SettingError` if a budget is below one neighborhood of each layer."""
    if settings.method == "fedavg":
        return
    for name in ("budget", "budget_down", "budget_final"):
        budget = settings.resolved(name)
        budget_bytes = parse_budget(budget, spec.dense_bytes)
        if budget_bytes < spec.dense_bytes:
            try:
                fit_ratios(spec, settings.scheme(), uniform_shares(spec), budget_bytes)
            except SettingError as error:
                raise SettingError(f"{hyphenated(name)}={budget}: {error}") from None


def _statistics_remedy(model: ModelParts, changing: frozenset[str]) -> str:
    """Return how to do without the running statistics that are sent, beside a larger budget."""
    if changing <= entries_of(model.model, is_batch_norm):
        return ", or set batch-norm to 'group' or 'local'"
    # Instance normalization has statistics, too, and batch-norm=group leaves it.
    if changing <= entries_of(model.model, has_statistics):
        return ", or set batch-norm to 'local'"
    return ""


def _warm_up_rounds(settings: Settings, sites: SiteManager) -> int:
    """Return the rounds with larger uploads; a method's own are so many epochs of the sites."""
    if settings.warm_up_rounds != AUTO:
        return int(settings.warm_up_rounds)
    epochs_in_round = float(settings.local_epochs)
    if settings.local_steps:
        chips = [site.num_train for site in sites.sites.values()]
        steps = [math.ceil(count / settings.batch_size) for count in chips]
        epochs_in_round = settings.local_steps * len(steps) / sum(steps)
    return math.ceil(find_method(settings.method).warm_up_epochs / epochs_in_round)


def _private_mean(settings: Settings, model: ModelParts, folder: Path) -> PrivateMean | None:
    """Return the mean with noise that the settings ask for; None without noise."""
    if not settings.dp_noise_multiplier:
        return None
    # Also buffers that a trial has not changed: what a site sends of one would have no noise.
    sent = (*model.running, *model.local)
    replaced = entries_of(model.model, is_batch_norm)
    if sent:
        name = next((name for name in sent if name not in replaced), sent[0])
        remedy = "set batch-norm=group"
        if name in entries_of(model.model, has_statistics) - replaced:
            remedy = "build the layer without them (track_running_stats=False)"
        elif name not in replaced:
            remedy = "register it with persistent=False if it is a constant, or remove it"
        raise SettingError(
            f"dp-noise-multiplier={settings.dp_noise_multiplier:g} with "
            f"batch-norm={settings.batch_norm}: differential privacy does not cover the sites' "
            f"running statistics and buffers, such as '{name}'; {remedy}"
        )
    names = (settings.dp_noise_multiplier, settings.dp_clip, settings.dp_delta)
    private = PrivateMean(*names, folder)
    planned = epsilon(settings.dp_noise_multiplier, settings.rounds, settings.dp_delta)
    log(
        INFO,
        "differential privacy of a site: ε = %.3g at δ = %.2g after %d rounds (noise multiplier "
        "%g, clip %g); scores, counts and bytes are not covered",
        *(planned, settings.dp_delta, settings.rounds),
        *(settings.dp_noise_multiplier, settings.dp_clip),
    )
    return private


def _rate_control(
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
