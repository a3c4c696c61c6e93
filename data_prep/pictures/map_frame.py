"""What makes a picture of a scene a map: coordinates at its edges, a scale bar, its CRS."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError

from data_prep.crs import LONGITUDE_LATITUDE, crs_text, meters_per_unit, transform_positions
from data_prep.manifest import column
from data_prep.pictures.scene_grid import SceneGrid
from data_prep.store import Store

#: Ticks of an axis, at most: more would run into each other at the size of a panel.
MAX_TICKS = 3
#: Share of a map's width that the scale bar takes at most.
SCALE_SHARE = 0.3


@dataclass(frozen=True)
class Tick:
    """A coordinate at the edge of a map."""

    at: float  #: percent of the width from the left, or of the height from the top
    text: str


@dataclass(frozen=True)
class MapFrame:
    """Where on the ground the cells of a map lie."""

    crs: str  #: code and name; empty without a CRS
    unit: str  #: of the coordinates
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    #: scale_share, scale_text: width of the scale bar in percent of the map's, and its length; 0
    #: and empty without a CRS
    scale_share: float
    scale_text: str
    center: str  #: latitude and longitude of the map's center; empty where there are none
    cell: str  #: size of a cell on the ground


def frame(store: Store, grid: SceneGrid) -> MapFrame:
    """Return the frame of a scene's map. Rows run south and columns east, as everywhere in stores.

    Without a CRS the coordinates are pixels from the scene's first one.
    """
    rows, cols = grid.shape
    scene = next((scene for scene in store.meta.scenes if scene.name == grid.name), None)
    width, height = cols * grid.cell_px, rows * grid.cell_px
    if scene is None or not scene.crs:
        first = [int(column(store.manifest, axis)[grid.samples].min()) for axis in ("col", "row")]
        x = _ticks(first[0], first[0] + width, "{:,.0f}")
        y = _ticks(first[1], first[1] + height, "{:,.0f}")
        return MapFrame("", "pixels", x, y, 0.0, "", "", f"{grid.cell_px} px")
    a, e = scene.transform[0], scene.transform[4]
    half = grid.sample_px / 2
    x_centers, y_centers = (column(store.manifest, axis)[grid.samples] for axis in ("x", "y"))
    # the corner of the first column and of the first row, which may be of different samples
    left = float(x_centers[grid.left.argmin()]) - half * a
    top = float(y_centers[grid.top.argmin()]) - half * e
    right, bottom = left + width * a, top + height * e
    crs = CRS.from_user_input(scene.crs)
    middle = ((left + right) / 2, (top + bottom) / 2)
    along = meters_per_unit(crs)
    if crs.is_geographic:
        along *= math.cos(math.radians(middle[1]))
    style = "{:,.0f}"
    if crs.is_geographic:
        style = f"{{:.{_degree_digits(right - left)}f}}°"
    share, text = _scale_bar((right - left) * along)
    return MapFrame(
        crs=" · ".join(filter(None, [_code(crs), _name(crs)])),
        unit=_unit(crs),
        x_ticks=_ticks(left, right, style),
        y_ticks=_ticks(top, bottom, style),
        scale_share=share,
        scale_text=text,
        center=_place(crs, *middle),
        cell=_length(grid.cell_px * abs(a) * along),
    )


def _ticks(start: float, stop: float, style: str) -> list[Tick]:
    """Return round coordinates between two edges, in percent of the way."""
    span = abs(stop - start)
    if not span or not math.isfinite(span):
        return []
    step = next(s for s in _round_lengths(span) if span / s <= MAX_TICKS)
    low, high = sorted((start, stop))
    values = np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step
    # at the very corners the texts of both axes would collide
    return [
        Tick(round(at, 2), style.format(value))
        for value in values.tolist()
        if 6 <= (at := 100 * (value - start) / (stop - start)) <= 94
    ]


def _round_lengths(span: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten, ascending from a hundredth of a span."""
    first = math.floor(math.log10(span)) - 2
    return [digit * 10.0**power for power in range(first, first + 4) for digit in (1, 2, 5)]


def _scale_bar(width_m: float) -> tuple[float, str]:
    if not width_m > 0 or not math.isfinite(width_m):
        return 0.0, ""
    length = max(s for s in _round_lengths(width_m) if s <= SCALE_SHARE * width_m)
    return round(100 * length / width_m, 2), _length(length)


def _length(meters: float) -> str:
    return f"{meters / 1000:,.4g}\u00a0km" if meters >= 1000 else f"{meters:.4g}\u00a0m"


def _degree_digits(span: float) -> int:
    return max(0, 1 - math.floor(math.log10(max(abs(span), 1e-6))))


def _code(crs: CRS) -> str:
    text = crs_text(crs)
    return text if text.startswith("EPSG:") else ""


def _name(crs: CRS) -> str:
    """Return the name of a CRS: the first text in its WKT."""
    try:
        return str(crs.to_wkt()).partition('"')[2].partition('"')[0]
    except CRSError:
        return ""


def _unit(crs: CRS) -> str:
    if crs.is_geographic:
        return "degrees"
    try:
        name = str(crs.linear_units)
    except CRSError:
        return "CRS units"
    return {"metre": "m", "meter": "m"}.get(name, name)


def _place(crs: CRS, x: float, y: float) -> str:
    """Write a position as latitude and longitude; empty where it has none."""
    longitude, latitude = transform_positions(crs, LONGITUDE_LATITUDE, np.array([[x], [y]]))[:, 0]
    if not (math.isfinite(longitude) and math.isfinite(latitude)):
        return ""
    north, east = "N" if latitude >= 0 else "S", "E" if longitude >= 0 else "W"
    return f"{abs(latitude):.4f}°\u00a0{north}, {abs(longitude):.4f}°\u00a0{east}"
