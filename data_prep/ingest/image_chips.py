"""Single images as square chips of one size."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.enums import Resampling
from rasterio.windows import Window

from data_prep.ingest.aligned import expand_colors, has_own_mask, own_valid
from data_prep.rasters import RasterFile, color_table, open_raster, real_values

if TYPE_CHECKING:
    from numpy.typing import NDArray


def common_side(files: list[RasterFile]) -> int:
    """Shorter side of the commonest image size; of several, the largest."""
    sizes = Counter((file.height, file.width) for file in files)
    best = max(sizes, key=lambda size: (sizes[size], size))
    return min(best)


def read_chip(file: RasterFile, common: int, side: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Read an image as a square chip.

    Parameters
    ----------
    file
        The image.
    common
        Side to which it is cropped or padded, in its own pixels.
    side
        Side of the chip.

    Returns
    -------
    tuple
        Values (C, side, side) in the stored type, and which of them are data.
    """
    height, width = min(file.height, common), min(file.width, common)
    window = Window((file.width - width) // 2, (file.height - height) // 2, width, height)
    indexes = list(file.indexes)
    with open_raster(file.path) as source:
        # the whole of it, for a file that is cut short gives its first rows without complaint
        values = source.read(indexes)[(slice(None), *window.toslices())]
        masked = has_own_mask(source, file)
        mask = source.read_masks(indexes, window=window) > 0 if masked else None
        colors = color_table(source) if file.expand else None
        if side != common and colors is None:
            scaled = [max(1, round(length * side / common)) for length in (height, width)]
            shape = (len(indexes), *scaled)
            averaging = Resampling.average if side < common else Resampling.bilinear
            values = source.read(indexes, window=window, out_shape=shape, resampling=averaging)
            mask = (
                source.read_masks(indexes, window=window, out_shape=shape) > 0 if masked else None
            )
    valid = own_valid(values, file.nodatas)
    if mask is not None:
        valid &= mask
    if colors is not None:
        values, valid = expand_colors(values, valid, colors)
        if side != common:
            values, valid = _resized(values, side, common), _resized(valid, side, common)
    return _pad(real_values(values, file), side), _pad(valid, side)


def _resized(values: NDArray[Any], side: int, common: int) -> NDArray[Any]:
    """Pick pixels of (C, h, w), nearest neighbor: colors of a table do not mix."""
    height, width = (max(1, round(length * side / common)) for length in values.shape[1:])
    rows = ((np.arange(height) + 0.5) * values.shape[1] / height).astype(np.int64)
    cols = ((np.arange(width) + 0.5) * values.shape[2] / width).astype(np.int64)
    return values[:, rows[:, None], cols]


def _pad(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Pad (C, h, w) to (C, side, side) by reflection, evenly on both sides."""
    margins = [(0, 0)]
    for length in values.shape[1:]:
        missing = side - length
        margins.append((missing // 2, missing - missing // 2))
    return np.ascontiguousarray(np.pad(values, margins, mode="symmetric"))
