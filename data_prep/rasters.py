"""Opening rasters, and what can be known of one from its header."""

from __future__ import annotations

import re
import warnings
import xml.etree.ElementTree as ET
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from rsdgc.errors import DataError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator
    from pathlib import Path

#: Files that are tried as rasters; all others are passed over.
RASTER_SUFFIXES = frozenset(
    (".tif", ".tiff", ".jp2", ".img", ".vrt", ".png", ".jpg", ".jpeg", ".bil")
)


@dataclass(frozen=True)
class RasterFile:
    """Header of a raster, and which of its bands are used.

    Attributes
    ----------
    indexes, names
        1-based numbers and names of the bands; an alpha band is not among them.
    nodata
        The declared value, or None if there is none, or if the type cannot hold it.
    crs, transform
        Rasterio's; ``crs`` is None where the file has none.
    palette
        The values are indices into a color table: categories, not measurements.
    """

    path: Path
    indexes: tuple[int, ...]
    names: tuple[str, ...]
    dtype: str
    nodata: float | None
    crs: Any
    transform: Any
    height: int
    width: int
    alpha: bool
    palette: bool

    @property
    def resolution(self) -> float:
        """Pixel size in CRS units, or 1 without a CRS."""
        if self.crs is None:
            return 1.0
        return float(np.hypot(self.transform.a, self.transform.d))

    @property
    def resolution_m(self) -> float:
        """Pixel size in meters, roughly where the CRS is geographic."""
        degrees = self.crs is not None and self.crs.is_geographic
        return self.resolution * (111_320.0 if degrees else 1.0)

    def with_nodata(self, nodata: float | None) -> RasterFile:
        """Return the header with another nodata value."""
        return replace(self, nodata=usable_nodata(nodata, self.dtype))


@contextmanager
def open_raster(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open a raster with rasterio; failures to open or to read become DataError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            source = rasterio.open(path)
        with source:
            yield source
    except RasterioError as error:
        raise DataError(f"{path} cannot be read: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Return the first line of the innermost cause of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__


def read_header(path: Path) -> RasterFile:
    """Read what is known without touching pixels.

    Raises
    ------
    DataError
        Not a raster, bands of several types, or complex values.
    """
    with open_raster(path) as source:
        colors = source.colorinterp
        indexes = tuple(i for i in source.indexes if colors[i - 1] != ColorInterp.alpha)
        dtypes = {source.dtypes[i - 1] for i in indexes}
        if len(dtypes) != 1:
            raise DataError(f"{path} has bands of types {sorted(dtypes)}: one type is needed")
        dtype = dtypes.pop()
        if np.dtype(dtype).kind not in "uif":
            raise DataError(f"{path} is of type {dtype}: real numbers are needed")
        return RasterFile(
            path=path,
            indexes=indexes,
            names=tuple(_band_name(source, i) for i in indexes),
            dtype=dtype,
            nodata=usable_nodata(source.nodata, dtype),
            crs=source.crs,
            transform=source.transform,
            height=source.height,
            width=source.width,
            alpha=len(indexes) < source.count,
            palette=ColorInterp.palette in colors,
        )


def _band_name(source: Any, index: int) -> str:
    return str(source.descriptions[index - 1] or f"band{index}")


def usable_nodata(nodata: float | None, dtype: str) -> float | None:
    """Return a nodata value if a type can hold it and it is not NaN (which never counts)."""
    if nodata is None or not np.isfinite(nodata):
        return None
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return float(nodata)
    limits = np.iinfo(kind)
    fits = float(nodata).is_integer() and limits.min <= nodata <= limits.max
    return float(nodata) if fits else None


def category_names(path: Path) -> dict[int, str]:
    """Read a label raster's category names from its ``.aux.xml``, if it has one.

    Returns
    -------
    dict
        Code to name; empty where there are none.
    """
    side = path.with_name(path.name + ".aux.xml")
    if not side.is_file():
        return {}
    try:
        root = ET.parse(side).getroot()  # noqa: S314 - the site's own file; expat caps expansion
    except ET.ParseError:
        return {}
    names = [node.text or "" for node in root.iterfind(".//CategoryNames/Category")]
    return {code: name.strip() for code, name in enumerate(names) if name.strip()}


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """Return a sort key that puts ``b2`` before ``b10``."""
    parts = re.split(r"(\d+)", text.lower())
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts if part]
