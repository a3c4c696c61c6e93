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
    from data_prep.ingest.scene_options import SceneOptions
    from data_prep.manifest import Columns


@dataclass
class ChipSplit:
    """Outcome: codes and units (blocks, scenes, dates) of n chips, and how they came about."""

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

    Chips of different splits are kept apart by the buffer, and equal chips together, whatever the
    method; only dates may share ground, for the same ground at another time is what is tested.

    Raises
    ------
    DataError
        Scenes lack a date or a split, or there is only one of them.
    """
    rules = options.split
    buffer_px = options.chip_px // 2 if rules.buffer_px is None else rules.buffer_px
    if rules.method == "blocks":
        result = split_blocks(
            ground,
            labels,
            columns["folder"].astype(str),
            columns["hash"],
            chip_px=options.chip_px,
            buffer_px=buffer_px,
            block_px=rules.block_px,
            **rules.shares,
        )
        return ChipSplit(result.codes, result.blocks, result.block_px, buffer_px)
    equal = np.unique(columns["hash"].astype(str), return_inverse=True)[1]
    names, units = _units(columns, "date" if rules.method == "date" else "scene")
    if rules.method == "given":
        codes = _given(names, given)[units]
    elif rules.method == "date":
        codes = _latest(units, rules.test_share, rules.val_share)
    else:
        shares = (rules.test_share, rules.val_share)
        codes = split_units(units, labels, columns["folder"], shares, rules.seed)
    if rules.method == "date":
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
        raise DataError(f"all samples are of one {name} ({names[0]}): split by blocks instead")
    return names.tolist(), units.astype(np.int64)


def _given(names: list[str], given: Mapping[str, str]) -> SplitCodes:
    lacking = next((name for name in names if not given.get(name)), None)
    if lacking is not None:
        raise DataError(f"scene {lacking} has no split: give it one in the description")
    return np.array([SPLITS.index(given[name]) for name in names], np.int8)


def _latest(units: NDArray[np.int64], test_share: float, val_share: float) -> SplitCodes:
    """Give the latest dates to test, those before to val; some always stay to train on."""
    sizes: NDArray[Any] = np.bincount(units)
    codes = np.full(len(sizes), TRAIN, np.int8)
    left = len(sizes)
    for code, share in ((TEST, test_share), (VAL, val_share)):
        taken = 0
        while share and left > 1 and taken + sizes[left - 1] / 2 <= share * sizes.sum():
            left -= 1
            taken += sizes[left]
            codes[left] = code
        if share and not taken and left > 1:
            left -= 1
            codes[left] = code
    return codes[units]
