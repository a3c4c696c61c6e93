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
        row, col = columns["row"][here].astype(np.int64), columns["col"][here].astype(np.int64)
        steps = [(0, side), (side, side), (side, 0), (0, 0), (0, side)]
        # neighbors share corners, and bringing them to degrees is most of the work
        wide = scene.width + 2 * side
        keys = np.stack([(row + dy) * wide + col + dx for dx, dy in steps], axis=1)
        corners, ring = np.unique(keys, return_inverse=True)
        a, _, c, _, e, f = scene.transform
        x, y = c + a * (corners % wide), f + e * (corners // wide)
        places = np.stack(transform_points(scene.crs, LONGITUDE_LATITUDE, x, y)[:2], axis=1)
        out[here] = shapely.to_wkb(shapely.polygons(places[ring.reshape(keys.shape)]))
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
