"""Generated scenes of several storage forms, for the benchmarks of ingestion and of batches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

BANDS = 4
LOADER_SHAPE = (13, 64, 64)
FORMS: dict[str, dict[str, Any]] = {
    "tiles, deflate": {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"},
    "strips, deflate": {"blockysize": 8, "compress": "deflate"},
    "tiles, bare": {"tiled": True, "blockxsize": 512, "blockysize": 512},
}


def write_archive(folder: Path, size: int, form: dict[str, Any], seed: int) -> Path:
    """Write one scene and its labels; a scene that is there is kept."""
    if (folder / "done").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000)}
    shape = {"height": size, "width": size}
    predictor = {"predictor": 2} if "compress" in form else {}
    with rasterio.open(
        folder / "optical.tif",
        "w",
        driver="GTiff",
        dtype="uint16",
        count=BANDS,
        interleave="pixel",
        **shape,
        **place,
        **form,
        **predictor,
    ) as target:
        for start, rows in _fields(size, seed):
            target.write(rows, window=Window(0, start, size, rows.shape[1]))
    with rasterio.open(
        folder / "labels.tif", "w", driver="GTiff", dtype="uint8", count=1, **shape, **place, **form
    ) as target:
        for start in range(0, size, 512):
            stop = min(start + 512, size)
            row, col = np.mgrid[start:stop, :size] // 200
            target.write(
                (1 + (row * 3 + col) % 5).astype("uint8"), 1, window=((start, stop), (0, size))
            )
    (folder / "done").write_text("")
    return folder


def _fields(size: int, seed: int) -> Iterator[tuple[int, NDArray[np.uint16]]]:
    """Bands of 512 rows: reflectances in counts, smooth over 40 px, with noise of 20 counts."""
    rng = np.random.default_rng(seed)
    cells = size // 40 + 2
    coarse = rng.normal(1500, 400, (BANDS, cells, cells)).astype(np.float32)
    x = np.arange(size) / 40
    low, part = x.astype(int), (x % 1).astype(np.float32)
    for start in range(0, size, 512):
        here = slice(start, min(start + 512, size))
        down = part[here][:, None]
        rows = coarse[:, low[here]] * (1 - down) + coarse[:, low[here] + 1] * down
        rows = rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part
        rows += rng.normal(0, 20, rows.shape).astype(np.float32)
        yield start, rows.clip(1, 65_534).astype(np.uint16)


def write_loader_archive(folder: Path, chips: int, seed: int) -> Path:
    """Write a scene of 13 bands, deflated tiles, and its labels."""
    if (folder / "done").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    across = int(np.ceil(np.sqrt(chips)))
    size = across * 64
    rng = np.random.default_rng(seed)
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000)}
    form = FORMS["tiles, deflate"] | {"height": size, "width": size} | place
    with rasterio.open(
        folder / "optical.tif", "w", driver="GTiff", dtype="uint16", count=13, **form
    ) as target:
        for start in range(0, size, 512):
            rows = min(512, size - start)
            values = rng.integers(1000, 1256, (13, rows, size), dtype=np.uint16)
            target.write(values, window=Window(0, start, size, rows))
    with rasterio.open(
        folder / "labels.tif", "w", driver="GTiff", dtype="uint8", count=1, **form
    ) as target:
        target.write(1 + np.add.outer(np.arange(size), np.arange(size)).astype("uint8") // 64, 1)
    (folder / "done").write_text("")
    return folder
