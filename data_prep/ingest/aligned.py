"""Rasters read on a scene's grid, in bands of rows.

Blocks of a file (strips, or rows of tiles) are decoded as wholes. Reading rows from top to bottom
decodes each block once; reading window by window would decode it again for each chip.

A raster that is not on the grid is warped as it is read: bilinear for images, and the nearest pixel
for labels, masks and color tables, because the mean of two codes is a third one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Protocol

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import MaskFlags, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from data_prep.foreign_errors import reading
from data_prep.ingest.grid import Grid, check_alignable, is_on_grid
from data_prep.ingest.turned import JoinedRasters, open_turned, turns
from data_prep.rasters import (
    RasterFile,
    amplitude_text,
    color_table,
    open_dataset,
    real_values,
    without_geotransform,
)
from data_prep.statistics import valid_mask
from rsdgc.errors import DataError

#: Bytes of one modality that are read at once, unless a row of blocks has more: few enough that
#: they are still in the processor's cache when chips are cut from them.
READ_BYTES = 8 * 2**20
#: Largest error, in pixels, of the positions that a warp reads. With GDAL's default, an eighth,
#: values depend on the window that is read; with this one they do not.
WARP_TOLERANCE_PX = 1e-6
#: No measurement has larger values: they are fills, declared as nodata or not.
FILL = 1e30
#: Values (C, h, w), and which of them are data; None where all are.
Band = tuple[NDArray[Any], NDArray[np.bool_] | None]


class RowSource(Protocol):
    """Anything that can be read in rows of a grid: a raster, polygons."""

    def read(self, start: int, stop: int) -> Band:
        """Read rows [start, stop); the next call may overwrite the values."""
        ...


class AlignedRaster:
    """A raster's bands on the grid, a source of rows.

    ``nearest`` resamples by nearest neighbor, as labels and masks need, instead of bilinear, and
    ``mode`` by the value that most of the pixels under one of the grid's have.
    ``cols`` are the first column of the grid and the one after the last; default: all.
    """

    def __init__(
        self,
        stack: ExitStack,
        file: RasterFile,
        grid: Grid,
        *,
        nearest: bool = False,
        mode: bool = False,
        cols: tuple[int, int] | None = None,
    ) -> None:
        check_alignable(file, grid)
        if file.complex_mode and (file.gcps or not is_on_grid(file, grid)):
            file = file.as_amplitudes()
        self.file = file
        self._first, self._width = (0, grid.width) if cols is None else (cols[0], cols[1] - cols[0])
        self._measured = not nearest and not mode
        self._colors: NDArray[np.uint8] | None = None
        self._alpha = 0
        with reading(file.path):
            self._source = self._open(stack, grid, nearest=nearest, mode=mode)
        self._all_valid = not (self._alpha or self._masked or file.expand) and (
            set(file.nodatas) == {None} and file.source_dtype[0] not in "fc"
        )
        self._buffer = np.zeros(0, file.source_dtype)
        #: Of the values read so far that are no measurements, the largest in magnitude; or 0.
        self.overflow = 0.0

    def _open(self, stack: ExitStack, grid: Grid, *, nearest: bool, mode: bool) -> Any:
        """Open the file, or what warps it to the grid."""
        file = self.file
        source = stack.enter_context(open_dataset(file.path, file.opened))
        if file.complex_mode and not file.source_dtype.startswith("complex"):
            source = stack.enter_context(rasterio.open(amplitude_text(source)))
        if file.expand:
            self._colors = color_table(source)
        # colors of a table are categories as well: between two indices lies nothing
        resampling = Resampling.nearest if nearest or file.expand else Resampling.bilinear
        resampling = Resampling.mode if mode else resampling
        marking = _marking(file)
        on_grid = is_on_grid(file, grid)
        adds_alpha = "add_alpha" in marking and (file.gcps or not on_grid)
        if file.gcps:
            # warped to the north-up image that the points describe, which is read like any other;
            # rasterio uses the points only where it chooses the grid itself
            source = _warped_by_points(stack, source, file, resampling, marking)
            marking.pop("add_alpha", None)  # the band that was added is warped like the others
        self._masked = has_own_mask(source, file)
        if not on_grid:
            warped = [
                stack.enter_context(
                    WarpedVRT(
                        open_turned(stack, source, degrees),
                        src_crs=file.crs,
                        resampling=resampling,
                        crs=grid.crs,
                        transform=grid.transform,
                        height=grid.height,
                        width=grid.width,
                        tolerance=WARP_TOLERANCE_PX,
                        **marking,
                    )
                )
                for degrees in ([0.0] if file.gcps else turns(file, grid))
            ]
            source = warped[0]
            if len(warped) > 1:
                source = JoinedRasters(warped, has_alpha=adds_alpha or file.alpha)
        if adds_alpha:
            self._alpha = source.count
        return source

    def read(self, start: int, stop: int) -> Band:
        """Read rows [start, stop): values (C, h, W) in their stored type, and which are valid.

        The next call may overwrite the values.
        """
        if start < 0 or stop > self._source.height or start >= stop:
            raise DataError(f"{self.file.path} has no rows {start} to {stop}: this is a defect")
        window = Window(self._first, start, self._width, stop - start)
        indexes = list(self.file.indexes)
        # the same memory for every read: new pages take as long to get as to fill
        shape = (len(indexes), stop - start, self._width)
        size = math.prod(shape)
        with reading(self.file.path):
            if self._buffer.size < size:
                self._buffer = np.empty(size, self.file.source_dtype)
            out = self._buffer[:size].reshape(shape)
            values = self._source.read(indexes, window=window, out=out)
            if self._all_valid:
                return real_values(values, self.file), None
            mask = None
            if self._alpha:
                mask = np.broadcast_to(self._source.read(self._alpha, window=window) > 0, shape)
            elif self._masked:
                mask = self._source.read_masks(indexes, window=window) > 0
        if self._colors is not None:
            return expand_colors(values, mask, self.file, self._colors)
        stored, valid, lost = stored_values(values, mask, self.file, measured=self._measured)
        self.overflow = max(self.overflow, lost, key=abs)
        return stored, valid


def stored_values(
    values: NDArray[Any],
    mask: NDArray[np.bool_] | None,
    file: RasterFile,
    *,
    measured: bool = True,
) -> tuple[NDArray[Any], NDArray[np.bool_], float]:
    """Convert values (C, h, w) to the stored type, which may not hold all of them.

    ``mask`` is what the file itself says of them, or None; ``measured`` is as in :func:`own_valid`.

    Returns
    -------
    tuple
        The values; which are data, also as they are stored; and of the others the largest in
        magnitude that nothing declares to be no data, or 0.
    """
    valid = own_valid(values, file.nodatas, measured=measured)
    lost = 0.0 if valid.all() else _largest_undeclared(values, mask, file)
    if mask is not None:
        valid &= mask
    stored = real_values(values, file)
    if stored.dtype != values.dtype:
        valid &= own_valid(stored, file.stored_nodatas, measured=measured)
    return stored, valid, lost


def _largest_undeclared(
    values: NDArray[Any], mask: NDArray[np.bool_] | None, file: RasterFile
) -> float:
    """Return the value beyond :data:`FILL` that no nodata value explains; 0 if there is none."""
    fills = any(nodata is not None and abs(nodata) >= FILL for nodata in file.nodatas)
    if fills or values.dtype.kind != "f":
        return 0.0
    beyond = np.isfinite(values) & (np.abs(values) >= FILL)
    outside = values[beyond if mask is None else beyond & mask]
    return float(outside[np.abs(outside).argmax()]) if outside.size else 0.0


def fill_invalid(
    values: NDArray[Any], valid: NDArray[np.bool_], nodata: float | int | None
) -> NDArray[Any]:
    """Replace invalid values by the modality's nodata value; values that are not finite stay."""
    floats = values.dtype.kind == "f"
    if nodata is not None:
        keep = valid | ~np.isfinite(values) if floats else valid
        return np.where(keep, values, values.dtype.type(nodata))
    # without a nodata value no whole number is free to mark them (the validity layer does), but in
    # floats NaN is
    return np.where(valid, values, np.float32("nan")) if floats else values


def own_valid(
    values: NDArray[Any], nodatas: tuple[float | int | None, ...], *, measured: bool = True
) -> NDArray[np.bool_]:
    """Mark the usable values of each band by that band's own nodata value.

    Measured values beyond :data:`FILL`, such as −3.4e38, are fills whatever a file declares: it may
    not, or with fewer digits than its pixels have, and a warp mixes them with others. Of labels,
    which are not measured, only where the nodata value is such a fill.
    """
    if len(set(nodatas)) > 1:
        return np.stack(
            [
                own_valid(band, (nodata,), measured=measured)
                for band, nodata in zip(values, nodatas, strict=True)
            ]
        )
    fills = measured or (nodatas[0] is not None and abs(nodatas[0]) >= FILL)
    if values.dtype.kind not in "fc" or not fills:
        return valid_mask(values, nodatas[0])
    valid: NDArray[np.bool_] = np.abs(values) < FILL  # not so NaN and infinity
    if nodatas[0] is not None:
        valid &= values != values.dtype.type(nodatas[0])
    return valid


def expand_colors(
    values: NDArray[Any],
    mask: NDArray[np.bool_] | None,
    file: RasterFile,
    colors: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Replace indices (1, h, w) by their colors (3, h, w); transparent ones are invalid.

    ``mask`` is what the file itself says of the indices, or None.
    """
    valid = own_valid(values, file.nodatas)
    if mask is not None:
        valid &= mask
    rgba = np.moveaxis(colors[values[0]], -1, 0)
    opaque = valid & (rgba[3:] > 0)
    return rgba[:3], np.repeat(opaque, 3, axis=0)


def has_own_mask(source: Any, file: RasterFile) -> bool:
    """Tell whether a file marks invalid pixels by an alpha band or a mask band."""
    flags = source.mask_flag_enums[file.indexes[0] - 1]
    return MaskFlags.alpha in flags or MaskFlags.per_dataset in flags


def _warped_by_points(
    stack: ExitStack, source: Any, file: RasterFile, resampling: Resampling, marking: dict[str, Any]
) -> Any:
    """Return what warps a file by its control points to the grid that its header says."""
    options = {"src_crs": file.crs, "crs": file.crs, "resampling": resampling, **marking}
    vrt = stack.enter_context(WarpedVRT(source, **options))
    if vrt.transform.almost_equals(file.transform, 1e-6 * abs(file.transform.a)):
        return vrt
    # an identity that is declared as geotransform counts for GDAL, and not for the header
    points_alone = stack.enter_context(rasterio.open(without_geotransform(source)))
    return stack.enter_context(WarpedVRT(points_alone, **options))


def _marking(file: RasterFile) -> dict[str, Any]:
    """Return options of a warp that mark what the source does not cover."""
    nodata = file.nodatas[0]
    if nodata is None and file.source_dtype[0] in "fc":
        nodata = float("nan")
    if nodata is not None:
        # each band by itself: GDAL's default masks a pixel only where all bands are nodata
        return {"src_nodata": nodata, "nodata": nodata, "UNIFIED_SRC_NODATA": "NO"}
    return {} if file.alpha else {"add_alpha": True}


class RowWindow:
    """Rows of a source, requested in rising order and read once each, ``step`` rows at a time."""

    def __init__(self, source: RowSource, height: int, step: int) -> None:
        self._source = source
        self._height = height
        self._step = step
        self._start = 0
        self._values: NDArray[Any] | None = None
        self._valid: NDArray[np.bool_] | None = None

    def rows(self, start: int, stop: int) -> Band:
        """Values (C, stop − start, W) and their validity; ``start`` never falls.

        The next call may overwrite them.
        """
        self._forget(start)
        while self._end < stop:
            first = max(self._end, start)
            # up to a multiple of the step, which is a multiple of the block's height: so no block
            # is decoded twice
            last = min((first // self._step + 1) * self._step, self._height)
            if self._values is not None:
                # the source may reuse the memory of what is kept
                self._values = self._values.copy()
            values, valid = self._source.read(first, last)
            if self._values is None:
                self._start, self._values, self._valid = first, values, valid
                continue
            self._valid = joined([self._values, values], [self._valid, valid], axis=1)
            self._values = np.concatenate([self._values, values], axis=1)
        assert self._values is not None
        rows = slice(start - self._start, stop - self._start)
        return self._values[:, rows], None if self._valid is None else self._valid[:, rows]

    def drain(self, start: int) -> None:
        """Read the rows from ``start`` to the last, and forget them."""
        for first in range(max(start, self._end), self._height, self._step):
            self.rows(first, min(first + self._step, self._height))

    @property
    def _end(self) -> int:
        return self._start + (0 if self._values is None else self._values.shape[1])

    def _forget(self, start: int) -> None:
        if self._values is None:
            return
        if start >= self._end:
            self._start, self._values, self._valid = start, None, None
            return
        gone = start - self._start
        self._values = self._values[:, gone:]
        self._valid = None if self._valid is None else self._valid[:, gone:]
        self._start = start


def joined(
    values: Sequence[NDArray[Any]], valid: Sequence[NDArray[np.bool_] | None], axis: int = 0
) -> NDArray[np.bool_] | None:
    """Join the validity of several arrays; None where every value of all is valid."""
    if all(part is None for part in valid):
        return None
    parts = [
        np.ones(array.shape, np.bool_) if part is None else part
        for array, part in zip(values, valid, strict=True)
    ]
    return np.concatenate(parts, axis=axis)


def read_step(row_bytes: int, block_height: int, unit: int = 1) -> int:
    """Rows to read at once: whole blocks, about :data:`READ_BYTES` and at most 1024 rows.

    Also a multiple of ``unit``, the rows that are requested at a time, where that is possible: then
    no request has to be joined from two reads. 1024 rows bound the memory of narrow scenes.
    """
    for rows in (math.lcm(block_height, unit), block_height):
        count = min(READ_BYTES // max(1, row_bytes * rows), 1024 // rows)
        if count:
            return count * rows
    return block_height
