"""Archives for the benchmarks: scenes with labels, and class folders of noise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.windows import Window

BLOCK_ROWS = 512
FORMS: dict[str, dict[str, Any]] = {
    "tiles, deflate": {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"},
    "strips, deflate": {"blockysize": 8, "compress": "deflate"},
    "tiles, bare": {"tiled": True, "blockxsize": 512, "blockysize": 512},
}
"""Ways to store a GeoTIFF, as options of rasterio."""
_GRID = {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 10, 10)}


def write_scene(
    folder: Path,
    size: int,
    rows: Iterable[NDArray[np.uint16]],
    form: dict[str, Any],
    *,
    bands: int,
    label_px: int,
    **options: Any,
) -> Path:
    """Write a square scene and its labels, unless the folder holds a whole one; return the folder.

    Parameters
    ----------
    size : int
        Pixels per side.
    rows : iterable of uint16 [bands, BLOCK_ROWS or fewer, size]
        The pixels, from the top, of ``optical.tif``.
    form : dict
        How both files are stored, see :data:`FORMS`.
    label_px : int
        The labels, ``labels.tif``, are squares of this side, of five classes.
    **options
        Further options of rasterio for the pixels.
    """
    if (folder / "done").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "height": size, "width": size, **_GRID, **form}
    starts = range(0, size, BLOCK_ROWS)
    pixels = {**profile, **options, "dtype": "uint16", "count": bands}
    with rasterio.open(folder / "optical.tif", "w", **pixels) as file:
        for start, values in zip(starts, rows, strict=True):
            file.write(values, window=Window(0, start, size, values.shape[1]))
    with rasterio.open(folder / "labels.tif", "w", dtype="uint8", count=1, **profile) as file:
        for start in starts:
            stop = min(start + BLOCK_ROWS, size)
            row, column = np.mgrid[start:stop, :size] // label_px
            labels = (1 + (row * 3 + column) % 5).astype("uint8")
            file.write(labels, 1, window=((start, stop), (0, size)))
    (folder / "done").write_text("")
    return folder


def smooth_rows(size: int, bands: int, seed: int) -> Iterator[NDArray[np.uint16]]:
    """Yield rows of pixels that compress as reflectances do.

    Counts of about 1,500, smooth over 40 pixels, with noise of 20 counts.
    """
    rng = np.random.default_rng(seed)
    cells = size // 40 + 2
    coarse = rng.normal(1500, 400, (bands, cells, cells)).astype(np.float32)
    x = np.arange(size) / 40
    cell, weight = x.astype(int), (x % 1).astype(np.float32)
    for start in range(0, size, BLOCK_ROWS):
        block = slice(start, min(start + BLOCK_ROWS, size))
        down = weight[block][:, None]
        rows = coarse[:, cell[block]] * (1 - down) + coarse[:, cell[block] + 1] * down
        rows = rows[:, :, cell] * (1 - weight) + rows[:, :, cell + 1] * weight
        rows += rng.normal(0, 20, rows.shape).astype(np.float32)
        yield rows.clip(1, 65_534).astype(np.uint16)


def noise_rows(size: int, bands: int, seed: int) -> Iterator[NDArray[np.uint16]]:
    """Yield rows of uniform noise of 8 bits, from 1,000."""
    rng = np.random.default_rng(seed)
    for start in range(0, size, BLOCK_ROWS):
        shape = (bands, min(BLOCK_ROWS, size - start), size)
        yield rng.integers(1000, 1256, shape, dtype=np.uint16)


def write_images(
    folder: Path, count: int, side_px: int, brightest: int, rng: np.random.Generator
) -> None:
    """Write images of a class: small ones of noise, which take no time to train on.

    Values are from 1 to below ``brightest``, at most 256, which distinguishes the classes.
    """
    folder.mkdir(parents=True)
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "width": side_px, "height": side_px}
    for number in range(count):
        image = rng.integers(1, brightest, (3, side_px, side_px), dtype=np.uint8)
        with rasterio.open(folder / f"{number:02}.tif", "w", **profile, **_GRID) as file:
            file.write(image)
