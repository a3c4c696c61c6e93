"""Which runs a comparison is made of.

A method may carry settings of its own after plus signs, so that variants of one method stand
beside each other: ``rs-dgc+ratio-policy=weight``. Its own budget stands instead of the common ones:
``rs-dgc+budget=300x``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fl_app.methods import METHOD_NAMES, METHODS, MethodName
from fl_app.settings import Scalar, parse_overrides
from rsdgc.errors import SettingError


@dataclass(frozen=True, eq=False)
class Trial:
    """One run of a comparison.

    Attributes
    ----------
    label : str
        The method as it was asked for.
    budget : str
        Of its uploads; empty for a method that has none.
    seed : int
        Of everything random.
    settings : dict of str to scalar
        All that tells it from the comparison's other runs.
    """

    label: str
    budget: str
    seed: int
    settings: dict[str, Scalar] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Name of its run folder."""
        words = [self.label.replace("=", "-"), self.budget, f"seed{self.seed}"]
        return "_".join(word for word in words if word)


def trials_of(methods: Sequence[str], budgets: Sequence[str], seeds: Sequence[int]) -> list[Trial]:
    """Return every method at every budget with every seed, one seed after another.

    A method that ignores budgets (FedAvg, one that sends everything) is run once a seed.

    Raises
    ------
    SettingError
        If a method is unknown, a setting after it is wrong, or one is asked for twice.
    """
    trials = []
    for seed in seeds:
        for label in methods:
            name, *words = label.split("+")
            method = _known(name)
            own = parse_overrides(words)
            name = "+".join([method, *(word for word in words if not word.startswith("budget="))])
            for budget in _budgets(method, own.pop("budget", ""), budgets):
                settings: dict[str, Scalar] = {"method": method, "seed": seed, **own}
                if budget:
                    settings["budget"] = budget
                trials.append(Trial(name, budget, seed, settings))
    _check_once(trials)
    return trials


def _known(name: str) -> MethodName:
    for method in METHOD_NAMES:
        if method == name:
            return method
    raise SettingError(f"unknown method '{name}'; choose from {', '.join(METHOD_NAMES)}")


def _budgets(method: MethodName, own: Scalar, common: Sequence[str]) -> Sequence[str]:
    if method == "fedavg" or METHODS[method].ratio_policy == "whole":
        return [""]
    return [str(own)] if own else common


def _check_once(trials: Sequence[Trial]) -> None:
    names = [trial.folder for trial in trials]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SettingError(f"asked for twice: {', '.join(twice)}")
