"""The reference grid of a scene, and how other rasters lie on it.

No CRS is ever invented. A raster is read pixel by pixel where its corners are those of the grid. It
is also where it says nothing of its place, but has the grid's size.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.warp import transform_bounds

from data_prep.crs import are_related, crs_name, crs_text, meters_per_unit, transform_positions
from data_prep.foreign_errors import reading
from data_prep.rasters import RasterFile
from rsdgc.errors import DataError

#: Share of a pixel by which grids may differ and still count as the same. Transforms of one grid
#: differ in their last digits after a conversion; a real shift is of a tenth of a pixel or more.
TOLERANCE = 1e-3
#: Points along each side of an image at which it is seen whether another covers it.
SAMPLED_SIDE = 32


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
        return crs_text(self.crs)

    @property
    def is_placed(self) -> bool:
        """Whether it is known where the pixels lie, if not always in which CRS."""
        return not self.transform.is_identity

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
        box = list(bounds)
        theirs, ours = (", ".join(f"{v:.6g}" for v in corners) for corners in (box, self.bounds))
        covered = f"it covers ({theirs})" if np.isfinite(box).all() else "it has no place there"
        return DataError(
            f"{path} does not overlap the scene: {covered}, the scene ({ours}) in "
            f"{self.crs_text or 'pixels'}: check its position and CRS (--crs, --label-crs)"
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
    """Tell whether a raster can be read pixel by pixel on the grid.

    Its size is that of the grid, and its corners lie on the grid's. A raster that does not say
    where it lies is taken to lie there.
    """
    if (file.height, file.width) != (grid.height, grid.width):
        return False
    if not (file.is_placed and grid.is_placed):
        return True
    # where no transformation is known between the two, only equal numbers can mean one place
    crs = file.crs if are_related(file.crs, grid.crs) else grid.crs
    theirs = _corners(crs, grid.crs, file.transform, grid.height, grid.width)
    ours = _corners(grid.crs, grid.crs, grid.transform, grid.height, grid.width)
    pixel = np.hypot(grid.transform.a, grid.transform.d)
    return bool(np.abs(theirs - ours).max() < TOLERANCE * pixel)


@lru_cache(maxsize=1024)
def _corners(
    source: Any, target: Any, transform: Any, height: int, width: int
) -> NDArray[np.float64]:
    """Corners [2, 4] of an image in another CRS."""
    corners = np.array([(0, 0), (width, 0), (0, height), (width, height)], np.float64).T
    return transform_positions(source, target, positions(transform, *corners))


def trust_note(file: RasterFile, grid: Grid) -> str:
    """Say why a raster on the grid is read pixel by pixel without a proof; empty if there is."""
    if file.is_placed != grid.is_placed:
        return "taken pixel by pixel: the sizes agree, one has no position"
    if (file.crs is None) != (grid.crs is None):
        return "taken pixel by pixel: the geotransforms agree, one has no CRS"
    if not are_related(file.crs, grid.crs):
        return "taken pixel by pixel: the geotransforms agree, the CRSs cannot be related"
    return ""


def check_alignable(file: RasterFile, grid: Grid, option: str = "--crs") -> None:
    """Raise DataError if a raster cannot be aligned with the grid or does not overlap it.

    ``option`` is the one that names the raster's CRS.
    """
    if is_on_grid(file, grid):
        return
    if file.crs is None or grid.crs is None:
        raise DataError(_not_alignable(file, grid, option))
    if not are_related(file.crs, grid.crs):
        raise DataError(
            f"{file.path} cannot be aligned with the scene: no transformation from "
            f"{crs_name(file.crs)} to {crs_name(grid.crs)} is known: name its CRS with {option}"
        )
    bounds = bounds_of(file.transform, file.height, file.width)
    if file.crs != grid.crs:
        with suppress(DataError), reading(file.path):
            bounds = transform_bounds(file.crs, grid.crs, *bounds)
    left, bottom, right, top = bounds
    g_left, g_bottom, g_right, g_top = grid.bounds
    apart = left >= g_right or right <= g_left or bottom >= g_top or top <= g_bottom
    # bounds say nothing where they include places off the globe or cross the antimeridian
    if apart and coverage(file, grid) == 0:
        raise grid.no_overlap(file.path, bounds)


def _not_alignable(file: RasterFile, grid: Grid, option: str) -> str:
    sizes = f"{file.height}×{file.width} px and the grid {grid.height}×{grid.width}"
    if not (file.is_placed and grid.is_placed):
        which = "the reference modality" if file.is_placed else str(file.path)
        return (
            f"{file.path} is {sizes}, but {which} has no CRS and no position: give it both, as "
            "with rio edit-info --crs --transform"
        )
    options = [option] * (file.crs is None) + ["--crs"] * (grid.crs is None)
    which = "neither has a CRS" if file.crs is None and grid.crs is None else "one has no CRS"
    return (
        f"{file.path} does not lie on the scene's pixels by its geotransform (it is {sizes}), and "
        f"{which}: name it with {' and '.join(dict.fromkeys(options))}"
    )


def coverage(file: RasterFile, grid: Grid) -> float:
    """Return the share of a grid's ground that a raster covers, roughly; 0 only where they part."""
    inside = _inside(grid, file)
    # a small raster lies between the points of the grid
    return float(inside.mean()) or float(_inside(file, grid).any()) / inside.size


def share_outside(file: RasterFile, grids: Iterable[Grid]) -> float:
    """Return the share of a raster's pixels that lie within none of some grids, roughly."""
    inside = [_inside(file, grid) for grid in grids if not is_on_grid(file, grid)]
    return float((~np.any(inside, axis=0)).mean()) if inside else 0.0


def _inside(points_of: Grid | RasterFile, image: Grid | RasterFile) -> NDArray[np.bool_]:
    """Mark which of some points that are spread over one image lie within another."""
    joined: NDArray[np.bool_] = np.any(list(inside_by_turn(points_of, image).values()), axis=0)
    return joined


def inside_by_turn(
    points_of: Grid | RasterFile, image: Grid | RasterFile
) -> dict[float, NDArray[np.bool_]]:
    """Mark the points within an image if their longitudes are raised by 0, 360 or -360 degrees."""
    steps = (np.arange(SAMPLED_SIDE) + 0.5) / SAMPLED_SIDE
    rows, cols = np.meshgrid(steps * points_of.height, steps * points_of.width)
    places = positions(points_of.transform, cols.ravel(), rows.ravel())
    moved = transform_positions(points_of.crs, image.crs, places)
    known = np.isfinite(moved).all(axis=0)
    # the ground at 190 degrees east is that at 170 degrees west
    geographic = image.crs is not None and image.crs.is_geographic
    inside = {}
    for turn in (0.0, 360.0, -360.0) if geographic else (0.0,):
        inside[turn] = np.zeros(moved.shape[1], np.bool_)
        col, row = positions(~image.transform, moved[0, known] + turn, moved[1, known])
        inside[turn][known] = (col > 0) & (col < image.width) & (row > 0) & (row < image.height)
    return inside


def positions(
    transform: Any, cols: NDArray[np.float64], rows: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Apply an affine transform: x and y [2, n]."""
    t = transform
    return np.stack([t.c + t.a * cols + t.b * rows, t.f + t.d * cols + t.e * rows])


def nesting(file: RasterFile, grid: Grid, chip_px: int, stride_px: int) -> int:
    """How many pixels of the grid, along a side, a raster's pixel covers exactly.

    2 for Sentinel-2's 20 m bands on the grid of those of 10 m. 1 where the pixels do not nest, or
    where chips and strides are not multiples of them, so that a chip would cut a pixel: such a
    raster is warped to the grid itself.
    """
    if file.crs is None or grid.crs is None:
        return 1
    factor = round(file.resolution_m / (abs(grid.transform.a) * meters_per_unit(grid.crs)))
    sides = (chip_px, stride_px, grid.height, grid.width)
    if factor < 2 or any(side % factor for side in sides):
        return 1
    return factor if is_on_grid(file, grid.coarser(factor)) else 1
