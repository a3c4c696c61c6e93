"""Cutting a scene in square chips on a regular grid, with one label each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from data_prep.ingest.classes import ClassList, distinct
from data_prep.ingest.places import place_columns
from data_prep.manifest import Columns
from data_prep.writer import chip_hashes
from rsdgc.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from data_prep.ingest.layers import SceneReader


@dataclass(frozen=True)
class ChipRules:
    """Which windows become chips.

    Attributes
    ----------
    chip_px, stride_px
        Side of a chip and step of the grid. Windows that would leave the scene are dropped.
    min_valid
        Least share of pixels valid in all bands.
    min_label
        Least share of pixels that have a label.
    """

    chip_px: int
    stride_px: int
    min_valid: float
    min_label: float

    def __post_init__(self) -> None:
        for name, pixels in (("chip_px", self.chip_px), ("stride_px", self.stride_px)):
            if pixels < 1:
                raise SettingError(f"{name} is {pixels}: choose at least 1 px")
        for name, share in (("min_valid", self.min_valid), ("min_label", self.min_label)):
            if not 0 <= share <= 1:
                raise SettingError(f"{name} is {share}: choose a share from 0 to 1")


@dataclass
class ChipRow:
    """Chips of one row of the grid: arrays per modality, columns, and how many were left out."""

    arrays: list[NDArray[Any]]
    columns: Columns
    no_data: int
    no_label: int


def cut_scene(reader: SceneReader, rules: ChipRules, classes: ClassList) -> Iterator[ChipRow]:
    """Cut a scene, a row of chips at a time, from top to bottom.

    The label of a chip is the code that most of its labelled pixels have; of several, the least.
    Columns: all of the manifest's but chip, split and block; ``label`` is the code.
    """
    grid = reader.grid
    side = rules.chip_px
    cols = np.arange(0, grid.width - side + 1, rules.stride_px)
    if not len(cols):
        return
    for row in range(0, grid.height - side + 1, rules.stride_px):
        codes, has_label = reader.labels(row, row + side)
        labelled = classes.labelled(codes, has_label, reader.scene.labels.path)
        images, valid = reader.images(row, row + side)
        majority, label_share = majority_codes(codes, labelled, cols, side)
        valid_share = _windows(valid, cols, side).mean(axis=(1, 2))
        seen = valid_share >= rules.min_valid
        known = (label_share >= rules.min_label) & (label_share > 0)
        keep = seen & known
        arrays = [_windows(image, cols[keep], side) for image in images]
        rows = np.full(int(keep.sum()), row)
        columns = place_columns(reader.scene, reader.grid, rows, cols[keep], side) | {
            "label": majority[keep],
            "valid": valid_share[keep],
            "hash": chip_hashes(arrays),
        }
        yield ChipRow(arrays, columns, int((~seen).sum()), int((seen & ~known).sum()))


def _windows(band: NDArray[Any], cols: NDArray[np.int64], side: int) -> NDArray[Any]:
    """Copy square windows of a band of rows (…, side, W): (n, …, side, side)."""
    windows = sliding_window_view(band, side, axis=-1)[..., cols, :]
    return np.ascontiguousarray(np.moveaxis(windows, -2, 0))


def majority_codes(
    codes: NDArray[np.int64], labelled: NDArray[np.bool_], cols: NDArray[np.int64], side: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find each window's commonest code, and the share of its pixels that have a label.

    Parameters
    ----------
    codes, labelled : int64, bool [side, W]
        Label codes of a band of rows, and which pixels have one.
    cols : int64 [n]
        First columns of the windows.
    side
        Side of a window.

    Returns
    -------
    tuple
        Codes int64 [n] (the least code where several are equally common) and shares [n].
    """
    found, inverse = distinct(codes[labelled])
    if not len(found):
        return np.zeros(len(cols), np.int64), np.zeros(len(cols))
    per_column = np.zeros((len(found), codes.shape[1] + 1), np.int64)
    np.add.at(per_column, (inverse, np.nonzero(labelled)[1] + 1), 1)
    running = np.cumsum(per_column, axis=1)
    counts = running[:, cols + side] - running[:, cols]
    return found[counts.argmax(axis=0)], counts.sum(axis=0) / (side * side)
