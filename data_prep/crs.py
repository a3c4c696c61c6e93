"""Coordinate reference systems: reading them, relating them, and transforming positions.

A CRS can be local to a site, or of another planet, and a position can lie off the globe. Where PROJ
has no answer there is none, and no error: a place on the globe is not what an ingestion needs.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.warp import transform as transform_points

from data_prep.foreign_errors import is_foreign
from rsdgc.errors import SettingError

LONGITUDE_LATITUDE = CRS.from_user_input("OGC:CRS84")
#: Meters in a degree of the equator.
DEGREE_M = 111_320.0


def parse_crs(text: str | None) -> CRS | None:
    """Read a CRS of the options: an EPSG code, WKT, PROJ's form, or the path of a ``.prj`` file."""
    if text is None:
        return None
    try:
        if text.lower().endswith((".prj", ".wkt")):
            text = Path(text).read_text(encoding="utf-8")
        with rasterio.Env():  # PROJ's own messages would go to the terminal
            return CRS.from_user_input(int(text) if text.isdigit() else text)
    except (OSError, ValueError) as error:
        raise SettingError(
            f"{text!r} is not a CRS: write --crs or --label-crs as EPSG:32633, as WKT, or as the "
            "path of a .prj file"
        ) from error


def crs_text(crs: CRS | None) -> str:
    """``EPSG:n`` where the CRS has a number, else WKT; empty without a CRS."""
    if crs is None:
        return ""
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.to_wkt())


def crs_name(crs: CRS | None) -> str:
    """Name of a CRS for a line of text: ``EPSG:n``, else the name that its WKT begins with."""
    text = crs_text(crs)
    if text.startswith("EPSG:") or not text:
        return text or "no CRS"
    return text.partition('"')[2].partition('"')[0] or "unnamed"


@lru_cache(maxsize=256)
def horizontal_crs(crs: CRS | None) -> CRS | None:
    """Return a CRS without its vertical part, which places no pixel."""
    if crs is None:
        return None
    try:
        parts: dict[str, Any] = crs.to_dict(projjson=True)
    except CRSError:
        return crs
    if parts.get("type") == "BoundCRS":  # with parameters of a shift to WGS 84
        parts = parts["source_crs"]
    if parts.get("type") != "CompoundCRS":
        return crs
    return CRS.from_dict(parts["components"][0])


@lru_cache(maxsize=256)
def meters_per_unit(crs: CRS | None) -> float:
    """Return the meters in a unit of a CRS, in degrees those of the equator; 1 without a CRS."""
    if crs is None:
        return 1.0
    if crs.is_geographic:
        return DEGREE_M
    try:
        return float(crs.linear_units_factor[1]) or 1.0
    except CRSError:
        return 1.0


def pixel_sides(
    crs: CRS | None,
    transform: Affine | NDArray[np.float64],
    cols: NDArray[np.float64],
    rows: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Return the lengths on the ground, in meters, of a pixel's sides at some places of an image.

    They are right to about 1 %, whatever the unit and the scale of the CRS are there: a pixel of
    degrees is narrower the farther it is from the equator, and so is one of Web Mercator.

    Parameters
    ----------
    crs : CRS, optional
        Without one, and where it cannot be related to longitude and latitude, its units count
        (:func:`meters_per_unit`).
    transform : Affine or float64 [6, n]
        From columns and rows to positions; of several images, the terms a to f at each place.
    cols, rows : float64 [n]
        The places.

    Returns
    -------
    float64 [2, n]
        Along the columns' axis, and along the rows'.
    """
    a, b, c, d, e, f = transform[:6]
    sides = np.empty((2, len(cols)))
    for axis, (col_step, row_step) in enumerate(((0.5, 0.0), (0.0, 0.5))):
        ends = []
        for sign in (-1, 1):
            x, y = cols + sign * col_step, rows + sign * row_step
            places = np.stack([c + a * x + b * y, f + d * x + e * y])
            ends.append(transform_positions(crs, LONGITUDE_LATITUDE, places))
        nominal = np.hypot(*((a, d) if axis == 0 else (b, e))) * meters_per_unit(crs)
        with np.errstate(invalid="ignore"):  # of places that are not on the globe
            # across the antimeridian, too
            east = (ends[1][0] - ends[0][0] + 180.0) % 360.0 - 180.0
            east = east * np.cos(np.radians((ends[0][1] + ends[1][1]) / 2))
            length = DEGREE_M * np.hypot(east, ends[1][1] - ends[0][1])
        usable = crs is not None and are_related(crs, LONGITUDE_LATITUDE)
        sides[axis] = np.where(usable & np.isfinite(length) & (length > 0), length, nominal)
    return sides


@lru_cache(maxsize=4096)
def pixel_on_ground(crs: CRS | None, transform: Affine, height: int, width: int) -> float:
    """Return the side, in meters, of a square with the area of an image's pixel at its center."""
    return float(pixels_on_ground(crs, transform, np.array([height]), np.array([width]))[0])


def pixels_on_ground(
    crs: CRS | None,
    transforms: Affine | NDArray[np.float64],
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return :func:`pixel_on_ground` of several images of one CRS, float64 [n].

    ``transforms`` are as for :func:`pixel_sides`; ``heights`` and ``widths`` are int64 [n].
    """
    across, along = pixel_sides(crs, transforms, widths / 2, heights / 2)
    sides: NDArray[np.float64] = np.sqrt(across * along)
    return sides


def are_related(first: CRS | None, second: CRS | None) -> bool:
    """Tell whether positions in one CRS can be transformed to the other.

    They cannot where one of them is local to a site, or of another planet. A missing CRS is taken
    for the other one.
    """
    return first is None or second is None or first == second or _transforms(first, second)


@lru_cache(maxsize=256)
def _transforms(first: CRS, second: CRS) -> bool:
    # the origin may lie off the globe, for which PROJ raises errors of another kind
    try:
        transform_points(first, second, [0.0], [0.0])
    except Exception as error:
        if not is_foreign(error):
            raise
        return type(error).__name__ != "CPLE_NotSupportedError"
    return True


def transform_positions(
    source: CRS | None, target: CRS | None, places: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Transform x and y [2, n] to another CRS; infinite where a place does not exist there.

    Where either CRS is missing, the numbers stay as they are.
    """
    if source is None or target is None or source == target or not places.shape[1]:
        return places
    if not are_related(source, target):
        return np.full_like(places, np.inf)
    return _transformed(source, target, places)


def _transformed(source: CRS, target: CRS, places: NDArray[np.float64]) -> NDArray[np.float64]:
    try:
        moved = np.array(transform_points(source, target, *places)[:2])
    except Exception as error:
        if not is_foreign(error):
            raise
        count = places.shape[1]
        if count == 1:
            return np.full_like(places, np.inf)
        # rasterio gives no position where a single one is off the globe
        halves = (places[:, : count // 2], places[:, count // 2 :])
        return np.concatenate([_transformed(source, target, half) for half in halves], axis=1)
    moved[:, ~np.isfinite(moved).all(axis=0)] = np.inf
    return moved
