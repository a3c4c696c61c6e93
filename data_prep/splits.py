"""What every split needs: codes, shares, a search for good assignments, and the report.

Single images share no ground and are split one by one (:func:`split_stratified`), whole scenes by
a random search (:func:`split_units`). Chips of a scene are split by blocks of ground
(:mod:`data_prep.block_split`), labeled pixels by fields (:mod:`data_prep.field_split`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.schema import SPLITS, SplitReport
from rsdgc.errors import SettingError

#: Codes of the splits in the algorithms: positions in :data:`data_prep.schema.SPLITS`.
TRAIN, VAL, TEST, BUFFER = range(4)

SplitCodes = NDArray[np.int8]

#: Random assignments per group. A draw is scored on class counts alone, so many cost little.
TRIALS = 64
#: Best assignments that a search returns. Class counts do not know what the buffer will take, so
#: the caller rates a few of the best again with their buffer.
FINALISTS = 4


def check_shares(test_share: float, val_share: float) -> None:
    """Raise SettingError unless both shares are in [0, 1) and leave something to train on."""
    for option, share in (("--test", test_share), ("--val", val_share)):
        if not 0 <= share < 1:
            raise SettingError(f"{option} is {share}: choose a share from 0 up to below 1")
    if test_share + val_share >= 1:
        raise SettingError(
            f"--test {test_share} and --val {val_share} leave no share to train on: "
            "choose a sum below 1"
        )


def split_names(codes: SplitCodes) -> NDArray[Any]:
    """Return the names of split codes, as a column of texts."""
    names: NDArray[Any] = np.array(SPLITS, dtype=object)[codes]
    return names


def split_stratified(
    labels: NDArray[np.int64],
    hashes: NDArray[Any],
    *,
    test_share: float = 0.2,
    val_share: float = 0.0,
    seed: int = 0,
) -> SplitCodes:
    """Split images class by class; images of equal content go to one split.

    The shares are of each class. A class of two or more distinct images has at least one in each
    split whose share is above 0, as long as one is left to train on. Images of one hash count as
    one image, of the class of the first.
    """
    check_shares(test_share, val_share)
    _, first, content_of = np.unique(hashes.astype(str), return_index=True, return_inverse=True)
    label_of_content = labels[first]
    code_of_content = np.zeros(len(first), np.int8)
    rng = np.random.default_rng(seed)
    for label in np.unique(label_of_content):
        contents = np.flatnonzero(label_of_content == label)
        # np.unique sorts by hash; the order of the images makes the split independent of the hash
        contents = rng.permutation(contents[np.argsort(first[contents])])
        tests = _part(len(contents), test_share, kept=1)
        vals = _part(len(contents), val_share, kept=1 + tests)
        code_of_content[contents[:tests]] = TEST
        code_of_content[contents[tests : tests + vals]] = VAL
    codes: SplitCodes = code_of_content[content_of]
    return codes


def _part(count: int, share: float, kept: int) -> int:
    """Return how many of ``count`` a share is: at least 1 if possible, while ``kept`` remain."""
    if share == 0 or count <= kept:
        return 0
    return int(min(max(1, round(count * share)), count - kept))


def split_units(
    units: NDArray[np.int64],
    labels: NDArray[np.int64],
    groups: NDArray[Any],
    shares: tuple[float, float],
    seed: int,
) -> SplitCodes:
    """Split chips by whole units (scenes); the arguments are those of :func:`search_assignments`.

    If a group has a single unit, all are one group.
    """
    first = np.unique(units, return_index=True)[1]
    units_per_group = np.unique(groups[first].astype(str), return_counts=True)[1]
    if units_per_group.min() == 1:
        groups = np.zeros(len(groups), np.int64)
    return search_assignments(units, labels, groups.astype(str), shares, seed)[0][units]


def search_assignments(
    units: NDArray[np.int64],
    labels: NDArray[np.int64],
    groups: NDArray[Any],
    shares: tuple[float, float],
    seed: int,
) -> list[SplitCodes]:
    """Draw random assignments of units (blocks, scenes) to splits and return the best.

    Parameters
    ----------
    units, labels : int64 [n]
        Unit and class of each chip; units are numbered from 0 without gaps.
    groups : [n]
        Group of each chip. The groups are searched one after another, so that each gives its
        share of every split.
    shares, seed
        Of test and val; of the draws.

    Returns
    -------
    list of int8 [units]
        :data:`FINALISTS` assignments, best first.
    """
    counts = count_cells((units, labels), (int(units.max()) + 1, int(labels.max()) + 1))
    first = np.unique(units, return_index=True)[1]
    group_of_unit = np.unique(groups[first], return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    finalists = [np.full(len(counts), TRAIN, np.int8) for _ in range(FINALISTS)]
    for group in range(group_of_unit.max() + 1):
        members = np.flatnonzero(group_of_unit == group)
        member_counts = counts[members]
        draws = _draw_assignments(member_counts.sum(axis=1), shares, rng)
        # class counts [split, draw, class] of all draws in one matrix product each split
        inside = np.stack([(draws == code).astype(float) @ member_counts for code in range(BUFFER)])
        total = member_counts.sum(axis=0)
        costs = [class_cost(inside[:, i], total, shares) for i in range(TRIALS)]
        best = np.argsort(costs, kind="stable")[:FINALISTS]
        for finalist, rank in zip(finalists, best, strict=True):
            finalist[members] = draws[rank]
    return finalists


def _draw_assignments(
    sizes: NDArray[np.float64], shares: tuple[float, float], rng: np.random.Generator
) -> NDArray[np.int8]:
    """Draw codes [trials, units]: in a random order, the first units to test, the next to val."""
    draws = np.full((TRIALS, len(sizes)), TRAIN, np.int8)
    total = float(sizes.sum())
    for codes in draws:
        order = rng.permutation(len(sizes))
        for code, share in zip((TEST, VAL), shares, strict=True):
            if share > 0 and len(order) > 1:
                # as many as come nearest to the share: at least 1, never all
                filled = np.cumsum(sizes[order])[:-1]
                taken = int(np.argmin(np.abs(filled - share * total))) + 1
                codes[order[:taken]] = code
                order = order[taken:]
    return draws


def count_cells(
    indices: tuple[NDArray[np.integer[Any]], ...], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Count how often each cell of an array is indexed: int [n] along each axis."""
    flat = np.ravel_multi_index(indices, shape)
    return np.bincount(flat, minlength=int(np.prod(shape))).reshape(shape).astype(np.float64)


def class_cost(inside: NDArray[Any], total: NDArray[Any], shares: tuple[float, float]) -> float:
    """Rate the samples [3, K] in train, val and test by class, of ``total`` [K]; 0 is best.

    The cost is the distance from the shares of test and val, plus half a point for the share of
    classes that a split lacks: a class that is never trained on or tested is worse than a share
    missed.
    """
    cost = 0.0
    present = total > 0
    for code, share in ((TRAIN, 1.0), (VAL, shares[1]), (TEST, shares[0])):
        if share:
            cost += 0.5 * float((inside[code][present] == 0).mean())
        if share and code != TRAIN:
            cost += float(np.abs(inside[code] - share * total).sum() / total.sum())
    return cost


def make_report(
    method: str,
    codes: SplitCodes,
    labels: NDArray[np.int64],
    classes: list[str],
    *,
    test_share: float,
    notes: Sequence[str] = (),
    **fields: Any,
) -> SplitReport:
    """Describe a split; ``fields`` are further fields of :class:`data_prep.schema.SplitReport`."""
    class_counts = {
        name: np.bincount(labels[codes == code], minlength=len(classes)).tolist()
        for code, name in enumerate(SPLITS)
    }
    notes = list(notes)
    for name, share in (("train", 1.0), ("test", test_share)):
        absent = [c for c, n in zip(classes, class_counts[name], strict=True) if n == 0]
        if absent and share > 0:
            notes.append(f"no {name} sample of: {', '.join(absent)}")
    return SplitReport(
        method=method,
        test_share=test_share,
        counts={name: sum(counts) for name, counts in class_counts.items()},
        class_counts=class_counts,
        notes=notes,
        **fields,
    )
