"""Land-cover classes, landscapes, and the sites that are drawn from them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from data_prep.synth.random_fields import F32


class Cover(IntEnum):
    """Class codes of ``labels.tif``; 0 stands for unlabeled."""

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


#: Name and map color (red, green, blue) of each class.
CLASSES: dict[Cover, tuple[str, tuple[int, int, int]]] = {
    Cover.WATER: ("water", (64, 122, 178)),
    Cover.WETLAND: ("wetland", (122, 178, 172)),
    Cover.GRASSLAND: ("grassland", (186, 212, 128)),
    Cover.CROPLAND: ("cropland", (236, 206, 110)),
    Cover.ORCHARD: ("orchard", (214, 148, 92)),
    Cover.BROADLEAF: ("broadleaf forest", (88, 148, 72)),
    Cover.CONIFER: ("conifer forest", (38, 94, 66)),
    Cover.BUILT_UP: ("built-up", (196, 72, 74)),
    Cover.BARE: ("bare ground", (206, 190, 166)),
    Cover.QUARRY: ("quarry", (138, 124, 134)),
}


@dataclass(frozen=True)
class Landscape:
    """A kind of country that sites are variations of."""

    mix: tuple[float, ...]  #: relative area of each class's patches, in the order of their codes
    relief_m: float  #: standard deviation of the terrain
    river_px: float  #: typical width of the river
    aridity: float  #: 0 (lush vegetation) to 1 (dry vegetation, pale soil)
    pivots: float = 0.0  #: share of the cropland with center-pivot irrigation (round fields)


#: The mixes are of water, wetland, grassland, cropland, orchard, broadleaf, conifer, built-up, bare
#: and quarry; then come relief, river, aridity and pivots.
LANDSCAPES: dict[str, Landscape] = {
    "river plain": Landscape((0.06, 0.07, 0.15, 0.26, 0.12, 0.13, 0, 0.16, 0, 0.05), 22, 15, 0.25),
    "wooded hills": Landscape((0.07, 0, 0.18, 0, 0, 0.24, 0.26, 0.09, 0.08, 0.08), 130, 8, 0.1),
    "dry basin": Landscape((0.04, 0, 0, 0.17, 0.17, 0, 0.06, 0.13, 0.27, 0.16), 60, 7, 0.85, 0.5),
    "lake delta": Landscape((0.20, 0.27, 0.15, 0.14, 0.05, 0, 0.11, 0.08, 0, 0), 9, 18, 0.2),
}


@dataclass(frozen=True)
class Site:
    """One site of the archive; its sensor's counts are 10000 · (gain · reflectance + offset)."""

    name: str
    landscape_name: str
    epsg: int  #: UTM zone on WGS 84 (326xx north, 327xx south)
    origin: tuple[float, float]  #: upper left corner of the first scene: easting, northing, meters
    mix: NDArray[np.float64]  #: area shares (10,) of the classes by code; they add up to 1
    gain: F32  #: (4,)
    offset: F32  #: (4,)
    season: float  #: 0 (spring flush) to 1 (late summer); its scenes vary a little round it

    @property
    def landscape(self) -> Landscape:
        """What :attr:`landscape_name` names."""
        return LANDSCAPES[self.landscape_name]


def draw_site(seed: int, index: int) -> Site:
    """Draw site ``index`` (from 0) of an archive, whatever the archive's number of sites."""
    rng = np.random.default_rng([seed, index])
    name = list(LANDSCAPES)[index % len(LANDSCAPES)]
    mix = np.array(LANDSCAPES[name].mix) * rng.uniform(0.8, 1.25, size=len(Cover))
    south = rng.random() < 0.35
    northing = (6_200_000, 8_800_000) if south else (3_000_000, 6_000_000)
    return Site(
        name=f"site-{index:02d}",
        landscape_name=name,
        # a multiple of 7 plus the site's number: few sites of an archive share a zone
        epsg=(32700 if south else 32600) + int(1 + (rng.integers(9) * 7 + index) % 60),
        # multiples of 60 m, on which the grids of 10 m and 30 m coincide
        origin=(
            60.0 * int(rng.integers(300_000 // 60, 600_000 // 60)),
            60.0 * int(rng.integers(northing[0] // 60, northing[1] // 60)),
        ),
        mix=mix / mix.sum(),
        gain=(rng.uniform(0.85, 1.2) * rng.uniform(0.94, 1.06, size=4)).astype(np.float32),
        # haze and stray light lift blue most
        offset=(rng.uniform(0.0, 0.02) * np.array([1.6, 1.1, 0.8, 0.5])).astype(np.float32),
        season=float(rng.uniform(0.1, 0.9)),
    )


def draw_patch_covers(
    site: Site, scenes: int, patches: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Draw the class codes of all patches of a site, int64 (scenes, patches).

    Over the site, the counts match its mix to within one patch.
    """
    edges = np.round(np.cumsum(site.mix) * (scenes * patches)).astype(np.int64)
    counts = np.diff(edges, prepend=0)
    covers = np.repeat(np.array([int(cover) for cover in Cover]), counts)
    rng.shuffle(covers)
    return covers.reshape(scenes, patches)
