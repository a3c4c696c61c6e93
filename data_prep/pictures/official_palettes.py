"""The colors that land-cover products give their own classes, by the names of the classes.

Legends are recognized by name: all classes of a data set, and at least :data:`LEAST_CLASSES`, must
be of one legend. The U.S. National Land Cover Database has its place among the general land covers
of :mod:`~data_prep.pictures.map_colors`, whose colors are its own, moved apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

Color = tuple[int, int, int]

#: Fewer classes say too little: "water" and "forest" are of every legend.
LEAST_CLASSES = 4

#: ESA WorldCover, Product User Manual, version 2.0 (2022), table 3.
WORLD_COVER = {
    "tree cover": "006400", "shrubland": "ffbb22", "grassland": "ffff4c", "cropland": "f096ff",
    "built-up": "fa0000", "bare / sparse vegetation": "b4b4b4", "snow and ice": "f0f0f0",
    "permanent water bodies": "0064c8", "herbaceous wetland": "0096a0", "mangroves": "00cf75",
    "moss and lichen": "fae6a0",
}  # fmt: skip

#: CORINE Land Cover nomenclature, level 3: European Environment Agency, technical report 17/2007.
CORINE = {
    "continuous urban fabric": "e6004d", "discontinuous urban fabric": "ff0000",
    "industrial or commercial units": "cc4df2",
    "road and rail networks and associated land": "cc0000", "port areas": "e6cccc",
    "airports": "e6cce6", "mineral extraction sites": "a600cc", "dump sites": "a64d00",
    "construction sites": "ff4dff", "green urban areas": "ffa6ff",
    "sport and leisure facilities": "ffe6ff", "non-irrigated arable land": "ffffa8",
    "permanently irrigated land": "ffff00", "rice fields": "e6e600", "vineyards": "e68000",
    "fruit trees and berry plantations": "f2a64d", "olive groves": "e6a600",
    "pastures": "e6e64d", "annual crops associated with permanent crops": "ffe6a6",
    "complex cultivation patterns": "ffe64d",
    "land principally occupied by agriculture, with significant areas of natural vegetation":
        "e6cc4d",
    "agro-forestry areas": "f2cca6", "broad-leaved forest": "80ff00",
    "coniferous forest": "00a600", "mixed forest": "4dff00", "natural grasslands": "ccf24d",
    "moors and heathland": "a6ff80", "sclerophyllous vegetation": "a6e64d",
    "transitional woodland-shrub": "a6f200", "beaches, dunes, sands": "e6e6e6",
    "bare rocks": "cccccc", "sparsely vegetated areas": "ccffcc", "burnt areas": "000000",
    "glaciers and perpetual snow": "a6e6cc", "inland marshes": "a6a6ff", "peat bogs": "4d4dff",
    "salt marshes": "ccccff", "salines": "e6e6ff", "intertidal flats": "a6a6e6",
    "water courses": "00ccf2", "water bodies": "80f2e6", "coastal lagoons": "00ffa6",
    "estuaries": "a6ffe6", "sea and ocean": "e6f2ff",
}  # fmt: skip


def official_colors(names: Sequence[str]) -> list[Color] | None:
    """Return the colors of classes that are all of one legend; None where they are not."""
    words = [_words(name) for name in names]
    if len(set(words)) < LEAST_CLASSES:
        return None
    for legend in (WORLD_COVER, CORINE):
        colors = {_words(name): color for name, color in legend.items()}
        if all(each in colors for each in words):
            return [_rgb(colors[each]) for each in words]
    return None


def _words(name: str) -> str:
    """Return the words of a name, without a code before it: ``311 Broad-leaved forest``."""
    text = re.sub(r"^[\d.\s:_-]+", "", name.lower())
    return " ".join(re.findall(r"[a-z]+", text))


def _rgb(color: str) -> Color:
    red, green, blue = bytes.fromhex(color)
    return red, green, blue
