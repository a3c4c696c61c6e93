"""Splitting chips of scenes: by blocks of ground, by scene, by date, or as it was given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.block_split import separate_duplicates, set_buffer, split_blocks
from data_prep.schema import SPLITS
from data_prep.splits import TEST, TRAIN, VAL, SplitCodes, split_units
from rsdgc.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_prep.footprints import Footprints
    from data_prep.ingest.options import SceneOptions
    from data_prep.manifest import Columns


@dataclass
class ChipSplit:
    """Split codes [n] and units [n] (blocks, scenes or dates) of n chips, and how they came."""

    codes: SplitCodes
    blocks: NDArray[np.int64]
    block_px: int
    buffer_px: int
    notes: list[str] = field(default_factory=list)


def split_chips(
    columns: Columns,
    ground: Footprints,
    labels: NDArray[np.int64],
    options: SceneOptions,
    given: Mapping[str, str],
) -> ChipSplit:
    """Split chips as the options say.

    Whatever the method, the buffer keeps chips of different splits apart, and equal chips go to
    one split. Only a split by date has no buffer: it tests the same ground at another time.

    Raises
    ------
    DataError
        Scenes lack a date or a split, or there is only one of them.
    """
    buffer_px = options.chip_px // 2 if options.buffer_px is None else options.buffer_px
    if options.split_by == "blocks":
        result = split_blocks(
            ground,
            labels,
            columns["folder"].astype(str),
            columns["hash"],
            chip_px=options.chip_px,
            buffer_px=buffer_px,
            block_px=options.block_px,
            **options.shares,
        )
        return ChipSplit(result.codes, result.blocks, result.block_px, buffer_px)
    equal = np.unique(columns["hash"].astype(str), return_inverse=True)[1]
    names, units = _units(columns, "date" if options.split_by == "date" else "scene")
    if options.split_by == "given":
        codes = _given(names, given)[units]
    elif options.split_by == "date":
        codes = _latest(units, options.test_share, options.val_share)
    else:
        shares = (options.test_share, options.val_share)
        codes = split_units(units, labels, columns["folder"], shares, options.seed)
    if options.split_by == "date":
        note = "train and test may show the same ground, at different dates"
        return ChipSplit(separate_duplicates(codes, equal), units, 0, 0, [note])
    codes = separate_duplicates(set_buffer(ground, codes, buffer_px), equal)
    return ChipSplit(codes, units, 0, buffer_px)


def _units(columns: Columns, name: str) -> tuple[list[str], NDArray[np.int64]]:
    names, units = np.unique(columns[name].astype(str), return_inverse=True)
    if "" in names:
        lacking = columns["scene"][units == 0][0]
        raise DataError(f"scene {lacking} has no {name}: describe it in a TOML or CSV file")
    if len(names) < 2:
        raise DataError(f"all samples are of one {name} ({names[0]}): use --split-by blocks")
    return names.tolist(), units.astype(np.int64)


def _given(names: list[str], given: Mapping[str, str]) -> SplitCodes:
    lacking = next((name for name in names if not given.get(name)), None)
    if lacking is not None:
        raise DataError(f"scene {lacking} has no split: give it one in the description")
    return np.array([SPLITS.index(given[name]) for name in names], np.int8)


def _latest(units: NDArray[np.int64], test_share: float, val_share: float) -> SplitCodes:
    """Give the latest dates to test, those before to val, and always the first one to train."""
    sizes: NDArray[Any] = np.bincount(units)
    codes = np.full(len(sizes), TRAIN, np.int8)
    left = len(sizes)
    for code, share in ((TEST, test_share), (VAL, val_share)):
        taken = 0
        # a date goes along if more than half of it is within the share
        while share and left > 1 and taken + sizes[left - 1] / 2 <= share * sizes.sum():
            left -= 1
            taken += sizes[left]
            codes[left] = code
        # one large date is too much for the share, but no date at all would leave nothing to test
        if share and not taken and left > 1:
            left -= 1
            codes[left] = code
    return codes[units]
