"""One scene put together: terrain, land cover, textures, exposure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_prep.synth.brush import Canvas
from data_prep.synth.cover_classes import Cover
from data_prep.synth.landcover import grow_patches, label_pixels
from data_prep.synth.radiometry import NODATA, Acquisition, draw_acquisition, expose
from data_prep.synth.random_fields import FieldMaker
from data_prep.synth.roads import draw_roads
from data_prep.synth.spectra import Palette, group_targets, pull_means
from data_prep.synth.terrain import draw_river, level_lakes, raise_terrain
from data_prep.synth.textures import PAINTERS, bench_phase

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_prep.synth.landcover import Patches
    from data_prep.synth.random_fields import F32
    from data_prep.synth.sites import Site
    from data_prep.synth.terrain import River

BENCH_M = 6.0


@dataclass(frozen=True)
class Scene:
    """A finished scene in memory.

    Attributes
    ----------
    counts : uint16 array, (4, px, px)
        Blue, green, red, near infrared; 0 outside the swath.
    elevation : float32 array, (px, px)
        Metres on the same 10 m grid.
    labels : uint8 array, (px, px)
        Class codes; 0 outside the swath.
    acquisition : Acquisition
        How it was taken.
    """

    counts: NDArray[np.uint16]
    elevation: F32
    labels: NDArray[np.uint8]
    acquisition: Acquisition


def make_scene(
    site: Site, deck: NDArray[np.int64], scene_px: int, rng: np.random.Generator
) -> Scene:
    """Make one scene of a site.

    Parameters
    ----------
    site : Site
        Landscape, season and sensor.
    deck : int64 array, (patches,)
        Classes of the scene's patches, a square number of them.
    scene_px : int
        Side in pixels.
    rng : numpy.random.Generator
        Decides everything else.

    Returns
    -------
    Scene
        Image, terrain and labels on one grid.
    """
    maker = FieldMaker(scene_px, rng)
    acquisition = draw_acquisition(site, rng)
    river = draw_river(maker, site.landscape.river_px)
    elevation = raise_terrain(maker, river, site.landscape)
    patches = grow_patches(maker, deck, elevation, river)
    lakes = np.flatnonzero(patches.covers == Cover.WATER)
    elevation = level_lakes(elevation, patches.number, lakes)
    roads = draw_roads(patches, elevation, rng)
    labels = label_pixels(patches, river, roads)
    palette = Palette(site, acquisition.season, rng)
    canvas = Canvas(maker, patches, palette, site.landscape.pivots)
    reflectance = _paint(canvas, patches, river, roads, palette, rng)
    elevation = _dig_quarries(canvas, patches, elevation)
    counts = expose(reflectance, elevation, acquisition, site, maker)
    labels[counts[0] == NODATA] = 0
    return Scene(counts, elevation, labels, acquisition)


def _paint(
    canvas: Canvas,
    patches: Patches,
    river: River,
    roads: NDArray[np.bool_],
    palette: Palette,
    rng: np.random.Generator,
) -> F32:
    """Paint the patches, pull their mean spectra together, then lay river and roads over them."""
    px = len(patches.number)
    cover = patches.covers[patches.number]
    image = np.empty((px, px, 4), dtype=np.float32)
    for kind, paint in PAINTERS.items():
        chosen = cover == kind
        if chosen.any():
            image[chosen] = paint(canvas.brush(chosen))
    targets = group_targets(patches.covers, palette.withering, rng)
    image = pull_means(image.reshape(-1, 4), patches.number.ravel(), targets).reshape(px, px, 4)
    _lay_river(image, river, cover, palette)
    image[roads] = 0.8 * palette["asphalt"] + 0.2 * palette["gravel"]
    return np.ascontiguousarray(np.moveaxis(image, -1, 0))


def _lay_river(image: F32, river: River, cover: NDArray[np.int64], palette: Palette) -> None:
    """Paint the river with its banks into `image` (px, px, 4), except across lakes."""
    distance = np.abs(river.across)
    land = cover != Cover.WATER
    depth = np.clip(1.2 - distance[..., None], 0, 1)
    water = palette["shallow water"] + depth * (palette["deep water"] - palette["shallow water"])
    bank = land & (distance >= 1) & (distance < 1.35)
    bar = land & (river.across > river.bars) & (distance < 1.1)
    image[land & (distance < 1)] = water[land & (distance < 1)]
    image[bank] = 0.45 * image[bank] + 0.55 * palette["canopy"]
    image[bar] = 0.6 * palette["gravel"] + 0.4 * palette["soil"]


def _dig_quarries(canvas: Canvas, patches: Patches, elevation: F32) -> F32:
    """Lower the terrain along the benches of the quarries."""
    quarry = patches.covers[patches.number] == Cover.QUARRY
    if quarry.any():
        elevation = elevation.copy()
        elevation[quarry] -= BENCH_M * np.floor(np.minimum(bench_phase(canvas.brush(quarry)), 8))
    return elevation
