"""Figures as inline SVG that follows the page, and as files to keep: SVG, PNG and CSV.

matplotlib draws with stand-in colors; in the finished SVG they are replaced by the page's CSS
variables, so one figure is legible in both themes and in print. In files they become the light
page's colors. Text stays text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import get_named_colors_mapping
from matplotlib.figure import Figure

from data_prep.pictures.csv_table import CsvTable
from data_prep.pictures.images import data_uri
from data_prep.pictures.page_style import LIGHT_COLORS
from rsdgc.durable import replace_bytes, replace_text

# Colors of a theme, by the names of the page's CSS variables. Figures name them; what a name stands
# for is set for each drawing: in SVG, stand-ins that no real color of a figure equals.
_VARIABLES = ("ink", "muted", "grid", "card", "up", "down", "bad", "quiet")
_NAMES = tuple(f"page:{variable}" for variable in _VARIABLES)
INK, MUTED, GRID, SURFACE, UP, DOWN, BAD, QUIET = _NAMES
_STAND_INS = tuple(f"#01010{number}" for number, _ in enumerate(_VARIABLES, start=1))
_LIGHT = tuple(LIGHT_COLORS[variable] for variable in _VARIABLES)


def _name_colors(colors: Sequence[str]) -> None:
    named = get_named_colors_mapping()
    for name, color in zip(_NAMES, colors, strict=True):
        named[name] = color  # which, unlike update(), clears matplotlib's cache of names


_name_colors(_STAND_INS)

#: Of PNG files: three pixels for each of the page's.
PNG_DPI = 300

_THEME: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.use_mathtext": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True, eq=False)
class Plot:
    """A finished figure: an element of the page, and the files that a reader may keep of it."""

    key: str  #: unique in the page; names the files
    svg: Markup  #: the ``<svg>`` element
    table: CsvTable  #: the numbers that the figure shows
    _standalone: str = field(repr=False)
    _paint: Callable[[Figure], None] = field(repr=False)
    _size_in: tuple[float, float] = field(repr=False)

    def __html__(self) -> str:
        """Return the element: what a template makes of the figure."""
        return self.svg

    @property
    def svg_uri(self) -> str:
        """The figure as an SVG file in the light page's colors, as a data URI."""
        return data_uri("image/svg+xml", self._standalone.encode())

    def write(self, folder: Path) -> list[Path]:
        """Write the figure as ``KEY.svg``, ``KEY.png`` and ``KEY.csv``; return the paths."""
        paths = [folder / f"{self.key}.{suffix}" for suffix in ("svg", "png", "csv")]
        replace_text(paths[0], self._standalone)
        picture = io.BytesIO()
        with _theme(self.key, _LIGHT):
            figure = Figure(figsize=self._size_in, layout="constrained")
            self._paint(figure)
            figure.savefig(picture, format="png", dpi=PNG_DPI, facecolor="white")
        replace_bytes(paths[1], picture.getvalue())
        replace_text(paths[2], self.table.text)
        return paths


def draw(
    key: str,
    label: str,
    size_in: tuple[float, float],
    paint: Callable[[Figure], None],
    table: CsvTable | None = None,
) -> Plot:
    """Draw a figure, with the same bytes for the same input.

    Parameters
    ----------
    key : str
        Unique in the page; prefixes every id, so that figures do not share clip paths.
    label : str
        Text for readers who cannot see the figure.
    size_in : (float, float)
        Width and height; an inch is about 90 CSS pixels at full size.
    paint : callable
        Draws into the empty figure.
    table : CsvTable, optional
        The numbers that the figure shows.
    """
    buffer = io.StringIO()
    with _theme(key, _STAND_INS):
        figure = Figure(figsize=size_in, layout="constrained")
        paint(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    document = buffer.getvalue()
    svg = Markup(_inline(document, key, label))  # noqa: S704  matplotlib escapes text
    standalone = _with_colors(document, _LIGHT).replace("<svg ", '<svg style="background:#fff" ', 1)
    return Plot(key, svg, table or CsvTable(), standalone, paint, size_in)


@contextmanager
def _theme(key: str, colors: Sequence[str]) -> Iterator[None]:
    """Let the names of colors stand for these while a figure is drawn."""
    theme: dict[Any, Any] = {**_THEME, "svg.hashsalt": key}
    _name_colors(colors)
    try:
        with rc_context(theme), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            yield
    finally:
        _name_colors(_STAND_INS)


def _with_colors(svg: str, colors: Sequence[str]) -> str:
    for stand_in, color in zip(_STAND_INS, colors, strict=True):
        svg = svg.replace(stand_in, color)
    return svg


def tidy(axes: Axes, grid: Literal["x", "y"] | None = "y") -> None:
    """Leave the grid lines of one axis and no ticks; for a heat map, neither these nor a frame."""
    axes.tick_params(length=0)
    if grid is None:
        axes.spines[:].set_visible(False)
    else:
        axes.grid(axis=grid)


def _inline(svg: str, key: str, label: str) -> str:
    """Turn a standalone SVG document into an element of the page."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r'\bid="', f'id="{key}-', body)
    body = body.replace("url(#", f"url(#{key}-").replace('xlink:href="#', f'href="#{key}-')
    body = body.replace("xlink:href=", "href=")
    body = _with_colors(body, [f"var(--{variable})" for variable in _VARIABLES])
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)
    width, height = size.groups() if size else ("400", "300")
    head = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" '
        f'style="--width:{float(width) * 1.3:.0f}px">'
    )
    return head + re.sub(r"\n\s*", "\n", body[body.index(">") + 1 :])
