"""The reference grid of a scene, and how other rasters lie on it.

No CRS is ever invented: a modality without one must have the grid's size, and is then read pixel by
pixel.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from rasterio.warp import transform_bounds

from data_prep.rasters import RasterFile
from rsdgc.errors import DataError

#: Share of a pixel by which grids may differ and still count as the same. Transforms of one grid
#: differ in their last digits after a conversion; a real shift is of a tenth of a pixel or more.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Grid:
    """Pixels of a scene, north-up where there is a CRS."""

    crs: Any
    transform: Any
    height: int
    width: int

    @property
    def crs_text(self) -> str:
        """``EPSG:n`` where the CRS has a number, else WKT; empty without a CRS."""
        if self.crs is None:
            return ""
        code = self.crs.to_epsg()
        return f"EPSG:{code}" if code else str(self.crs.to_wkt())

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right, top."""
        return bounds_of(self.transform, self.height, self.width)

    def coarser(self, factor: int) -> Grid:
        """Return the grid whose pixels are ``factor`` × ``factor`` of these, without a rest."""
        t = self.transform
        coarse = Affine(t.a * factor, t.b * factor, t.c, t.d * factor, t.e * factor, t.f)
        return Grid(self.crs, coarse, self.height // factor, self.width // factor)

    def no_overlap(self, path: Path, bounds: Iterable[float]) -> DataError:
        """Return the error for a file whose bounds do not meet the grid's."""
        theirs, ours = (", ".join(f"{v:.6g}" for v in box) for box in (bounds, self.bounds))
        return DataError(
            f"{path} does not overlap the scene: it covers ({theirs}), the scene ({ours}) in "
            f"{self.crs_text or 'pixels'}: check its CRS and position"
        )

    def window_transform(self, row: int, col: int) -> Any:
        """Transform of a window that begins at a pixel."""
        t = self.transform
        x, y = t.c + t.a * col + t.b * row, t.f + t.d * col + t.e * row
        return Affine(t.a, t.b, x, t.d, t.e, y)


def bounds_of(transform: Any, height: int, width: int) -> tuple[float, float, float, float]:
    """Return left, bottom, right, top of an image, even if it is rotated or flipped."""
    t = transform
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)], np.float64)
    xs = t.c + corners @ (t.a, t.b)
    ys = t.f + corners @ (t.d, t.e)
    return float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())


def grid_of(file: RasterFile) -> Grid:
    """Return a raster's own grid, or a north-up grid over it if it is rotated or flipped."""
    t = file.transform
    if file.crs is None or (t.b == 0 and t.d == 0 and t.a > 0 and t.e < 0):
        return Grid(file.crs, t, file.height, file.width)
    left, bottom, right, top = bounds_of(t, file.height, file.width)
    across, along = float(np.hypot(t.a, t.d)), float(np.hypot(t.b, t.e))
    return Grid(
        file.crs,
        Affine(across, 0.0, left, 0.0, -along, top),
        max(1, round((top - bottom) / along)),
        max(1, round((right - left) / across)),
    )


def is_on_grid(file: RasterFile, grid: Grid) -> bool:
    """Tell whether a raster can be read pixel by pixel on the grid."""
    if (file.height, file.width) != (grid.height, grid.width):
        return False
    if file.crs is None or grid.crs is None:
        return True
    close = TOLERANCE * abs(grid.transform.a)
    # how far the transforms move the farthest pixel apart
    shift = np.abs(np.subtract(file.transform[:6], grid.transform[:6]))
    reach = np.array([grid.width, grid.height, 1, grid.width, grid.height, 1])
    return bool(file.crs == grid.crs and (shift * reach).sum() < close)


def check_alignable(file: RasterFile, grid: Grid) -> None:
    """Raise DataError if a raster cannot be aligned with the grid or does not overlap it."""
    if is_on_grid(file, grid):
        return
    if file.crs is None or grid.crs is None:
        which = file.path if file.crs is None else "the reference modality"
        raise DataError(
            f"{file.path} is {file.height}×{file.width} px and the grid "
            f"{grid.height}×{grid.width}, but {which} has no CRS: assign one"
        )
    bounds = bounds_of(file.transform, file.height, file.width)
    left, bottom, right, top = transform_bounds(file.crs, grid.crs, *bounds)
    g_left, g_bottom, g_right, g_top = grid.bounds
    if left >= g_right or right <= g_left or bottom >= g_top or top <= g_bottom:
        raise grid.no_overlap(file.path, (left, bottom, right, top))


def nesting(file: RasterFile, grid: Grid, chip_px: int, stride_px: int) -> int:
    """How many pixels of the grid, along a side, a raster's pixel covers exactly.

    2 for Sentinel-2's 20 m bands on the grid of those of 10 m. 1 where the pixels do not nest, or
    where chips and strides are not multiples of them, so that a chip would cut a pixel: such a
    raster is warped to the grid itself.
    """
    if file.crs is None or grid.crs is None:
        return 1
    factor = round(file.resolution / abs(grid.transform.a))
    sides = (chip_px, stride_px, grid.height, grid.width)
    if factor < 2 or any(side % factor for side in sides):
        return 1
    return factor if is_on_grid(file, grid.coarser(factor)) else 1
