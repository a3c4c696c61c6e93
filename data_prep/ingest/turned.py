"""Rasters in degrees that count longitudes in another way than a scene: 190° E is 170° W.

A warp places a raster once and does not turn the globe, so that a raster of 0 to 360 degrees has
nothing at 120° W, and one that crosses the antimeridian has only a part of a scene that does. Such
a raster is placed once for each turn, and each turn fills what the ones before it do not cover.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray

from data_prep.ingest.grid import Grid, inside_by_turn
from data_prep.rasters import RasterFile, vrt_text, with_geotransform


def turns(file: RasterFile, grid: Grid) -> list[float]:
    """Return the degrees by which to move a raster east so that it covers places of a grid.

    Longitudes may be counted from 0 to 360, or beyond 180, and differ by a turn for one place.
    """
    inside = inside_by_turn(grid, file)
    return [-turn for turn, points in inside.items() if points.any()] or [0.0]


def open_turned(stack: ExitStack, source: Any, degrees: float) -> Any:
    """Return an opened raster as if it lay some degrees farther east."""
    if not degrees:
        return source
    t = source.transform
    moved = Affine(t.a, t.b, t.c + degrees, t.d, t.e, t.f)
    return stack.enter_context(rasterio.open(with_geotransform(vrt_text(source), moved)))


class JoinedRasters:
    """Opened rasters of one grid, read as one: of valid pixels the last raster's count.

    It has what :class:`data_prep.ingest.aligned.AlignedRaster` uses of rasterio's datasets.
    ``has_alpha`` says that their last band is a mask.
    """

    def __init__(self, parts: Sequence[Any], *, has_alpha: bool) -> None:
        self._parts = parts
        self._has_alpha = has_alpha
        self.height: int = parts[0].height
        self.count: int = parts[0].count

    def read(self, indexes: list[int] | int, *, window: Any, out: Any = None) -> NDArray[Any]:
        """Read bands (C, h, w) of a window, or one band (h, w) of an alpha mask."""
        values: NDArray[Any] = self._parts[0].read(indexes, window=window, out=out)
        for part in self._parts[1:]:
            others = part.read(indexes, window=window)
            if isinstance(indexes, int):
                mask = others
            elif self._has_alpha:
                mask = part.read(self.count, window=window)
            else:
                mask = part.read_masks(indexes, window=window)
            np.copyto(values, others, where=mask > 0)
        return values

    def read_masks(self, indexes: list[int], *, window: Any) -> NDArray[np.uint8]:
        """Read the masks of bands (C, h, w): 255 where a part is valid."""
        masks = [part.read_masks(indexes, window=window) for part in self._parts]
        joined: NDArray[np.uint8] = np.max(masks, axis=0)
        return joined
