"""Random assignments of whole units (blocks, scenes) to splits, and how good they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.splits import BUFFER, TEST, TRAIN, VAL, SplitCodes

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRIALS = 64
FINALISTS = 4


class SplitSearch:
    """Random assignments of blocks to splits, group by group, scored on class counts alone."""

    def __init__(
        self,
        blocks: NDArray[np.int64],
        labels: NDArray[np.int64],
        groups: NDArray[Any],
        shares: tuple[float, float],
        seed: int,
    ) -> None:
        shape = (int(blocks.max()) + 1, int(labels.max()) + 1)
        self.counts = count_cells((blocks, labels), shape)
        first = np.unique(blocks, return_index=True)[1]
        group_of_block = np.unique(groups[first], return_inverse=True)[1]
        self.members = [
            np.flatnonzero(group_of_block == g) for g in range(group_of_block.max() + 1)
        ]
        self.shares = shares
        self.rng = np.random.default_rng(seed)

    def best(self) -> list[SplitCodes]:
        """Return the assignments [blocks] of the best draws, best first."""
        finalists = [np.full(len(self.counts), TRAIN, np.int8) for _ in range(FINALISTS)]
        for members in self.members:
            counts = self.counts[members]
            draws = self._draws(counts.sum(axis=1))
            # [split, draw, class]
            inside = np.stack(
                [(draws == code).astype(np.float64) @ counts for code in range(BUFFER)]
            )
            total = counts.sum(axis=0)
            costs = [class_cost(inside[:, i], total, *self.shares) for i in range(TRIALS)]
            ranked = np.argsort(costs, kind="stable")
            for finalist, rank in zip(finalists, ranked, strict=False):
                finalist[members] = draws[rank]
        return finalists

    def _draws(self, sizes: NDArray[np.float64]) -> NDArray[np.int8]:
        """Codes [trials, blocks] of random draws."""
        draws = np.full((TRIALS, len(sizes)), TRAIN, np.int8)
        whole = float(sizes.sum())
        for codes in draws:
            order = self.rng.permutation(len(sizes))
            for code, share in zip((TEST, VAL), self.shares, strict=True):
                taken = _prefix(sizes[order], share * whole)
                codes[order[:taken]] = code
                order = order[taken:]
        return draws


def count_cells(
    places: tuple[NDArray[np.integer[Any]], ...], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Count how often each cell of an array is named: places int [n] along each axis."""
    flat = np.ravel_multi_index(places, shape)
    return np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape).astype(np.float64)


def _prefix(sizes: NDArray[np.float64], target: float) -> int:
    """Count the blocks of an order that come closest to a number of chips: some, never all."""
    if target == 0 or len(sizes) < 2:
        return 0
    filled = np.cumsum(sizes)[:-1]
    return int(np.argmin(np.abs(filled - target))) + 1


def class_cost(
    inside: NDArray[Any], total: NDArray[Any], test_share: float, val_share: float
) -> float:
    """Rate class counts of the splits: distance from the shares, and half a point if all lack.

    Parameters
    ----------
    inside : [3, K]
        Samples in train, val and test by class.
    total : [K]
        Samples by class, before splitting.
    test_share, val_share
        Wished shares.
    """
    cost = 0.0
    present = total > 0
    for code, share in ((TRAIN, 1.0), (VAL, val_share), (TEST, test_share)):
        if share:
            cost += 0.5 * float((inside[code][present] == 0).mean())
        if share and code != TRAIN:
            cost += float(np.abs(inside[code] - share * total).sum() / total.sum())
    return cost


def split_units(
    units: NDArray[np.int64],
    labels: NDArray[np.int64],
    groups: NDArray[Any],
    shares: tuple[float, float],
    seed: int,
) -> SplitCodes:
    """Split chips by whole units (scenes), stratified as far as they allow.

    Parameters
    ----------
    units, labels : int64 [n]
        Unit and class of each chip; units are numbered from 0 without gaps.
    groups : [n]
        Units of a group each give their share; groups of a single unit are taken together.
    shares, seed
        Of test and val, and of the draws.
    """
    first = np.unique(units, return_index=True)[1]
    per_group = np.unique(groups[first].astype(str), return_counts=True)[1]
    together = groups if per_group.min() > 1 else np.zeros(len(groups), np.int64)
    return SplitSearch(units, labels, together.astype(str), shares, seed).best()[0][units]
