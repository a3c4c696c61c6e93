"""The runs that a comparison consists of.

A method may carry settings of its own after plus signs, so that variants of one method can be
compared: ``rs-dgc+ratio-policy=weight``. A budget of its own replaces the common ones:
``rs-dgc+budget=300x``. Methods differ in what is sent, not in how the server steps: those that say
nothing of it have the same server momentum (:func:`with_equal_momentum`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fl_app.methods import find_method
from fl_app.setting_values import AUTO
from fl_app.settings import ADAPTER_SETTINGS, Scalar, Settings, hyphenated, parse_overrides
from rsdgc.errors import SettingError

DECIDED_BY = {
    "method": "--methods",
    "budget": "--budgets",
    "seed": "--seeds",
    "data-dir": "its first argument",
    "out": "--out",
}
"""What a comparison sets for each run: as a common setting it would change nothing."""


@dataclass(frozen=True, eq=False)  # hashed by identity: its settings are a dict
class Trial:
    """One run of a comparison."""

    label: str
    """The method with its own settings, except the budget."""
    budget: str
    """Of its uploads; empty for a method that ignores budgets."""
    seed: int
    settings: dict[str, Scalar] = field(default_factory=dict)
    """The settings in which it differs from other runs of the comparison."""

    @property
    def folder(self) -> str:
        """Name of its run folder."""
        # A path among the settings must not lead out of the comparison's folder.
        words = [self.label.replace("=", "-").replace("..", "-"), self.budget, f"seed{self.seed}"]
        return "_".join(word for word in words if word)


def trials_of(methods: Sequence[str], budgets: Sequence[str], seeds: Sequence[int]) -> list[Trial]:
    """Return every method at every budget with every seed, one seed after another.

    A method that ignores budgets (FedAvg, one that sends everything) is run once a seed.
    """
    for option, values in (("methods", methods), ("budgets", budgets), ("seeds", seeds)):
        if not values:
            raise SettingError(f"--{option} is empty: name at least one, or leave it out")
    trials = []
    for seed in seeds:
        for text in methods:
            method, *words = text.split("+")
            own = parse_overrides(words)
            for key in own:
                if key in DECIDED_BY and key != "budget":
                    raise SettingError(
                        f"{text}: {key} is not a variant's own: name it by {DECIDED_BY[key]}"
                    )
            # The budget is a column of its own, so that a method's budgets make one curve.
            label = "+".join([method, *(word for word in words if not word.startswith("budget="))])
            for budget in _budgets(text, own, budgets):
                settings: dict[str, Scalar] = {"method": method, "seed": seed, **own}
                if budget:
                    settings["budget"] = budget
                trials.append(Trial(label, budget, seed, settings))
    counts = Counter(trial.folder for trial in trials)
    repeated = sorted(folder for folder, count in counts.items() if count > 1)
    if repeated:
        raise SettingError(f"listed twice: {', '.join(repeated)}")
    return trials


def check_common(common: Mapping[str, Any]) -> None:
    """Raise :class:`SettingError` if a common setting is one that each run has by itself."""
    for key, option in DECIDED_BY.items():
        if key in common:
            raise SettingError(
                f"{key}={common[key]}: a comparison does not take it as a setting of all runs: "
                f"name it by {option}"
            )
    if common.get("resume"):
        raise SettingError(
            "resume=True: a comparison continues where it stopped by itself: leave resume out"
        )


def _budgets(text: str, own: Mapping[str, Scalar], common: Sequence[str]) -> Sequence[str]:
    """Return the budgets of a method with settings of its own; an empty one if it ignores them."""
    method = text.split("+", maxsplit=1)[0]
    policy = own.get("ratio-policy", AUTO)
    if policy == AUTO:
        policy = find_method(method).ratio_policy
    if method != "fedavg" and policy != "whole":
        return [str(own["budget"])] if "budget" in own else common
    if "budget" in own:
        raise SettingError(f"{text}: its uploads are whole, whatever the budget: leave budget out")
    return [""]


def with_common(trials: Sequence[Trial], common: Mapping[str, Any]) -> dict[Trial, dict[str, Any]]:
    """Return the settings of each trial, by hyphenated key: its own, and the common ones.

    A trial without adapters is left without the common settings that are for adapters, if another
    trial has any. If none has, they stay, and are refused as in a single run.
    """
    chosen = {trial: {**common, **trial.settings} for trial in trials}
    without = [trial for trial, each in chosen.items() if each.get("adapters", "none") == "none"]
    if len(without) < len(trials):
        for trial in without:
            for key in map(hyphenated, ADAPTER_SETTINGS):
                if key not in trial.settings:
                    chosen[trial].pop(key, None)
    return chosen


def left_out(chosen: Mapping[Trial, Mapping[str, Any]], common: Mapping[str, Any]) -> list[str]:
    """Return a line for each common setting that :func:`with_common` has left out of trials."""
    lines = []
    for key, value in common.items():
        labels = dict.fromkeys(trial.label for trial, each in chosen.items() if key not in each)
        if labels:
            lines.append(f"{key}={value} is for adapters, and not used in {', '.join(labels)}")
    return lines


def with_equal_momentum(settings: Mapping[Trial, Settings]) -> dict[Trial, Settings]:
    """Return the settings of each trial, with the same server momentum where it is ``auto``.

    It is the largest default of the methods, which is that of ``rs-dgc`` if it takes part; dense
    training beside variants that all name their own has the largest of these. Methods with
    momentum correction keep theirs: both would multiply the length of steps.
    """
    open_trials = [
        trial
        for trial, chosen in settings.items()
        if chosen.server_momentum == AUTO and not _corrects_momentum(chosen)
    ]
    compressed = [trial for trial in settings if settings[trial].method != "fedavg"]
    deciding = [trial for trial in compressed if trial in open_trials] or compressed
    momentum = max((settings[trial].resolved("server_momentum") for trial in deciding), default=0.0)
    return {
        # As a number even where it is the default: `auto` is 0 where a budget allows whole uploads.
        trial: chosen.model_copy(update={"server_momentum": momentum})
        if trial in open_trials
        else chosen
        for trial, chosen in settings.items()
    }


def _corrects_momentum(settings: Settings) -> bool:
    return settings.method != "fedavg" and bool(settings.resolved("momentum_correction"))
