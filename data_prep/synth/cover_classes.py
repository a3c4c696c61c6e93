"""The ten land-cover classes of the synthetic archive and their map colours."""

from __future__ import annotations

from enum import IntEnum


class Cover(IntEnum):
    """Class codes of ``labels.tif``; 0 stands for unlabelled."""

    WATER = 1
    WETLAND = 2
    GRASSLAND = 3
    CROPLAND = 4
    ORCHARD = 5
    BROADLEAF = 6
    CONIFER = 7
    BUILT_UP = 8
    BARE = 9
    QUARRY = 10


CLASS_NAMES: dict[Cover, str] = {
    Cover.WATER: "water",
    Cover.WETLAND: "wetland",
    Cover.GRASSLAND: "grassland",
    Cover.CROPLAND: "cropland",
    Cover.ORCHARD: "orchard",
    Cover.BROADLEAF: "broadleaf forest",
    Cover.CONIFER: "conifer forest",
    Cover.BUILT_UP: "built-up",
    Cover.BARE: "bare ground",
    Cover.QUARRY: "quarry",
}

CLASS_COLOURS: dict[Cover, tuple[int, int, int]] = {
    Cover.WATER: (64, 122, 178),
    Cover.WETLAND: (122, 178, 172),
    Cover.GRASSLAND: (186, 212, 128),
    Cover.CROPLAND: (236, 206, 110),
    Cover.ORCHARD: (214, 148, 92),
    Cover.BROADLEAF: (88, 148, 72),
    Cover.CONIFER: (38, 94, 66),
    Cover.BUILT_UP: (196, 72, 74),
    Cover.BARE: (206, 190, 166),
    Cover.QUARRY: (138, 124, 134),
}
