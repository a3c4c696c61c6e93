"""Single images as square chips of one size."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
from rasterio.enums import Resampling
from rasterio.windows import Window

from data_prep.rasters import RasterFile, open_raster
from data_prep.statistics import valid_mask

if TYPE_CHECKING:
    from numpy.typing import NDArray


def common_side(files: list[RasterFile]) -> int:
    """Shorter side of the commonest image size; of several, the largest."""
    sizes = Counter((file.height, file.width) for file in files)
    best = max(sizes, key=lambda size: (sizes[size], size))
    return min(best)


def read_chip(file: RasterFile, common: int, side: int) -> tuple[NDArray[Any], float]:
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
        Values (C, side, side), and the share of pixels valid in all bands.
    """
    height, width = min(file.height, common), min(file.width, common)
    window = Window((file.width - width) // 2, (file.height - height) // 2, width, height)
    indexes = list(file.indexes)
    with open_raster(file.path) as source:
        # the whole of it, for a file that is cut short gives its first rows without complaint
        values = source.read(indexes)[(slice(None), *window.toslices())]
        if side != common:
            scaled = [max(1, round(length * side / common)) for length in (height, width)]
            values = source.read(
                indexes,
                window=window,
                out_shape=(len(indexes), *scaled),
                resampling=Resampling.average if side < common else Resampling.bilinear,
            )
    chip = _pad(values, side)
    return chip, float(valid_mask(chip, file.nodata).all(axis=0).mean())


def _pad(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Pad (C, h, w) to (C, side, side) by reflection, evenly on both sides."""
    margins = [(0, 0)]
    for length in values.shape[1:]:
        missing = side - length
        margins.append((missing // 2, missing - missing // 2))
    return np.ascontiguousarray(np.pad(values, margins, mode="symmetric"))
