"""Splits of single images: stratified per class, equal images on one side.

The splits of chips and of pixels, where neighbors share ground, are in :mod:`data_prep.block_split`
and :mod:`data_prep.field_split`; what all three share is here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.schema import SPLITS, SplitReport
from rsdgc.errors import SettingError

#: Codes of the splits in the algorithms: positions in :data:`data_prep.schema.SPLITS`.
TRAIN, VAL, TEST, BUFFER = range(4)

SplitCodes = NDArray[np.int8]


def check_shares(test_share: float, val_share: float) -> None:
    """Raise SettingError unless both shares are in [0, 1) and leave something to train on."""
    for name, share in (("test_share", test_share), ("val_share", val_share)):
        if not 0 <= share < 1:
            raise SettingError(f"{name} is {share}: choose a share from 0 up to below 1")
    if test_share + val_share >= 1:
        raise SettingError(
            f"test_share {test_share} and val_share {val_share} leave nothing to train on: "
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

    Parameters
    ----------
    labels : int64 [n]
    hashes : texts [n]
        Content of each image; equal texts are kept together, in the class of the first.
    test_share, val_share
        Shares of each class. A class of two or more distinct images has at least one in each
        split whose share is above 0, as long as one is left to train on.
    seed
        Chooses the images.

    Returns
    -------
    int8 [n]
        Codes :data:`TRAIN`, :data:`VAL`, :data:`TEST`.
    """
    check_shares(test_share, val_share)
    _, first, group_of = np.unique(hashes.astype(str), return_index=True, return_inverse=True)
    group_label = labels[first]
    by_group = np.zeros(len(first), np.int8)
    rng = np.random.default_rng(seed)
    for label in np.unique(group_label):
        # in the order of the first image, so that hashes do not decide
        groups = np.flatnonzero(group_label == label)
        groups = groups[np.argsort(first[groups])]
        groups = rng.permutation(groups)
        tests = _share_of(len(groups), test_share, spare=1)
        vals = _share_of(len(groups), val_share, spare=1 + tests)
        by_group[groups[:tests]] = TEST
        by_group[groups[tests : tests + vals]] = VAL
    codes: SplitCodes = by_group[group_of]
    return codes


def _share_of(count: int, share: float, spare: int) -> int:
    """Members of ``count`` that a share gives; at least one if enough are spare."""
    if share == 0 or count <= spare:
        return 0
    return int(min(max(1, round(count * share)), count - spare))


def class_counts(
    codes: SplitCodes, labels: NDArray[np.int64], num_classes: int
) -> dict[str, list[int]]:
    """Count samples per split and class."""
    return {
        name: np.bincount(labels[codes == code], minlength=num_classes).tolist()
        for code, name in enumerate(SPLITS)
    }


def make_report(
    method: str,
    codes: SplitCodes,
    labels: NDArray[np.int64],
    classes: list[str],
    *,
    test_share: float,
    val_share: float,
    seed: int,
    **more: Any,
) -> SplitReport:
    """Describe a split; ``more`` are further fields of the report."""
    counts = class_counts(codes, labels, len(classes))
    notes = list(more.pop("notes", []))
    for name, share in (("train", 1.0), ("test", test_share)):
        absent = [c for c, n in zip(classes, counts[name], strict=True) if n == 0 and share > 0]
        if absent:
            notes.append(f"no {name} sample of: {', '.join(absent)}")
    return SplitReport(
        method=method,
        seed=seed,
        test_share=test_share,
        val_share=val_share,
        counts={name: sum(values) for name, values in counts.items()},
        class_counts=counts,
        notes=notes,
        **more,
    )
