"""Colours of classes on maps, and which bands make a picture."""

from __future__ import annotations

import colorsys
import math
import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_Color = tuple[int, int, int]

_COVER = (
    (r"conifer|needle|pine|spruce|evergreen", (38, 94, 66)),
    (r"broadleaf|deciduous|hardwood", (88, 148, 72)),
    (r"wetland|marsh|swamp|\bbog|mangrove", (122, 178, 172)),
    (r"\bsnow|\bice\b|glacier", (222, 238, 246)),
    (r"water|river|lake|\bsea\b|ocean|pond|harbou?r", (64, 122, 178)),
    (r"orchard|vineyard|fruit|plantation", (214, 148, 92)),
    (r"forest|wood", (58, 120, 66)),
    (r"shrub|scrub|chaparral|heath|brush", (160, 146, 84)),
    (r"grass|pasture|meadow|herbaceous|range|lawn|golf", (186, 212, 128)),
    (r"\btrees?\b", (112, 150, 84)),
    (r"crop|cultivat|agricult|corn|wheat|soybean|oats|alfalfa|\bhay|field", (236, 206, 110)),
    (r"quarry|\bmin(e|es|ing)\b", (138, 124, 134)),
    (r"road|street|asphalt|runway|highway|freeway|parking|rail", (92, 96, 104)),
    (r"built|urban|resident|building|developed|town|\bcity|impervious|industr", (196, 72, 74)),
    (r"bare|barren|soil|sand|rock|desert|beach", (206, 190, 166)),
)

_POOL = [
    (hue / 18, light, strength)
    for light, strength in ((0.52, 0.42), (0.7, 0.5), (0.35, 0.42))
    for hue in range(18)
]
"""Hue, lightness and saturation of colours for names that say nothing."""

_LEAST_GAP = 55.0
"""Distance (weighted sum over channels) below which two colours on a map look the same."""

_HYPERSPECTRAL = 24
"""From so many unnamed bands on, the first three are taken to be too close to one another."""

_VISIBLE_NM = (650.0, 550.0, 470.0)


def class_colors(names: Sequence[str]) -> NDArray[np.uint8]:
    """Colours of classes: those of maps where the name says land cover, else far-apart ones.

    Parameters
    ----------
    names : sequence of str
        K class names.

    Returns
    -------
    uint8[K, 3]
        RGB, each different while there are no more than about 60.
    """
    colors: list[_Color | None] = []
    for name in names:
        fitting = (rgb for words, rgb in _COVER if re.search(words, name.lower()))
        colors.append(next((rgb for rgb in fitting if rgb not in colors), None))
    for place, name in enumerate(names):
        if colors[place] is None:
            colors[place] = _free_color(name, [used for used in colors if used is not None])
    return np.array(colors, dtype=np.uint8).reshape(len(names), 3)


def _free_color(name: str, used: list[_Color]) -> _Color:
    """Shade of the cover that a name says, if one is left; else the least used colour there is."""
    base = next((rgb for words, rgb in _COVER if re.search(words, name.lower())), None)
    if base is not None:
        color, gap = _farthest(_shades(base), used)
        if gap >= _LEAST_GAP:
            return color
    return _farthest([_rgb(*part) for part in _POOL], used)[0]


def _shades(base: _Color) -> list[_Color]:
    """Colours a little to either side of one, lighter and darker."""
    hue, _, strength = colorsys.rgb_to_hls(*(part / 255 for part in base))
    return [
        _rgb((hue + turn) % 1.0, light, max(0.3, min(0.7, strength)))
        for turn in (0.0, -0.045, 0.045, -0.09, 0.09)
        for light in (0.36, 0.52, 0.66, 0.8)
    ]


def _rgb(hue: float, light: float, strength: float) -> _Color:
    red, green, blue = colorsys.hls_to_rgb(hue, light, strength)
    return round(255 * red), round(255 * green), round(255 * blue)


def _farthest(choice: list[_Color], used: list[_Color]) -> tuple[_Color, float]:
    """Colour that is least like all in use, and its distance from the nearest of them."""
    if not used:
        return choice[0], math.inf
    weights = np.array([0.6, 1.0, 0.45])  # the eye tells greens apart best, blues worst
    gaps = np.abs(np.array(choice)[:, None] - np.array(used)[None]) * weights
    nearest = gaps.sum(axis=2).min(axis=1)
    best = int(nearest.argmax())
    return choice[best], float(nearest[best])


def picture_bands(names: Sequence[str]) -> tuple[int, int, int]:
    """Bands to show as red, green and blue.

    By name (``red``, ``B4``, ``650 nm``) where the names say it; of many unnamed bands three
    from the visible part of a 400–2500 nm spectrum; else the first three (one band: grey).

    Parameters
    ----------
    names : sequence of str
        Band names of one modality, at least one.
    """
    lower = [name.lower().strip() for name in names]
    for wanted in (("red", "green", "blue"), ("b04", "b03", "b02"), ("b4", "b3", "b2")):
        places = [_place(lower, word) for word in wanted]
        if None not in places:
            return _three([place for place in places if place is not None])
    waves = [_wavelength_nm(name) for name in lower]
    if all(wave is not None for wave in waves) and len(names) >= 3:
        known = np.array([wave or 0.0 for wave in waves])
        return _three([int(np.abs(known - wave).argmin()) for wave in _VISIBLE_NM])
    if len(names) >= _HYPERSPECTRAL:
        return _three([round(share * len(names)) for share in (0.135, 0.085, 0.04)])
    return (0, 1, 2) if len(names) >= 3 else (0, 0, 0)


def _place(names: list[str], word: str) -> int | None:
    """Where ``word`` is a band's name, or the last word of just one (``landsat_b4``)."""
    if word in names:
        return names.index(word)
    ends = [place for place, name in enumerate(names) if re.split(r"[\W_]+", name)[-1] == word]
    return ends[0] if len(ends) == 1 else None


def _wavelength_nm(name: str) -> float | None:
    """Wavelength that a band's name gives, in nanometres."""
    found = re.search(r"(\d+(?:\.\d+)?)\s*(nm|um|µm|micro\w*|nano\w*)", name)
    if not found:
        return None
    return float(found[1]) * (1.0 if found[2].startswith("n") else 1000.0)


def _three(places: list[int]) -> tuple[int, int, int]:
    return places[0], places[1], places[2]
