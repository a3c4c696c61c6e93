"""The ground that samples cover: boxes for splits, polygons for the manifest.

Splits measure distances, so :class:`Footprints` are boxes in the plane of each scene's own CRS.
A column of GeoParquet has one CRS for all scenes, so :func:`footprint_polygons` are in longitude
and latitude (OGC:CRS84, the default of GeoParquet); samples of scenes without a CRS have none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.warp import transform as transform_points

from data_prep.manifest import Columns
from data_prep.schema import SceneMeta

LONGITUDE_LATITUDE = "OGC:CRS84"
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
) -> NDArray[Any] | None:
    """Return the footprints of samples as WKB, objects [n]; None where no scene has a CRS."""
    located = [scene for scene in scenes if scene.crs]
    if not located:
        return None
    polygons = np.full(len(columns["row"]), None, dtype=object)
    for scene in located:
        members = np.flatnonzero(columns["scene"] == scene.name)
        row, col = (columns[name][members].astype(np.int64) for name in ("row", "col"))
        ring = [(0, side_px), (side_px, side_px), (side_px, 0), (0, 0), (0, side_px)]
        # Neighbors share corners, and the transform to degrees is most of the work: each corner
        # gets one number on a grid that is wide enough for samples over the scene's edge.
        grid_width = scene.width + 2 * side_px
        keys = np.stack([(row + dy) * grid_width + col + dx for dx, dy in ring], axis=1)
        corners, corner_of = np.unique(keys, return_inverse=True)
        a, _, c, _, e, f = scene.transform
        x, y = c + a * (corners % grid_width), f + e * (corners // grid_width)
        degrees = np.stack(transform_points(scene.crs, LONGITUDE_LATITUDE, x, y)[:2], axis=1)
        rings = degrees[corner_of.reshape(keys.shape)]
        polygons[members] = shapely.to_wkb(shapely.polygons(rings))
    return polygons


def geoparquet_metadata(polygons: NDArray[Any]) -> bytes:
    """Return the metadata ``geo`` of a GeoParquet file with these polygons (WKB or None)."""
    bounds = shapely.total_bounds(shapely.from_wkb(polygons)).tolist()
    column = {"encoding": "WKB", "geometry_types": ["Polygon"], "bbox": bounds}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return json.dumps(geo).encode()
