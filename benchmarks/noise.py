"""Small images of noise in class folders: data that takes no time to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from rasterio.transform import from_origin


def write_images(
    folder: Path, count: int, side_px: int, brightest: int, rng: np.random.Generator
) -> None:
    """Write the images of a class.

    Parameters
    ----------
    folder : Path
        Is made.
    count, side_px : int
        How many, and how large.
    brightest : int
        Values are from 1 to below this, at most 256; it tells the classes apart.
    rng : numpy.random.Generator
        Of the noise.
    """
    folder.mkdir(parents=True)
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    place = from_origin(500_000, 5_000_000, 10, 10)
    size = {"width": side_px, "height": side_px, "transform": place}
    for number in range(count):
        image = rng.integers(1, brightest, (3, side_px, side_px), dtype=np.uint8)
        with rasterio.open(folder / f"{number:02}.tif", "w", **profile, **size) as file:
            file.write(image)
