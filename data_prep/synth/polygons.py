"""Land-cover polygons of a scene, as a GeoPackage beside its label raster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyogrio
import shapely
from pyogrio.raw import write as write_layer
from rasterio.features import shapes

from data_prep.synth.cover_classes import CLASS_NAMES, Cover

if TYPE_CHECKING:
    from pathlib import Path

    from affine import Affine
    from numpy.typing import NDArray

_LEAST_M2 = 4_000
_TOLERANCE_M = 12.0
# GeoPackages record when they were written; a fixed date keeps them equal byte for byte.
_DATE = {"OGR_CURRENT_DATE": "2024-01-01T00:00:00.000Z"}


def write_polygons(path: Path, labels: NDArray[np.uint8], transform: Affine, epsg: int) -> int:
    """Outline the classes of a label raster and write them as polygons.

    Parameters
    ----------
    path : Path
        A GeoPackage to create, with one layer named ``labels``.
    labels : uint8 array, (px, px)
        Class codes; 0 is left out.
    transform : Affine
        From pixel to map coordinates.
    epsg : int
        The map's coordinate system.

    Returns
    -------
    int
        Number of polygons; their columns are ``code`` (int32) and ``class`` (str). Outlines are
        simplified by about a pixel, patches under 40 pixels are left out.
    """
    found = list(shapes(labels, mask=labels > 0, transform=transform))
    outlines = np.array([shapely.geometry.shape(outline) for outline, _ in found], dtype=object)
    codes = np.array([int(code) for _, code in found], dtype=np.int32)
    large = shapely.area(outlines) >= _LEAST_M2
    simple = shapely.make_valid(shapely.simplify(outlines[large], _TOLERANCE_M))
    pieces, owner = shapely.get_parts(simple, return_index=True)
    polygons = shapely.get_type_id(pieces) == shapely.GeometryType.POLYGON.value
    codes = codes[large][owner][polygons]
    names = np.array([CLASS_NAMES[Cover(code)] for code in codes], dtype=object)
    previous = {name: pyogrio.get_gdal_config_option(name) for name in _DATE}
    pyogrio.set_gdal_config_options(_DATE)
    try:
        write_layer(
            path,
            geometry=shapely.to_wkb(pieces[polygons]),
            field_data=[codes, names],
            fields=np.array(["code", "class"]),
            crs=f"EPSG:{epsg}",
            geometry_type="Polygon",
            layer="labels",
            driver="GPKG",
        )
    finally:
        pyogrio.set_gdal_config_options(previous)
    return len(codes)
