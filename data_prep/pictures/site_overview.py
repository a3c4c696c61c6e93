"""All sites of a data set on one map, in longitude and latitude."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray
from rasterio.crs import CRS

from data_prep.crs import DEGREE_M, LONGITUDE_LATITUDE, transform_positions
from data_prep.dataset import Dataset
from data_prep.manifest import column
from data_prep.pictures.csv_table import CsvTable
from data_prep.pictures.map_colors import hex_color, site_colors
from data_prep.pictures.plot import GRID, INK, MUTED, Plot, draw, tidy

#: Sites that are named beside their ground; of more, the legend alone names them.
MAX_LABELS = 12
#: Share of the map below which ground is drawn as a point.
_POINT = 0.012
_WIDTH_IN = 6.4


@dataclass(frozen=True)
class _Ground:
    """What a site has of one scene: its bounds in degrees."""

    site: int
    scene: str
    samples: int
    west: float
    south: float
    east: float
    north: float


def overview(data: Dataset) -> Plot | None:
    """Draw the ground of every site; None where no sample has a place on the globe."""
    grounds = _grounds(data)
    if not grounds:
        return None
    colors = [hex_color(color) for color in site_colors(len(data.sites), data.store.classes)]
    west, south = min(g.west for g in grounds), min(g.south for g in grounds)
    east, north = max(g.east for g in grounds), max(g.north for g in grounds)
    # degrees of longitude are shorter than those of latitude
    squeeze = max(0.05, math.cos(math.radians((south + north) / 2)))
    span = max((east - west) * squeeze, north - south, 1e-4)
    pad = 0.08 * span
    ratio = ((north - south) + 2 * pad) / ((east - west) * squeeze + 2 * pad)
    height = min(max(_WIDTH_IN * ratio, 2.0), 5.2)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        named: set[int] = set()
        for ground in grounds:
            color = colors[ground.site]
            wide, tall = ground.east - ground.west, ground.north - ground.south
            if max(wide * squeeze, tall) < _POINT * span:
                axes.plot(ground.west + wide / 2, ground.south + tall / 2, "o", color=color, ms=6)
            else:
                box = Rectangle((ground.west, ground.south), wide, tall, facecolor=color)
                box.set(edgecolor=INK, linewidth=0.6, alpha=0.85)
                axes.add_patch(box)
            if len(data.sites) <= MAX_LABELS and ground.site not in named:
                named.add(ground.site)
                axes.annotate(
                    data.sites[ground.site],
                    (ground.west + wide / 2, ground.north),
                    xytext=(0, 4),
                    textcoords="offset points",
                    ha="center",
                    va="bottom",
                    color=INK,
                    fontsize=8,
                )
        axes.set_xlim(west - pad / squeeze, east + pad / squeeze)
        axes.set_ylim(south - pad, north + 1.6 * pad)
        axes.set_aspect(1 / squeeze)
        _degree_axes(axes)
        _scale_bar(axes, span / squeeze * 0.25, squeeze)

    names = ", ".join(data.sites[:MAX_LABELS])
    label = f"Overview map of {len(data.sites)} sites: {names}"
    rows = [
        [data.sites[g.site], g.scene, g.samples, g.west, g.south, g.east, g.north] for g in grounds
    ]
    columns = ["site", "scene", "samples", "west", "south", "east", "north"]
    return draw("overview", label, (_WIDTH_IN, height), paint, CsvTable(columns, rows))


def _grounds(data: Dataset) -> list[_Ground]:
    manifest = data.store.manifest
    x, y = (column(manifest, axis).astype(np.float64) for axis in ("x", "y"))
    scene_of = column(manifest, "scene").astype(str)
    crs_of = column(manifest, "crs").astype(str)
    grounds = []
    for number, name in enumerate(data.sites):
        chips = column(data.site(name).manifest, "chip").astype(np.int64)
        chips = chips[np.isfinite(x[chips]) & (crs_of[chips] != "")]
        for scene in np.unique(scene_of[chips]).tolist():
            own = chips[scene_of[chips] == scene]
            bounds = _bounds(str(crs_of[own[0]]), x[own], y[own])
            if bounds is not None:
                grounds.append(_Ground(number, scene, len(own), *bounds))
    return grounds


def _bounds(
    crs: str, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[float, float, float, float] | None:
    """Return west, south, east, north of the centers of samples; None off the globe."""
    corners = np.array([[x.min(), x.max(), x.min(), x.max()], [y.min(), y.min(), y.max(), y.max()]])
    places = transform_positions(CRS.from_user_input(crs), LONGITUDE_LATITUDE, corners)
    if not np.isfinite(places).all():
        return None
    (west, south), (east, north) = places.min(axis=1), places.max(axis=1)
    return float(west), float(south), float(east), float(north)


def _degree_axes(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _degrees(value, "E", "W")))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _degrees(value, "N", "S")))
    tidy(axes)
    axes.grid(axis="x")
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color(GRID)


def _degrees(value: float, positive: str, negative: str) -> str:
    text = f"{abs(value):.4f}".rstrip("0").rstrip(".")
    return f"{text}° {positive if value >= 0 else negative}"


def _scale_bar(axes: Axes, most_degrees: float, squeeze: float) -> None:
    """Draw a bar of a round length at the lower left: true at the middle latitude."""
    most_m = most_degrees * DEGREE_M * squeeze
    power = 10 ** math.floor(math.log10(most_m))
    length = max(digit * power for digit in (1, 2, 5) if digit * power <= most_m)
    left, right = axes.get_xlim()
    low, high = axes.get_ylim()
    x, y = left + 0.03 * (right - left), low + 0.05 * (high - low)
    axes.plot([x, x + length / (DEGREE_M * squeeze)], [y, y], color=INK, linewidth=2.4)
    text = f"{length / 1000:g} km" if length >= 1000 else f"{length:g} m"
    axes.annotate(text, (x, y), xytext=(0, 4), textcoords="offset points", fontsize=8, color=MUTED)
