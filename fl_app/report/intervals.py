"""Intervals of scores, at 95 % confidence.

They say how far a score may be from that on all imagery of which the test chips are a sample. They
assume independent chips. Neighboring chips of a scene resemble each other, so that the true
intervals are wider; and what another seed would change is not in them at all.
"""

from __future__ import annotations

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)

RESAMPLES = 1000
"""Confusion matrices that are drawn anew for a bootstrap interval."""


class Interval(NamedTuple):
    """Limits of a score."""

    low: float
    high: float


def wilson(hits: float, count: int) -> Interval | None:
    """Return the score interval of a share of ``count`` chips; None without any.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal
    of the American Statistical Association 22, 1927. Unlike the normal approximation it stays
    within 0 and 1 and holds for few chips.
    """
    if not count:
        return None
    share, square = hits / count, Z * Z / count
    center = (share + square / 2) / (1 + square)
    half = Z * (share * (1 - share) / count + square / (4 * count)) ** 0.5 / (1 + square)
    # a share of 0 or 1 would else differ from its limit in the last digit
    return Interval(min(share, max(0.0, center - half)), max(share, min(1.0, center + half)))


def bootstrap(confusion: NDArray[np.int64]) -> dict[str, Interval]:
    """Return intervals of balanced accuracy and kappa from a confusion matrix, int64 [K, K].

    Its chips are drawn again, :data:`RESAMPLES` times with replacement; the limits are percentiles
    of the scores (B. Efron, "Bootstrap methods: another look at the jackknife", Annals of
    Statistics 7, 1979). The same matrix gives the same limits. Empty without chips.
    """
    total = int(confusion.sum())
    if not total:
        return {}
    rng = np.random.default_rng(0)
    # only cells with chips can be drawn: of 45 classes, few of 2025
    cells = np.flatnonzero(confusion)
    drawn = rng.multinomial(total, confusion.ravel()[cells] / total, RESAMPLES)
    rows, columns = np.divmod(cells, len(confusion))
    reference, predicted, correct = (np.zeros((RESAMPLES, len(confusion))) for _ in range(3))
    for cell, (row, column) in enumerate(zip(rows, columns, strict=True)):
        reference[:, row] += drawn[:, cell]
        predicted[:, column] += drawn[:, cell]
        if row == column:
            correct[:, row] += drawn[:, cell]
    present = reference > 0
    recall = np.divide(correct, reference, out=np.zeros_like(correct), where=present)
    observed = correct.sum(axis=1) / total
    chance = (reference * predicted).sum(axis=1) / total**2
    kappa = np.where(chance < 1, (observed - chance) / np.maximum(1 - chance, 1e-12), 0.0)
    scores = {"balanced_accuracy": recall.sum(axis=1) / present.sum(axis=1), "kappa": kappa}
    tail = 50 * (1 - CONFIDENCE)
    return {
        name: Interval(*np.percentile(values, [tail, 100 - tail]).tolist())
        for name, values in scores.items()
    }
