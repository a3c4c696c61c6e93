"""Labels that are finer than a scene's grid: each pixel takes the class of most of its ground.

GDAL counts values as it warps. Here classes are counted: labels that are painted have three values
a pixel, several codes may be remapped to one class, and several may mean no label.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.vrt import WarpedVRT

from data_prep.crs import transform_positions
from data_prep.ingest.aligned import WARP_TOLERANCE_PX, Band, RowSource
from data_prep.ingest.grid import Grid, positions

#: Points along each side of rows of the grid at which their place in the labels is found.
SAMPLED_SIDE = 17
#: Pixels of the labels that are read beyond these points: straight lines become curves.
MARGIN_PX = 2
#: Stands for a pixel without a class.
NO_CLASS = -1


class CountingSource(RowSource, Protocol):
    """Rows of codes, and the values without a class that were met."""

    unknown: Counter[str]


class MajorityRows:
    """The commonest code under each pixel of the grid, a source of rows.

    ``labels`` are read on their own grid ``fine``, from column ``first_col`` on.
    """

    def __init__(
        self,
        labels: CountingSource,
        fine: Grid,
        grid: Grid,
        cols: tuple[int, int],
        first_col: int,
    ) -> None:
        self._labels = labels
        self._fine = fine
        self._grid = grid
        self._cols = cols
        self._first_col = first_col

    @property
    def unknown(self) -> Counter[str]:
        """Values without a class that were met."""
        return self._labels.unknown

    def read(self, start: int, stop: int) -> Band:
        """Read codes (1, h, W) of rows [start, stop), and which pixels have one."""
        first, last = self._cols
        shape = (1, stop - start, last - first)
        (low, high), _ = covered(self._fine, self._grid, (start, stop), self._cols)
        if high <= low:
            return np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
        codes, valid = self._labels.read(low, high)
        known = np.ones(codes.shape, np.bool_) if valid is None else valid
        classes, index = np.unique(codes[known], return_inverse=True)
        image = np.full(codes.shape, NO_CLASS, np.int32)
        image[known] = index
        target = Grid(self._grid.crs, self._grid.window_transform(start, first), *shape[1:])
        chosen = self._warped(image[0], low, target)[None]
        if not len(classes):
            return np.zeros(shape, np.int64), np.zeros(shape, np.bool_)
        return classes[chosen.clip(min=0)].astype(np.int64), chosen != NO_CLASS

    def _warped(self, image: NDArray[np.int32], row: int, target: Grid) -> NDArray[np.int32]:
        """Bring classes that begin at a row of the labels to rows of the grid."""
        place = self._fine.window_transform(row, self._first_col)
        profile = {"height": image.shape[0], "width": image.shape[1], "dtype": "int32", "count": 1}
        with ExitStack() as stack:
            memory = stack.enter_context(MemoryFile())
            with memory.open(
                driver="GTiff", crs=self._fine.crs, transform=place, nodata=NO_CLASS, **profile
            ) as file:
                file.write(image, 1)
            source = stack.enter_context(memory.open())
            warped = stack.enter_context(
                WarpedVRT(
                    source,
                    resampling=Resampling.mode,
                    crs=target.crs,
                    transform=target.transform,
                    height=target.height,
                    width=target.width,
                    nodata=NO_CLASS,
                    tolerance=WARP_TOLERANCE_PX,
                )
            )
            values: NDArray[np.int32] = warped.read(1)
        return values


def covered(
    fine: Grid, grid: Grid, rows: tuple[int, int], cols: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return rows and columns, each from and up to, of ``fine`` under a window of another grid."""
    down, across = np.meshgrid(
        np.linspace(*rows, SAMPLED_SIDE), np.linspace(*cols, SAMPLED_SIDE), indexing="ij"
    )
    places = positions(grid.transform, across.ravel(), down.ravel())
    moved = transform_positions(grid.crs, fine.crs, places)
    moved = moved[:, np.isfinite(moved).all(axis=0)]
    if not moved.shape[1]:
        return (0, 0), (0, 0)
    col, row = positions(~fine.transform, moved[0], moved[1])
    ranges = [
        (
            int(np.clip(np.floor(at.min()) - MARGIN_PX, 0, length)),
            int(np.clip(np.ceil(at.max()) + MARGIN_PX, 0, length)),
        )
        for at, length in ((row, fine.height), (col, fine.width))
    ]
    return ranges[0], ranges[1]
