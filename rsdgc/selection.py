"""Choose the best neighborhoods: exact, and the same on every machine for the same scores."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from rsdgc.arrays import extract
from rsdgc.errors import SettingError

if TYPE_CHECKING:
    from rsdgc.arrays import Float32, Int64

_SAMPLE = 1 << 14
_SMALL = 1 << 16


def kept_count(ratio: float, count: int) -> int:
    """Return how many of ``count`` neighborhoods a ratio keeps.

    Parameters
    ----------
    ratio : float
        0 to 1; 0 keeps none, anything above keeps at least one.
    count : int
        Neighborhoods of the layer.

    Returns
    -------
    int
        ``max(1, round(ratio · count))``, or 0.
    """
    return min(count, max(1, round(ratio * count))) if ratio > 0 else 0


def top_k(scores: Float32, k: int) -> Int64:
    """Return the ids of the k highest scores, in increasing order.

    Parameters
    ----------
    scores : float32 or float64 [n]
        No NaN.
    k : int
        0 to n.

    Returns
    -------
    int64 [k]
        Exactly the k best; among equal scores the lower ids.

    Raises
    ------
    SettingError
        If k is out of range or a score is NaN.
    """
    if not 0 <= k <= scores.size:
        msg = f"k is {k}: choose 0 to {scores.size}"
        raise SettingError(msg)
    if k == 0:
        return np.empty(0, dtype=np.int64)
    if np.isnan(scores.max()):
        msg = "a score is NaN: rank finite values only"
        raise SettingError(msg)
    if k == scores.size:
        return np.arange(k, dtype=np.int64)
    low, high = _guess(scores, k)
    candidates = np.flatnonzero(scores >= low).astype(np.int64, copy=False)
    if candidates.size < k:
        candidates = np.arange(scores.size, dtype=np.int64)
    best = scores.take(candidates)
    between = extract(best, best <= high)
    if best.size - between.size >= k:
        between = best
    rank = best.size - k  # from below; all that is above the guess stays above
    threshold = np.partition(between, rank)[rank]
    keep = best > threshold
    ties = np.flatnonzero(best == threshold)
    keep[ties[: k - np.count_nonzero(keep)]] = True
    return extract(candidates, keep)


def _guess(scores: Float32, k: int) -> tuple[float, float]:
    """Return what somewhat more than k scores should reach, and what somewhat fewer should exceed.

    From a sample, which decides how much is to be sorted and never the result.
    """
    if scores.size <= _SMALL:
        return -math.inf, math.inf
    sample = np.sort(scores.take(np.random.default_rng(0).integers(scores.size, size=_SAMPLE)))
    rank = k / scores.size * sample.size
    margin = 5 * math.sqrt(rank) + 5  # at least five standard deviations of the sample's rank
    more, fewer = math.ceil(rank + margin), math.floor(rank - margin)
    low = float(sample[-more]) if more <= sample.size else -math.inf
    return low, float(sample[-fewer]) if fewer > 0 else math.inf
