"""Settings that make no sense beside one another, each in a line of the run's log."""

from __future__ import annotations

from collections.abc import Iterator

from fl_app.setting_values import AUTO
from fl_app.settings import DEFAULT_MOMENTUM, Settings

MANY_ROUNDS = 50
"""Rounds of one step from which on it is a waste to score the model after each."""


def conflicting_settings(settings: Settings) -> Iterator[str]:
    """Yield one line for each setting that makes no sense beside the others.

    Such a run is possible, and a comparison may want it; so it is not refused.
    """
    one_step = settings.local_steps == 1
    nesterov = settings.optimizer == "sgd-nesterov"
    local = settings.resolved("momentum")
    compressed = settings.method != "fedavg"
    correction = settings.resolved("momentum_correction") if compressed else 0.0
    server = settings.resolved("server_momentum")
    if settings.optimizer == "adamw":
        if one_step:
            yield (
                "optimizer=adamw is new in each round, and its first step is the sign of the "
                "gradient: set optimizer=sgd, or more local-steps"
            )
    elif nesterov and not local:
        instead = "momentum-correction=0" if correction else f"momentum={DEFAULT_MOMENTUM:g}"
        yield (
            f"optimizer=sgd-nesterov with momentum=0 is plain SGD: set optimizer=sgd, or {instead}"
        )
    elif one_step and local and (settings.momentum != AUTO or settings.server_momentum == AUTO):
        remedy = "momentum=0"
        if not correction:
            over_rounds = "momentum-correction" if compressed and not server else "server-momentum"
            remedy += f" and {over_rounds}={DEFAULT_MOMENTUM:g}"
        # Nesterov's first step is the gradient times 1 + momentum.
        effect = f"multiplies the learning rate by {1 + local:g}" if nesterov else "does nothing"
        yield (
            f"momentum={local:g} {effect} in rounds of one step, because the optimizer is new in "
            f"each round: set {remedy}"
        )
    elif local and correction:
        yield (
            f"momentum={local:g} and momentum-correction={correction:g} multiply the length of "
            "steps twice: set momentum=auto, or momentum-correction=0"
        )
    if correction and not one_step:
        steps = settings.local_steps
        length = f"local-steps={steps}" if steps else f"local-epochs={settings.local_epochs}"
        yield (
            f"momentum-correction={correction:g} is for rounds of one step, not {length}: "
            "set local-steps=1 as published, or momentum-correction=0"
        )
    if one_step and settings.evaluate_every == 1 and settings.rounds >= MANY_ROUNDS:
        yield (
            "evaluate-every=1 scores whole splits after every round of one step: set "
            f"evaluate-every={MANY_ROUNDS}"
        )
    if correction and server:
        yield (
            f"momentum-correction={correction:g} and server-momentum={server:g} multiply the "
            "length of steps twice: set server-momentum=0, or momentum-correction=0"
        )
