"""What makes one synthetic site unlike another: class mix, relief, season, sensor, map zone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from data_prep.synth.cover_classes import Cover

NUM_BANDS = 4


@dataclass(frozen=True)
class Landscape:
    """An archetype that sites are variations of.

    Attributes
    ----------
    mix : dict of Cover to float
        Relative area of each class's patches.
    relief_m : float
        Standard deviation of the terrain in metres.
    river_px : float
        Typical width of the river in pixels.
    aridity : float
        0 (lush vegetation) to 1 (dry vegetation, pale soil).
    pivots : float
        Share of the cropland watered by centre pivots (round fields).
    """

    mix: dict[Cover, float]
    relief_m: float
    river_px: float
    aridity: float
    pivots: float


LANDSCAPES: dict[str, Landscape] = {
    "river plain": Landscape(
        {
            Cover.CROPLAND: 0.26,
            Cover.GRASSLAND: 0.15,
            Cover.BUILT_UP: 0.16,
            Cover.BROADLEAF: 0.13,
            Cover.ORCHARD: 0.12,
            Cover.WATER: 0.06,
            Cover.WETLAND: 0.07,
            Cover.QUARRY: 0.05,
        },
        relief_m=22,
        river_px=15,
        aridity=0.25,
        pivots=0.0,
    ),
    "wooded hills": Landscape(
        {
            Cover.BROADLEAF: 0.24,
            Cover.CONIFER: 0.26,
            Cover.GRASSLAND: 0.18,
            Cover.WATER: 0.07,
            Cover.QUARRY: 0.08,
            Cover.BARE: 0.08,
            Cover.BUILT_UP: 0.09,
        },
        relief_m=130,
        river_px=8,
        aridity=0.1,
        pivots=0.0,
    ),
    "dry basin": Landscape(
        {
            Cover.BARE: 0.27,
            Cover.QUARRY: 0.16,
            Cover.CROPLAND: 0.17,
            Cover.ORCHARD: 0.17,
            Cover.BUILT_UP: 0.13,
            Cover.WATER: 0.04,
            Cover.CONIFER: 0.06,
        },
        relief_m=60,
        river_px=7,
        aridity=0.85,
        pivots=0.5,
    ),
    "lake delta": Landscape(
        {
            Cover.WETLAND: 0.27,
            Cover.WATER: 0.20,
            Cover.GRASSLAND: 0.15,
            Cover.CROPLAND: 0.14,
            Cover.CONIFER: 0.11,
            Cover.ORCHARD: 0.05,
            Cover.BUILT_UP: 0.08,
        },
        relief_m=9,
        river_px=18,
        aridity=0.2,
        pivots=0.0,
    ),
}


@dataclass(frozen=True)
class Site:
    """One site of the archive, drawn from an archetype.

    Attributes
    ----------
    name, landscape_name : str
        Folder name, and the archetype's key in `LANDSCAPES`.
    epsg : int
        UTM zone on WGS 84 (326xx north, 327xx south).
    origin : tuple of float
        Easting and northing of the upper left corner of the first scene, in metres.
    mix : float64 array, (10,)
        Area shares of the classes in code order; they add up to 1.
    gain, offset : float32 arrays, (4,)
        The sensor's radiometry: counts = 10000 · (gain · reflectance + offset).
    season : float
        0 (spring flush) to 1 (late summer), shared by the site's scenes up to a jitter.
    """

    name: str
    landscape_name: str
    epsg: int
    origin: tuple[float, float]
    mix: np.ndarray
    gain: np.ndarray
    offset: np.ndarray
    season: float

    @property
    def landscape(self) -> Landscape:
        """The archetype itself."""
        return LANDSCAPES[self.landscape_name]


def draw_site(seed: int, index: int) -> Site:
    """Draw site `index` of the archive with this `seed`, whatever the number of sites.

    Parameters
    ----------
    seed : int
        The archive's seed.
    index : int
        Counts from 0; the archetypes take turns.

    Returns
    -------
    Site
        Sites of the same archetype differ in mix, radiometry, season and place.
    """
    rng = np.random.default_rng([seed, index])
    key = list(LANDSCAPES)[index % len(LANDSCAPES)]
    base = np.array([LANDSCAPES[key].mix.get(cover, 0.0) for cover in Cover])
    mix = base * rng.uniform(0.8, 1.25, size=base.size)
    south = rng.random() < 0.35
    northing = (6_200_000, 8_800_000) if south else (3_000_000, 6_000_000)
    return Site(
        name=f"site-{index:02d}",
        landscape_name=key,
        epsg=(32700 if south else 32600) + int(1 + (rng.integers(9) * 7 + index) % 60),
        origin=(
            60.0 * int(rng.integers(300_000 // 60, 600_000 // 60)),
            60.0 * int(rng.integers(northing[0] // 60, northing[1] // 60)),
        ),
        mix=mix / mix.sum(),
        gain=(rng.uniform(0.85, 1.2) * rng.uniform(0.94, 1.06, NUM_BANDS)).astype(np.float32),
        offset=(rng.uniform(0.0, 0.02) * np.array([1.6, 1.1, 0.8, 0.5])).astype(np.float32),
        season=float(rng.uniform(0.1, 0.9)),
    )


def deal_patches(site: Site, scenes: int, patches: int, rng: np.random.Generator) -> np.ndarray:
    """Deal classes to the patches of all scenes of a site so that the mix is met.

    Parameters
    ----------
    site : Site
        Holds the mix.
    scenes, patches : int
        Number of scenes, and of patches in each.
    rng : numpy.random.Generator
        Shuffles the deck.

    Returns
    -------
    int64 array, (scenes, patches)
        Class codes; over the site the counts match the mix to within one patch.
    """
    total = scenes * patches
    edges = np.round(np.cumsum(site.mix) * total).astype(np.int64)
    counts = np.diff(edges, prepend=0)
    deck = np.repeat(np.array([int(cover) for cover in Cover]), counts)
    rng.shuffle(deck)
    return deck.reshape(scenes, patches)
