"""Tiny archives of real GeoTIFFs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.warp import transform

UTM = "EPSG:32633"
LEFT, TOP = 500_000.0, 5_000_000.0
#: A surveyor's grid of a site, which has no place on the globe, and a map of the Moon.
SITE_GRID = (
    'ENGCRS["site grid",EDATUM["benchmark"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],'
    'LENGTHUNIT["metre",1]]'
)
MOON = "+proj=eqc +R=1737400 +units=m +no_defs"


def write_tif(
    path: Path,
    values: NDArray[Any],
    *,
    crs: str | None = UTM,
    pixel: float = 10.0,
    left: float = LEFT,
    top: float = TOP,
    transform: Any = None,
    **profile: Any,
) -> Path:
    """Write (H, W) or (C, H, W) as a GeoTIFF."""
    values = values[None] if values.ndim == 2 else values
    for stale in (path, path.with_name(path.name + ".aux.xml"), path.with_name(path.name + ".msk")):
        stale.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    place = (
        {} if crs is None else {"transform": transform or Affine(pixel, 0, left, 0, -pixel, top)}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path,
            "w",
            driver=profile.pop("driver", "GTiff"),
            count=values.shape[0],
            height=values.shape[1],
            width=values.shape[2],
            dtype=values.dtype,
            crs=crs,
            **place,
            **profile,
        ) as target:
            target.write(values)
    return path


def noise(
    shape: tuple[int, ...], seed: int = 0, low: int = 1, high: int = 1000, dtype: str = "uint16"
) -> NDArray[Any]:
    """Random values, no two chips alike."""
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def quadrants(height: int, width: int, codes: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Labels in four rectangles."""
    labels = np.zeros((height, width), np.uint8)
    h, w = height // 2, width // 2
    labels[:h, :w], labels[:h, w:], labels[h:, :w], labels[h:, w:] = codes
    return labels


def stripes(height: int, width: int, side: int, codes: tuple[int, ...]) -> NDArray[np.uint8]:
    """Labels that change from one column of ``side`` pixels to the next."""
    row = np.array(codes, np.uint8)[(np.arange(width) // side) % len(codes)]
    return np.repeat(row[None], height, axis=0)


def write_scene(
    folder: Path, *, seed: int = 0, size: int = 96, bands: int = 4, **place: Any
) -> Path:
    """A scene of 4 bands and a label raster of the classes 1, 2 and 3 in stripes of 8 px."""
    write_tif(folder / "optical.tif", noise((bands, size, size), seed), nodata=0, **place)
    labels = stripes(size, size, 8, (1, 2, 3))
    write_tif(folder / "labels.tif", labels, nodata=0, **place)
    return folder


def write_polygons(
    path: Path,
    boxes: list[tuple[tuple[float, float, float, float], Any]],
    *,
    crs: str | None = UTM,
    column: str = "name",
    pixel: float = 10.0,
) -> Path:
    """Write boxes, given as first column, first row, last column, last row in pixels, with a class.

    They lie on the grid that :func:`write_tif` writes by default, in any CRS.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    shapes = [
        shapely.box(LEFT + pixel * a, TOP - pixel * d, LEFT + pixel * c, TOP - pixel * b)
        for (a, b, c, d), _ in boxes
    ]
    if crs not in (None, UTM):
        densified = shapely.segmentize(np.array(shapes), 20.0)
        shapes = list(
            shapely.transform(
                densified, lambda p: np.stack(transform(UTM, crs, p[:, 0], p[:, 1]), axis=1)
            )
        )
    values = [value for _, value in boxes]
    data = np.array(values, dtype=object if isinstance(values[0], str) else np.int64)
    pyogrio.raw.write(
        path,
        shapely.to_wkb(np.array(shapes)),
        [data],
        [column],
        geometry_type="Polygon",
        crs=crs,
    )
    return path


def write_class_folders(
    root: Path, classes: int = 3, images: int = 10, side: int = 8, seed: int = 0
) -> Path:
    """SRC/class-0/image-00.tif …: RGB without a CRS."""
    for c in range(classes):
        for i in range(images):
            values = noise((3, side, side), seed + 100 * c + i, 0, 256, "uint8")
            write_tif(root / f"class-{c}" / f"image-{i:02d}.tif", values, crs=None)
    return root
