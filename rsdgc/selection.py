"""Choose the best neighborhoods: exact, and the same on every machine for the same scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

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
    candidates = _candidates(scores, k)
    best = scores[candidates]
    threshold = np.partition(best, best.size - k)[best.size - k]
    keep = best > threshold
    ties = np.flatnonzero(best == threshold)
    keep[ties[: k - np.count_nonzero(keep)]] = True
    chosen: Int64 = candidates[keep]
    return chosen


def _candidates(scores: Float32, k: int) -> Int64:
    """Return increasing ids that hold the k best and all their ties, few if that is cheap.

    A sample gives a bound that somewhat more than k scores should reach; if fewer do, all are
    candidates. So the sample decides the time only, never the result.
    """
    if scores.size > _SMALL and k < scores.size // 4:
        sample = scores[:: scores.size // _SAMPLE]
        rank = min(sample.size, int(1.2 * k / scores.size * sample.size) + 50)
        bound = np.partition(sample, sample.size - rank)[sample.size - rank]
        ids = np.flatnonzero(scores >= bound)
        if ids.size >= k:
            return ids.astype(np.int64, copy=False)
    return np.arange(scores.size, dtype=np.int64)
