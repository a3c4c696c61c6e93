"""Every figure of a report as files for a paper: SVG, PNG and CSV."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from data_prep.pictures.map_frame import MapFrame
from data_prep.pictures.plot import INK, MUTED, Plot, draw
from fl_app.report.land_cover_map import LandCoverMap, Panel

_PANEL_IN = 3.6


def write_figures(folder: Path, plots: Sequence[Plot], maps: Sequence[LandCoverMap]) -> None:
    """Write figures and maps into a folder, which is made if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = [map_figure(each, f"map-{number}") for number, each in enumerate(maps, start=1)]
    for plot in (*plots, *drawn):
        plot.write(folder)


def map_figure(drawn: LandCoverMap, key: str) -> Plot:
    """Put the panels of a map into one figure, with its frame and legend."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots(2, 2).ravel()
        for each, panel in zip(axes, drawn.panels, strict=False):
            _paint_panel(each, panel, drawn)
        handles = [Patch(color=entry.color, label=entry.name) for entry in drawn.legend]
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7.5)
        figure.suptitle(_title(drawn), fontsize=8.5, color=MUTED)

    ratio = min(2.0, max(0.4, drawn.height / drawn.width))
    size = (2 * _PANEL_IN, 2 * _PANEL_IN * ratio + 0.9 + 0.2 * (len(drawn.legend) // 4))
    return draw(key, f"Map of scene {drawn.scene}", size, paint, drawn.table)


def _paint_panel(axes: Axes, panel: Panel, drawn: LandCoverMap) -> None:
    content = base64.b64decode(panel.uri.partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))
    interpolation = "none" if panel.cells else "auto"
    # the y axis runs down, as rows do
    axes.imshow(pixels, extent=(0, 100, 100, 0), interpolation=interpolation, aspect="auto")
    axes.set_box_aspect(drawn.height / drawn.width)
    axes.set_title(panel.title, fontsize=8, loc="left", color=INK)
    frame: MapFrame = drawn.frame
    axes.set_xticks([tick.at for tick in frame.x_ticks], [tick.text for tick in frame.x_ticks])
    axes.set_yticks([tick.at for tick in frame.y_ticks], [tick.text for tick in frame.y_ticks])
    axes.tick_params(labelsize=6.5, length=2)
    axes.spines[:].set_visible(True)
    if not panel.cells and frame.scale_share:
        halo = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5}
        axes.plot([4, 4 + frame.scale_share], [95, 95], color="white", linewidth=4)
        axes.plot([4, 4 + frame.scale_share], [95, 95], color="black", linewidth=1.8)
        axes.text(4, 92, frame.scale_text, fontsize=6.5, color="black", va="bottom", bbox=halo)
        axes.text(96, 4, "N ↑", fontsize=7, color="black", ha="right", va="top", bbox=halo)


def _title(drawn: LandCoverMap) -> str:
    place = ", ".join(filter(None, [drawn.frame.crs, drawn.frame.center]))
    return f"{drawn.scene}: {place}" if place else drawn.scene
