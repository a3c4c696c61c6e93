"""Colors of classes, sites and splits, which color-blind readers can tell apart."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from data_prep.pictures.color_vision import least_difference, simulate, to_lab
from data_prep.pictures.official_palettes import Color, official_colors

# By pattern of the class name; the first that matches counts. The colors look like those of
# land-cover maps, and annealing has moved them until any two differ by at least ΔE 10 (CIEDE2000)
# in normal vision and in simulated protanopia, deuteranopia and tritanopia. That holds among all
# covers without those that only the U.S. National Land Cover Database (NLCD) has (emergent
# wetlands, pasture, three kinds of developed land), and among all covers of NLCD.
_COVER: tuple[tuple[str, Color], ...] = (
    (r"conifer|needle|pine|spruce|evergreen", (25, 82, 59)),
    (r"broadleaf|deciduous|hardwood", (80, 141, 77)),
    (r"emergent|herbaceous wetland", (89, 144, 200)),
    (r"wetland|marsh|swamp|\bbog|mangrove", (122, 182, 178)),
    (r"\bsnow|\bice\b|glacier", (237, 245, 250)),
    (r"water|river|lake|\bsea\b|ocean|pond|harbou?r", (46, 109, 183)),
    (r"orchard|vineyard|fruit|plantation", (227, 136, 32)),
    (r"forest|wood", (43, 115, 63)),
    (r"shrub|scrub|chaparral|heath|brush", (181, 164, 106)),
    (r"pasture", (118, 168, 0)),
    (r"grass|meadow|herbaceous|range|lawn|golf", (188, 220, 139)),
    (r"\btrees?\b", (124, 151, 122)),
    (r"crop|cultivat|agricult|corn|wheat|soybean|oats|alfalfa|\bhay|field", (240, 205, 56)),
    (r"quarry|\bmin(e|es|ing)\b", (119, 104, 128)),
    (r"road|street|asphalt|runway|highway|freeway|parking|rail", (70, 72, 80)),
    (r"open space", (207, 201, 226)),
    (r"low intensity", (212, 132, 140)),
    (r"high intensity", (110, 8, 22)),
    (r"built|urban|resident|building|developed|town|\bcity|impervious|industr", (205, 12, 25)),
    (r"bare|barren|soil|sand|rock|desert|beach", (212, 198, 177)),
)

#: Colors of the splits, which lie over imagery: dark, light, vivid, and gray. No land cover has
#: them.
SPLIT_COLORS: dict[str, Color] = {
    "train": (106, 27, 154),
    "val": (128, 222, 234),
    "test": (255, 64, 129),
    "buffer": (60, 60, 60),
}

# ΔE*ab below which a color would be taken for that of another class on the map.
_LEAST_DIFFERENCE = 10.0
# ΔE*ab that two colors of a product should have, of few and of many classes, and the most that one
# is changed to have it.
_CLEAR_DIFFERENCE, _MOST_CHANGE = (20.0, 8.0), 40.0
_MANY_CLASSES = 20
# How many times the difference to a color of another map counts, for that of a site.
_APART = 2.0
# Colors that all differ; less than the pool of 72.
_MAX_DISTINCT = 60
# What colors of a product may give way to: ten steps of each channel.
_GRID: list[Color] = [
    (red, green, blue)
    for red in range(0, 256, 28)
    for green in range(0, 256, 28)
    for blue in range(0, 256, 28)
]
# Hues are equal steps; the lightnesses carry the contrast that is left to color-blind readers.
_POOL_HUES, _POOL_LIGHTNESS, _POOL_SATURATION = 18, (0.5, 0.7, 0.3, 0.86), 0.55


def class_colors(names: Sequence[str]) -> NDArray[np.uint8]:
    """Return RGB colors of K classes, [K, 3], each different while there are no more than 60.

    Classes of ESA WorldCover or CORINE get the colors of that product. Any other name that says a
    land cover gets that cover's color on maps. A color that another class has, or one too like it,
    gives way: to the most similar one that differs enough for a product's, else to another shade.
    A name that says no land cover gets the color that differs most from those in use.
    """
    official = official_colors(names)
    if official is not None:
        return _told_apart(official)
    covers = [
        next((color for words, color in _COVER if re.search(words, name.lower())), None)
        for name in names
    ]
    colors: list[Color | None] = [None] * len(names)
    # Plain covers come first, so that no shade takes the color of a later class.
    for i, cover in enumerate(covers):
        used = [color for color in colors if color is not None]
        if cover is not None and _nearest([cover], used)[0] >= _LEAST_DIFFERENCE:
            colors[i] = cover
    for i, cover in enumerate(covers):
        if colors[i] is None:
            colors[i] = _free_color(cover, [color for color in colors if color is not None])
    return np.array(colors, np.uint8).reshape(len(names), 3)


def site_colors(count: int, classes: Sequence[str] = ()) -> NDArray[np.uint8]:
    """Return colors of sites, uint8 [count, 3]; each differs most from the 60 before it.

    None is that of a split or of one of the ``classes``, while the pool has others.
    """
    taken = [*SPLIT_COLORS.values(), *map(_color, class_colors(classes).tolist())]
    # A site must differ from other sites more than from what is on other maps.
    apart = _APART * _nearest(_pool(), taken[-_MAX_DISTINCT // 2 :])
    colors: list[Color] = []
    for _ in range(count):
        nearest = np.minimum(_nearest(_pool(), colors[-_MAX_DISTINCT:]), apart)
        colors.append(_pool()[int(nearest.argmax())])
    return np.array(colors, np.uint8).reshape(count, 3)


def hex_color(color: Sequence[int] | NDArray[np.uint8]) -> str:
    """Write an RGB color for CSS: ``#4e79a7``."""
    return "#" + bytes(int(channel) for channel in color).hex()


def _color(rgb: Sequence[int]) -> Color:
    red, green, blue = rgb
    return red, green, blue


def _told_apart(colors: Sequence[Color]) -> NDArray[np.uint8]:
    """Return colors of which each differs from those before it, changed as little as that takes.

    None is changed by more than :data:`_MOST_CHANGE`, so that a product's map is recognized; of its
    many classes, some are then alike to color-blind readers.
    """
    lab = to_lab(simulate(np.array(_GRID, np.uint8), "normal"))
    kept: list[Color] = []
    for color in colors:
        own = to_lab(simulate(np.array([color], np.uint8), "normal"))
        change = np.linalg.norm(lab - own, axis=-1)
        choice = [color, *(_GRID[i] for i in np.argsort(change) if change[i] <= _MOST_CHANGE)]
        nearest = _nearest(choice, kept)
        enough = min(_CLEAR_DIFFERENCE[len(colors) > _MANY_CLASSES], float(nearest.max()))
        kept.append(choice[int((nearest >= enough).argmax())])
    return np.array(kept, np.uint8).reshape(len(colors), 3)


def _free_color(cover: Color | None, used: list[Color]) -> Color:
    """Return the shade of a cover that differs most from the colors in use, else any color."""
    # So that colors are used again, in turn, when there are more classes than the pool has colors.
    used = used[-_MAX_DISTINCT:]
    for choice in ([] if cover is None else [_shades(cover)]) + [_pool()]:
        nearest = _nearest(choice, used)
        color = choice[int(nearest.argmax())]
        if nearest.max() >= _LEAST_DIFFERENCE:
            break
    return color


def _nearest(choice: Sequence[Color], used: list[Color]) -> NDArray[np.float64]:
    """Return the difference of each color, [n], from the one in use that is most like it."""
    differences = least_difference(choice, np.reshape(used, (-1, 3)))
    nearest: NDArray[np.float64] = differences.min(axis=1, initial=np.inf)
    return nearest


def _shades(cover: Color) -> tuple[Color, ...]:
    """Return colors lighter and darker than one, and a little to either side of its hue."""
    hue, _, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in cover))
    return tuple(
        _rgb((hue + turn) % 1.0, lightness, max(0.3, min(0.7, saturation)))
        for turn in (0.0, -0.045, 0.045, -0.09, 0.09)
        for lightness in (0.24, 0.36, 0.52, 0.66, 0.8, 0.9)
    )


@cache
def _pool() -> tuple[Color, ...]:
    """Return the colors for names that do not say a land cover."""
    return tuple(
        _rgb(step / _POOL_HUES, lightness, _POOL_SATURATION)
        for lightness in _POOL_LIGHTNESS
        for step in range(_POOL_HUES)
    )


def _rgb(hue: float, lightness: float, saturation: float) -> Color:
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, saturation)
    return round(255 * red), round(255 * green), round(255 * blue)
