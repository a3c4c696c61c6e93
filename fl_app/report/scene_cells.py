"""One scene of a store as a grid of cells, a cell to each chip (or labelled pixel)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fl_app.report.palette import picture_bands

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_prep.store import Store

MAX_CELLS = 30_000
"""Chips of a scene that are mapped; of a larger scene, those nearest its test chips."""

_CANVAS_PX = 1400
_BATCH = 256


@dataclass(frozen=True)
class Scene:
    """The chips of one scene and where they lie.

    Attributes
    ----------
    name : str
    chips : int64[n]
        Rows of the store.
    labels : int64[n]
        Reference classes.
    test : bool[n]
        Whether the chip belongs to the test split.
    train : bool[n]
        Whether the chip was trained on.
    rows, cols : int64[n]
        Cell of each chip, from 0.
    cell_px : int
        Side of a cell in pixels: the distance of neighbouring chips.
    """

    name: str
    chips: NDArray[np.int64]
    labels: NDArray[np.int64]
    test: NDArray[np.bool_]
    train: NDArray[np.bool_]
    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    cell_px: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid."""
        return int(self.rows.max()) + 1, int(self.cols.max()) + 1

    def grid(self, values: NDArray[np.generic], empty: float) -> NDArray[np.generic]:
        """Lay out one value a chip on the grid: ``values[n]`` to ``[rows, columns]``."""
        laid = np.full(self.shape, empty, dtype=values.dtype)
        laid[self.rows, self.cols] = values
        return laid


def best_scene(store: Store) -> Scene | None:
    """Scene with the most classes among its test chips, then the most test chips.

    Returns
    -------
    Scene or None
        None when the store has no scenes with test chips at more than one place.
    """
    manifest = store.manifest
    names = np.array(manifest.column("scene").to_pylist(), dtype=str)
    splits = np.array(manifest.column("split").to_pylist(), dtype=str)
    chips, labels, rows, cols = (
        manifest.column(column).to_numpy().astype(np.int64)
        for column in ("chip", "label", "row", "col")
    )
    scenes, which = np.unique(names, return_inverse=True)
    test = splits == "test"
    tested = np.bincount(which[test], minlength=len(scenes))
    best: tuple[int, int] = (0, 0)
    chosen = -1
    for at in np.flatnonzero(_spread(which, rows) & _spread(which, cols) & (tested > 0)).tolist():
        rank = (len(np.unique(labels[test & (which == at)])), int(tested[at]))
        if rank > best:
            best, chosen = rank, at
    if chosen < 0:
        return None
    kept = np.flatnonzero(which == chosen)
    kept = kept[_nearest(rows[kept], cols[kept], test[kept])]
    rows, cols = rows[kept], cols[kept]
    steps = np.concatenate([np.diff(np.unique(rows)), np.diff(np.unique(cols))])
    cell_px = int(steps.min())
    return Scene(
        str(scenes[chosen]),
        chips[kept],
        labels[kept],
        test[kept],
        splits[kept] == "train",
        (rows - rows.min()) // cell_px,
        (cols - cols.min()) // cell_px,
        cell_px,
    )


def _spread(which: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the chips of each scene lie at more than one place along an axis."""
    low = np.full(int(which.max(initial=-1)) + 1, np.iinfo(np.int64).max)
    high = np.full_like(low, np.iinfo(np.int64).min)
    np.minimum.at(low, which, places)
    np.maximum.at(high, which, places)
    return high > low


def _nearest(
    rows: NDArray[np.int64], cols: NDArray[np.int64], test: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Places of the chips nearest the middle of the test chips, as many as are mapped."""
    down = np.abs(rows - np.median(rows[test]))
    across = np.abs(cols - np.median(cols[test]))
    nearest = np.argsort(np.maximum(down, across), kind="stable")[:MAX_CELLS]
    return np.sort(nearest)


def quick_look(store: Store, scene: Scene) -> NDArray[np.float32]:
    """Mosaic of a scene's chips in three bands, as they lie on the grid.

    Returns
    -------
    float32[H, W, 3]
        The grid's extent, thinned to about 1400 px; NaN where there is no chip or no data.
    """
    first, bands, nodata = picture_of(store)
    chip_px, cell_px = store.chip_px, scene.cell_px
    step = _thinning(max(scene.shape) * cell_px, chip_px, cell_px)
    side, margin = chip_px // step, max(0, chip_px - cell_px) // 2 // step
    height, width = (count * cell_px // step + 2 * margin + side for count in scene.shape)
    canvas = np.full((height, width, 3), np.nan, dtype=np.float32)
    inside = np.arange(side)
    for start in range(0, len(scene.chips), _BATCH):
        part = slice(start, start + _BATCH)
        pixels = store.take(scene.chips[part])[first][:, bands, ::step, ::step]
        values = pixels.transpose(0, 2, 3, 1)[:, :side, :side].astype(np.float32)
        if nodata is not None:
            values[(values == nodata).any(axis=-1)] = np.nan
        down = scene.rows[part] * cell_px // step
        across = scene.cols[part] * cell_px // step
        canvas[down[:, None, None] + inside[:, None], across[:, None, None] + inside[None, :]] = (
            values
        )
    height, width = (count * cell_px // step for count in scene.shape)
    return canvas[margin : margin + height, margin : margin + width]


def picture_of(store: Store) -> tuple[int, list[int], float | None]:
    """Modality to show, its three bands and its nodata value."""
    modalities = store.meta.modalities
    counts = [len(modality.bands) for modality in modalities]
    first = next((place for place, count in enumerate(counts) if count >= 3), 0)
    chosen = modalities[first]
    return first, list(picture_bands(chosen.bands)), chosen.nodata


def _thinning(extent_px: int, chip_px: int, cell_px: int) -> int:
    """Least common divisor of chip and cell that brings the extent down to the canvas."""
    common = int(np.gcd(chip_px, cell_px))
    steps = [step for step in range(1, common + 1) if common % step == 0]
    return next((step for step in steps if extent_px / step <= _CANVAS_PX), steps[-1])
