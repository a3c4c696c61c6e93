"""The ground that samples cover: boxes for splits, polygons for the manifest.

Splits measure distances, so :class:`Footprints` are boxes in the plane of each scene's own CRS.
A column of GeoParquet has one CRS for all scenes, so :func:`footprint_polygons` are in longitude
and latitude (OGC:CRS84, the default of GeoParquet). Nothing else depends on them: samples that have
no place on the globe go without.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

from data_prep.crs import LONGITUDE_LATITUDE, transform_positions
from data_prep.manifest import Columns
from data_prep.number_format import plural
from data_prep.schema import SceneMeta

#: Latitude from which on the sides of footprints are drawn in several steps, and how many.
POLAR_DEGREES = 80.0
POLAR_STEPS = 8
#: Latitude of a pole, less the error of a transformation.
POLE_DEGREES = 90 - 1e-9
#: Difference in longitude of points between which the pole lies.
HALF_TURN = 180 - 1e-6
#: Affine terms of a scene without a CRS: pixels, with rows running south.
_PIXEL_GRID = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)


@dataclass(frozen=True)
class Footprints:
    """Ground of n chips.

    Scenes that share a CRS share a plane; a scene without a CRS has its own. Chips of different
    planes count as far apart.
    """

    plane: NDArray[np.int64]  #: number of the plane that a chip lies in [n]
    boxes: NDArray[np.float64]  #: left, bottom, right, top [n, 4] in CRS units, or pixels
    pixel: NDArray[np.float64]  #: size of a pixel [n] in those units

    @classmethod
    def of(cls, columns: Columns, scenes: Sequence[SceneMeta], chip_px: int) -> Footprints:
        """Return the ground of chips; ``scene``, ``row`` and ``col`` are their first pixels."""
        count = len(columns["row"])
        boxes = np.zeros((count, 4))
        pixel = np.ones(count)
        plane = np.zeros(count, np.int64)
        plane_numbers: dict[str, int] = {}
        for scene in scenes:
            members = columns["scene"] == scene.name
            key = scene.crs or f"scene {scene.name}"
            plane[members] = plane_numbers.setdefault(key, len(plane_numbers))
            rows, cols = columns["row"][members], columns["col"][members]
            a, _, c, _, e, f = scene.transform if scene.crs else _PIXEL_GRID
            left, top = c + a * cols, f + e * rows
            boxes[members] = np.stack([left, top + e * chip_px, left + a * chip_px, top], axis=1)
            pixel[members] = a
        return cls(plane, boxes, pixel)

    def __len__(self) -> int:
        return len(self.plane)

    @cached_property
    def polygons(self) -> NDArray[Any]:
        """The boxes as shapely polygons [n], made once: a split queries them many times."""
        polygons: NDArray[Any] = shapely.box(*self.boxes.T)
        return polygons

    def centers(self) -> NDArray[np.float64]:
        """Centers [n, 2]."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2


def footprint_polygons(
    columns: Columns, scenes: Sequence[SceneMeta], side_px: int
) -> tuple[NDArray[Any] | None, list[str]]:
    """Compute the footprints of samples in longitude and latitude.

    A footprint that crosses the antimeridian goes on beyond 180 degrees. There is none where a
    scene has no CRS or one that has no longitudes on Earth, for ground off the globe, and for
    ground that holds a pole, which no ring in longitude encloses.

    Returns
    -------
    polygons : objects [n] or None
        Footprints as WKB, None where there is none. None if there is none at all.
    notes : list of str
        What is missing, and where.
    """
    polygons = np.full(len(columns["row"]), None, dtype=object)
    missing: Counter[str] = Counter()
    for scene in scenes:
        if not scene.crs:
            continue
        members = np.flatnonzero(columns["scene"] == scene.name)
        rows, cols = (columns[name][members].astype(np.int64) for name in ("row", "col"))
        polygons[members] = _scene_polygons(scene, rows, cols, side_px)
        if lacking := sum(polygon is None for polygon in polygons[members]):
            missing[scene.name] = lacking
    is_any = any(polygon is not None for polygon in polygons)
    return polygons if is_any else None, _missing_notes(missing)


def _missing_notes(missing: Mapping[str, int]) -> list[str]:
    if not missing:
        return []
    first = next(iter(missing))
    others = f" and {plural(len(missing) - 1, 'other scene')}" if len(missing) > 1 else ""
    return [
        f"{plural(sum(missing.values()), 'sample')} of {first}{others} without a footprint in "
        "longitude and latitude: their CRS has no place for them on the globe, or they hold a pole"
    ]


def _scene_polygons(
    scene: SceneMeta, rows: NDArray[np.int64], cols: NDArray[np.int64], side_px: int
) -> NDArray[Any]:
    """Return the footprints of a scene's samples as WKB, objects [n]; None where there is none."""
    polygons = np.full(len(rows), None, dtype=object)
    rings = _rings(scene, rows, cols, _ring_steps(side_px, 1))
    # near a pole the straight sides of a chip are curves in longitude and latitude
    polar = (np.abs(rings[:, :, 1]) > POLAR_DEGREES).any(axis=1)
    fine = _ring_steps(side_px, min(side_px, POLAR_STEPS))
    for members, of_members in (
        (np.flatnonzero(~polar), rings[~polar]),
        (np.flatnonzero(polar), _rings(scene, rows[polar], cols[polar], fine)),
    ):
        at_pole = (np.abs(of_members[:, :, 1]) > POLE_DEGREES).any(axis=1)
        for member, ring in zip(members[at_pole], of_members[at_pole], strict=True):
            polygons[member] = _wkb(_unwrapped(_with_pole(ring)[None]))[0]
        polygons[members[~at_pole]] = _wkb(_unwrapped(of_members[~at_pole]))
    return polygons


def _wkb(rings: NDArray[np.float64]) -> NDArray[Any]:
    """Return polygons of rings [n, points, 2] as WKB, objects [n]; None for infinite ones."""
    polygons = np.full(len(rings), None, dtype=object)
    known = np.isfinite(rings).all(axis=(1, 2))
    polygons[known] = shapely.to_wkb(shapely.polygons(rings[known]))
    return polygons


def _ring_steps(side_px: int, steps: int) -> list[tuple[int, int]]:
    """Pixels (x, y) on the edge of a square, from the lower left one and back, counterclockwise."""
    along = [side_px * step // steps for step in range(steps)]
    back = [side_px - at for at in along]
    low = [(at, side_px) for at in along]
    right = [(side_px, at) for at in back]
    top = [(at, 0) for at in back]
    left = [(0, at) for at in along]
    return [*low, *right, *top, *left, (0, side_px)]


def _rings(
    scene: SceneMeta,
    rows: NDArray[np.int64],
    cols: NDArray[np.int64],
    ring: Sequence[tuple[int, int]],
) -> NDArray[np.float64]:
    """Rings [n, points, 2] in degrees, infinite where a point is not on the globe."""
    side_px = ring[0][1]
    # Neighbors share corners, and the transform to degrees is most of the work: each corner
    # gets one number on a grid that is wide enough for samples over the scene's edge.
    grid_width = scene.width + 2 * side_px
    keys = np.stack([(rows + dy) * grid_width + cols + dx for dx, dy in ring], axis=1)
    corners, corner_of = np.unique(keys, return_inverse=True)
    a, _, c, _, e, f = scene.transform
    places = np.stack([c + a * (corners % grid_width), f + e * (corners // grid_width)])
    crs = CRS.from_user_input(scene.crs)
    degrees = transform_positions(crs, LONGITUDE_LATITUDE, places).T
    # a grid of degrees may go on beyond a pole
    degrees = np.where(np.abs(degrees[:, 1:]) > 90 + 1e-6, np.inf, degrees)
    rings: NDArray[np.float64] = degrees[corner_of.reshape(keys.shape)]
    return rings


def _with_pole(ring: NDArray[np.float64]) -> NDArray[np.float64]:
    """Let a ring with a corner at a pole run along the pole: its corner has every longitude."""
    points = ring[:-1]
    pole = int(np.abs(points[:, 1]).argmax())
    points = np.roll(points, -pole, axis=0)  # the pole first
    latitude = points[0, 1]
    before, after = points[-1, 0], points[1, 0]
    first = [before, latitude]
    return np.array([first, [after, latitude], *points[1:], first])


def _unwrapped(rings: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make longitudes go on over the antimeridian; infinite where a ring is round a pole."""
    longitudes = rings[:, :, 0]
    with np.errstate(invalid="ignore"):  # of places that do not exist
        steps = np.diff(longitudes, axis=1)
        crosses = np.asarray((np.abs(steps) > 180).any(axis=1))
        # the shorter way round, which is that of a straight side unless it goes through the pole
        shorter = (steps + 180) % 360 - 180
        around = np.abs(shorter.sum(axis=1)) > 180
        around |= (np.abs(shorter) > HALF_TURN).any(axis=1)
        moves = np.concatenate([np.zeros((len(rings), 1)), np.cumsum(shorter, axis=1)], axis=1)
        moved = longitudes[:, :1] + moves
        moved[:, -1] = moved[:, 0]  # closed to the last digit
        moved -= np.round(moved.mean(axis=1, keepdims=True) / 360) * 360
    # a ring that does not cross keeps its longitudes to the last digit
    result = np.where(crosses[:, None, None], np.dstack([moved, rings[:, :, 1]]), rings)
    result[around] = np.inf
    return result


def geoparquet_metadata(polygons: NDArray[Any]) -> bytes:
    """Return the metadata ``geo`` of a GeoParquet file with these polygons (WKB or None)."""
    bounds = shapely.total_bounds(shapely.from_wkb(polygons)).tolist()
    column = {"encoding": "WKB", "geometry_types": ["Polygon"], "bbox": bounds}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return json.dumps(geo).encode()
