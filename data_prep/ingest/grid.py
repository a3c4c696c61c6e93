"""The reference grid of a scene, and rasters read on it in bands of rows.

Every other layer is warped to the grid once, as it is read: bilinear for images, nearest for
labels. Nothing ever gets an invented CRS: a layer without one must have the grid's size, and is
then taken pixel by pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from affine import Affine
from rasterio.enums import MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from data_prep.rasters import RasterFile, one_line, open_raster
from data_prep.statistics import valid_mask
from rsdgc.errors import DataError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Grid:
    """Pixels of a scene: north-up where there is a CRS."""

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

    def boxes(
        self, rows: NDArray[np.int64], cols: NDArray[np.int64], side: int
    ) -> NDArray[np.float64]:
        """Left, bottom, right, top [n, 4] of square windows, in CRS units (else pixels)."""
        if self.crs is None:
            return np.stack([cols, -rows - side, cols + side, -rows], axis=1).astype(np.float64)
        t = self.transform
        left, top = t.c + t.a * cols, t.f + t.e * rows
        return np.stack([left, top + t.e * side, left + t.a * side, top], axis=1)


def bounds_of(transform: Any, height: int, width: int) -> tuple[float, float, float, float]:
    """Return left, bottom, right, top of an image, also if it is turned or flipped."""
    t = transform
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)], np.float64)
    xs = t.c + corners @ (t.a, t.b)
    ys = t.f + corners @ (t.d, t.e)
    return float(xs.min()), float(ys.min()), float(xs.max()), float(ys.max())


def grid_of(file: RasterFile) -> Grid:
    """Return a raster's own grid, or a north-up one over it if it is turned or flipped."""
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
    close = 1e-3 * abs(grid.transform.a)
    # how far the transforms move the farthest pixel apart
    shift = np.abs(np.subtract(file.transform[:6], grid.transform[:6]))
    reach = np.array([grid.width, grid.height, 1, grid.width, grid.height, 1])
    return bool(file.crs == grid.crs and (shift * reach).sum() < close)


def check_alignable(file: RasterFile, grid: Grid) -> None:
    """Raise DataError if a raster cannot be brought on the grid, or shares no ground with it."""
    if is_on_grid(file, grid):
        return
    if file.crs is None or grid.crs is None:
        which = file.path if file.crs is None else "the reference layer"
        raise DataError(
            f"{file.path} is {file.height}×{file.width} px and the grid "
            f"{grid.height}×{grid.width}, but {which} has no CRS: give it one, or equal sizes"
        )
    bounds = bounds_of(file.transform, file.height, file.width)
    left, bottom, right, top = transform_bounds(file.crs, grid.crs, *bounds)
    g_left, g_bottom, g_right, g_top = grid.bounds
    if left >= g_right or right <= g_left or bottom >= g_top or top <= g_bottom:
        theirs = ", ".join(f"{v:.6g}" for v in (left, bottom, right, top))
        ours = ", ".join(f"{v:.6g}" for v in grid.bounds)
        raise DataError(
            f"{file.path} does not overlap the scene: it covers ({theirs}), the scene ({ours}) in "
            f"{grid.crs_text}: check its CRS and place"
        )


class AlignedRaster:
    """A raster's bands on the grid, read in bands of rows.

    Parameters
    ----------
    stack
        Keeps the files open.
    file, grid
        What is read, and on what.
    labels
        Resample by nearest neighbor instead of bilinear.
    """

    def __init__(
        self, stack: ExitStack, file: RasterFile, grid: Grid, *, labels: bool = False
    ) -> None:
        check_alignable(file, grid)
        self.file = file
        self._grid = grid
        source = stack.enter_context(open_raster(file.path))
        self._masked = _has_own_mask(source, file)
        if is_on_grid(file, grid):
            self._source = source
            self._alpha = 0
        else:
            self._source = stack.enter_context(_warped(source, file, grid, labels))
            added = not file.alpha and file.nodata is None and file.dtype[0] != "f"
            self._alpha = self._source.count if added else 0

    def read(self, start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read rows [start, stop): values (C, h, W) in native dtype, and which are valid."""
        try:
            return self._read(start, stop)
        except RasterioError as error:
            raise DataError(f"{self.file.path} cannot be read: {one_line(error)}") from error

    def _read(self, start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        window = Window(0, start, self._grid.width, stop - start)
        indexes = list(self.file.indexes)
        values = self._source.read(indexes, window=window)
        if values.shape != (len(indexes), stop - start, self._grid.width):
            raise DataError(f"{self.file.path} gave {values.shape} for rows {start} to {stop}")
        valid = valid_mask(values, self.file.nodata)
        if self._alpha:
            valid &= self._source.read(self._alpha, window=window) > 0
        elif self._masked:
            valid &= self._source.read_masks(indexes, window=window) > 0
        return values, valid


def _has_own_mask(source: Any, file: RasterFile) -> bool:
    """Tell whether a file marks invalid pixels by an alpha band or a mask band."""
    flags = source.mask_flag_enums[file.indexes[0] - 1]
    return MaskFlags.alpha in flags or MaskFlags.per_dataset in flags


def _warped(source: Any, file: RasterFile, grid: Grid, labels: bool) -> WarpedVRT:
    options: dict[str, Any] = {
        "crs": grid.crs,
        "transform": grid.transform,
        "height": grid.height,
        "width": grid.width,
        "resampling": Resampling.nearest if labels else Resampling.bilinear,
        # each band has its own invalid pixels
        "UNIFIED_SRC_NODATA": "NO",
    }
    nodata = file.nodata
    if nodata is None and file.dtype.startswith("f"):
        nodata = float("nan")
    if nodata is not None:
        options |= {"src_nodata": nodata, "nodata": nodata}
    elif not file.alpha:
        options["add_alpha"] = True
    return WarpedVRT(source, src_crs=file.crs, **options)


class RowWindow:
    """Rows of a raster asked for in rising order, each read once.

    Parameters
    ----------
    raster
        What to read.
    height
        Rows of the grid.
    step
        Rows to read at once.
    """

    def __init__(self, raster: AlignedRaster, height: int, step: int) -> None:
        self._raster = raster
        self._height = height
        self._step = step
        self._start = 0
        self._values: NDArray[Any] | None = None
        self._valid: NDArray[np.bool_] | None = None

    def rows(self, start: int, stop: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Values (C, stop − start, W) and their validity; ``start`` never falls."""
        self._forget(start)
        while self._end < stop:
            first = max(self._end, start)
            values, valid = self._raster.read(first, min(first + self._step, self._height))
            if self._values is None or self._valid is None:
                self._start, self._values, self._valid = first, values, valid
            else:
                self._values = np.concatenate([self._values, values], axis=1)
                self._valid = np.concatenate([self._valid, valid], axis=1)
        assert self._values is not None
        assert self._valid is not None
        here = slice(start - self._start, stop - self._start)
        return self._values[:, here], self._valid[:, here]

    @property
    def _end(self) -> int:
        return self._start + (0 if self._values is None else self._values.shape[1])

    def _forget(self, start: int) -> None:
        if self._values is None or self._valid is None:
            return
        if start >= self._end:
            self._start, self._values, self._valid = start, None, None
        else:
            gone = start - self._start
            self._values, self._valid = self._values[:, gone:], self._valid[:, gone:]
            self._start = start
