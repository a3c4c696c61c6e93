"""Choose the best neighborhoods: exactly, and the same ones on every machine for equal scores."""

from __future__ import annotations

import math

import numpy as np

from rsdgc.arrays import Float32, Int64, chunks, extract
from rsdgc.errors import SettingError

_SAMPLE_SIZE = 1 << 14  # large enough that the bounds enclose few scores, quick to sort
_MIN_SAMPLED = 1 << 16  # below this, partitioning everything is as fast as sampling


def kept_count(ratio: float, count: int) -> int:
    """Return how many of ``count`` neighborhoods a ratio keeps: ``max(1, round(ratio · count))``.

    A ratio of 0 keeps none.
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
        Exactly the k best; among equal scores those with lower ids.

    Raises
    ------
    SettingError
        k is out of range, or a score is NaN.
    """
    if not 0 <= k <= scores.size:
        raise SettingError(f"k is {k}: choose 0 to {scores.size}")
    if k == 0:
        return np.empty(0, dtype=np.int64)
    if np.isnan(scores.max()):
        raise SettingError("a score is NaN: rank finite values only")
    if k == scores.size:
        return np.arange(k, dtype=np.int64)
    # np.partition over all scores is the dear step. So two sampled bounds enclose the k-th score,
    # and only the scores between them are partitioned: a few per cent.
    low, high = _sampled_bounds(scores, k)
    candidates = _ids_from(scores, low)
    if candidates.size < k:  # the lower bound is too high: take all
        candidates = np.arange(scores.size, dtype=np.int64)
    best = scores.take(candidates)
    between = extract(best, best <= high)
    if best.size - between.size >= k:  # the upper bound is too low: do not use it
        between = best
    # Counted from below, where the scores above the upper bound do not matter.
    rank = best.size - k
    threshold = np.partition(between, rank)[rank]
    keep = best > threshold
    ties = np.flatnonzero(best == threshold)
    keep[ties[: k - np.count_nonzero(keep)]] = True
    return extract(candidates, keep)


def _ids_from(scores: Float32, low: float) -> Int64:
    """Return the ids of the scores that are not below ``low``, int64 [k]."""
    # In pieces, so that a piece's flags stay in a core's cache.
    ids = []
    for part in chunks(scores.size):
        ids.append(np.flatnonzero(scores[part] >= low))
        ids[-1] += part.start
    return np.concatenate(ids, dtype=np.int64)


def _sampled_bounds(scores: Float32, k: int) -> tuple[float, float]:
    """Return a lower and an upper bound of the k-th highest score, guessed from a sample.

    A wrong guess costs time and never changes the result.
    """
    if scores.size <= _MIN_SAMPLED:
        return -math.inf, math.inf
    ids = np.random.default_rng(0).integers(scores.size, size=_SAMPLE_SIZE)
    sample = np.sort(scores.take(ids))
    rank = k / scores.size * sample.size
    # Five standard deviations of the rank (Poisson at most), so that a miss is next to impossible.
    margin = 5 * math.sqrt(rank) + 5
    more, fewer = math.ceil(rank + margin), math.floor(rank - margin)
    low = float(sample[-more]) if more <= sample.size else -math.inf
    return low, float(sample[-fewer]) if fewer > 0 else math.inf
