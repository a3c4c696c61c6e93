"""Footprints of samples as GeoParquet: polygons in longitude and latitude.

One column can have one CRS, and the scenes of a store may have several: footprints are in WGS 84
(OGC:CRS84), the default of GeoParquet. Scenes without a CRS have none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from rasterio.warp import transform as transform_points

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_prep.manifest import Columns
    from data_prep.schema import SceneMeta

LONGITUDE_LATITUDE = "OGC:CRS84"


def chip_geometries(
    columns: Columns, scenes: Sequence[SceneMeta], side: int
) -> NDArray[Any] | None:
    """Footprints of samples as WKB, objects [n]; None where no scene has a CRS.

    Parameters
    ----------
    columns
        With ``scene``, ``row`` and ``col``: the first pixel of each sample.
    scenes
        Grids of the scenes.
    side
        Side of a sample, in pixels.
    """
    if not any(scene.crs for scene in scenes):
        return None
    out = np.full(len(columns["row"]), None, dtype=object)
    for scene in scenes:
        if not scene.crs:
            continue
        here = np.flatnonzero(columns["scene"] == scene.name)
        row, col = columns["row"][here], columns["col"][here]
        a, _, c, _, e, f = scene.transform
        corners = [(0, side), (side, side), (side, 0), (0, 0), (0, side)]
        x = np.stack([c + a * (col + dx) for dx, _ in corners], axis=1)
        y = np.stack([f + e * (row + dy) for _, dy in corners], axis=1)
        lon, lat = transform_points(scene.crs, LONGITUDE_LATITUDE, x.ravel(), y.ravel())[:2]
        rings = np.stack([np.asarray(lon), np.asarray(lat)], axis=1).reshape(*x.shape, 2)
        out[here] = shapely.to_wkb(shapely.polygons(rings))
    return out


def geo_metadata(geometries: NDArray[Any]) -> bytes:
    """Value of the key ``geo`` in the metadata of a GeoParquet file."""
    known = geometries[np.array([value is not None for value in geometries], np.bool_)]
    bounds = shapely.total_bounds(shapely.from_wkb(known))
    column = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "bbox": [float(bound) for bound in bounds],
    }
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return json.dumps(geo).encode()
