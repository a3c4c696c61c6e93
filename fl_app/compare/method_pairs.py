"""Differences between the methods of a comparison, each against the first, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
from numpy.typing import NDArray

from data_prep.dataset import open_data
from data_prep.manifest import column
from fl_app.compare.paired_tests import difference_interval, holm, mcnemar, sign_flip
from fl_app.compare.results import MethodName, Rows, by_method
from fl_app.report.intervals import Interval
from fl_app.report.prediction import predict
from fl_app.runs.records import Run
from rsdgc.errors import RsdgcError

MAX_CHIPS = 5000
"""Test chips that models are compared on; of more, evenly spaced ones."""


@dataclass(frozen=True)
class SeedPair:
    """Two models of one seed, on the same test chips."""

    seed: int
    difference: float  #: of the accuracies that the runs recorded
    #: num_chips, only_first, only_second: chips that both models were shown, and that one alone
    #: gets right; None where the models or the data are not here
    num_chips: int | None = None
    only_first: int | None = None
    only_second: int | None = None
    interval: Interval | None = None  #: of the difference, over chips
    p: float | None = None  #: of McNemar's test
    adjusted_p: float | None = None  #: by Holm, over all pairs of the comparison


@dataclass(frozen=True)
class MethodPair:
    """A method and the one that it is compared with, over the seeds that both have."""

    first: MethodName
    second: MethodName
    seeds: list[SeedPair]

    @property
    def mean(self) -> float:
        """Mean difference of accuracy over the seeds."""
        return fmean(pair.difference for pair in self.seeds)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the differences; None with one seed."""
        differences = [pair.difference for pair in self.seeds]
        return stdev(differences) if len(differences) > 1 else None

    @property
    def p(self) -> float | None:
        """Of the permutation test over seeds; None with one seed, of which it says nothing."""
        differences = [pair.difference for pair in self.seeds]
        return sign_flip(differences) if len(differences) > 1 else None


@dataclass
class SharedChips:
    """Whether models are right about the test chips of a comparison's data.

    Predictions are kept by run folder: a comparison asks again after each of its runs.
    """

    data: Path
    absent: str = ""  #: why models could not be compared on chips
    _right: dict[Path, NDArray[np.bool_]] = field(default_factory=dict)

    def right(self, run: Run) -> NDArray[np.bool_] | None:
        """Return, by chip, whether the model that a run delivered is right; None if unknown."""
        if run.folder not in self._right:
            try:
                store = open_data(self.data).store
                chips = np.flatnonzero(column(store.manifest, "split") == "test")
                chips = chips[:: max(1, -(-len(chips) // MAX_CHIPS))]
                labels = column(store.manifest, "label")[chips].astype(np.int64)
                self._right[run.folder] = predict(run, store, chips) == labels
            except (RsdgcError, OSError) as error:
                self.absent = str(error)
                return None
        return self._right[run.folder]


def method_pairs(rows: Rows, chips: SharedChips) -> list[MethodPair]:
    """Compare each method with the first one; those without a seed in common are left out."""
    methods = by_method(rows)
    names = list(methods)
    pairs: list[MethodPair] = []
    for name in names[1:]:
        seeds = _seed_pairs(methods[name], methods[names[0]], chips)
        if seeds:
            pairs.append(MethodPair(name, names[0], seeds))
    return _adjusted(pairs)


def _seed_pairs(
    first: Mapping[int, Run], second: Mapping[int, Run], chips: SharedChips
) -> list[SeedPair]:
    pairs = []
    for seed in first.keys() & second.keys():
        runs = first[seed], second[seed]
        difference = (runs[0].summary.accuracy or 0.0) - (runs[1].summary.accuracy or 0.0)
        right = [chips.right(run) for run in runs]
        if right[0] is None or right[1] is None or not len(right[0]):
            pairs.append(SeedPair(seed, difference))
            continue
        alone = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
        count = len(right[0])
        interval = difference_interval(*alone, count)
        pairs.append(SeedPair(seed, difference, count, *alone, interval, mcnemar(*alone)))
    return sorted(pairs, key=lambda pair: pair.seed)


def _adjusted(pairs: list[MethodPair]) -> list[MethodPair]:
    """Adjust the p values of all McNemar tests of a comparison for being many."""
    values = [seed.p for pair in pairs for seed in pair.seeds if seed.p is not None]
    adjusted = iter(holm(values))
    return [
        MethodPair(
            pair.first,
            pair.second,
            [
                seed if seed.p is None else SeedPair(**{**vars(seed), "adjusted_p": next(adjusted)})
                for seed in pair.seeds
            ],
        )
        for pair in pairs
    ]
