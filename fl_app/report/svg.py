"""Figures as inline SVG that follows the page: its fonts, its light or dark colors.

matplotlib draws with stand-in colors; in the finished SVG they are replaced by the page's CSS
variables, so one figure is legible in both themes and in print. Text stays text.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable
from typing import Any, Literal

from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Stand-ins that no real color of a figure equals.
_VARIABLES = ("ink", "muted", "grid", "card", "up", "down", "bad", "quiet")
_STAND_INS = [f"#01010{number}" for number, _ in enumerate(_VARIABLES, start=1)]
INK, MUTED, GRID, SURFACE, UP, DOWN, BAD, QUIET = _STAND_INS

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


def draw(
    key: str, label: str, size_in: tuple[float, float], paint: Callable[[Figure], None]
) -> Markup:
    """Draw a figure and return it as an ``<svg>`` element, the same bytes for the same input.

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
    """
    buffer = io.StringIO()
    theme: dict[Any, Any] = {**_THEME, "svg.hashsalt": key}
    with rc_context(theme), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=size_in, layout="constrained")
        paint(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return Markup(_inline(buffer.getvalue(), key, label))  # noqa: S704  matplotlib escapes text


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
    for color, variable in zip(_STAND_INS, _VARIABLES, strict=True):
        body = body.replace(color, f"var(--{variable})")
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body)
    width, height = size.groups() if size else ("400", "300")
    head = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" '
        f'style="--width:{float(width) * 1.3:.0f}px">'
    )
    return head + re.sub(r"\n\s*", "\n", body[body.index(">") + 1 :])
