"""Writing of GeoTIFFs: the synthetic archive and Indian Pines; ``rasters`` reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rasterio
from numpy.typing import NDArray


def write_geotiff(
    path: Path,
    bands: NDArray[Any],
    band_names: tuple[str, ...] = (),
    colors: Mapping[int, tuple[int, int, int, int]] | None = None,
    *,
    tags: Mapping[str, str],
    block_px: int,
    **profile: Any,
) -> None:
    """Write bands (C, H, W) as a tiled, deflated GeoTIFF.

    ``colors`` (RGBA by value) are the color table of the first band; ``profile`` has what else
    rasterio takes: CRS, transform, nodata, creation options.
    """
    count, height, width = bands.shape
    profile |= {"count": count, "height": height, "width": width, "dtype": bands.dtype.name}
    profile |= {"tiled": True, "blockxsize": block_px, "blockysize": block_px}
    # differences of neighbors deflate better; floating point has a predictor of its own
    predictor = 3 if bands.dtype.kind == "f" else 2 if bands.dtype.itemsize > 1 else 1
    profile |= {"compress": "deflate", "predictor": predictor}
    with rasterio.open(path, "w", driver="GTiff", **profile) as target:
        target.write(bands)
        target.update_tags(**tags)
        for number, name in enumerate(band_names, start=1):
            target.set_band_description(number, name)
        if colors:
            target.write_colormap(1, colors)
