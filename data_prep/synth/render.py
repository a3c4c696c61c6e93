"""Rendering of one scene: terrain, land cover, textures, exposure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.synth.land_cover import draw_roads, grow_patches, label_pixels
from data_prep.synth.landscapes import Cover, Site
from data_prep.synth.radiometry import (
    NODATA,
    Acquisition,
    draw_acquisition,
    draw_group_means,
    draw_spectra,
    expose,
    pull_means,
    withering,
)
from data_prep.synth.random_fields import F32, FieldMaker
from data_prep.synth.terrain import River, draw_river, level_lakes, raise_terrain
from data_prep.synth.textures import TEXTURES, Pixels, bench_phase

#: Height of a quarry's bench, and how many of them a pit has at most.
BENCH_M = 6.0
MOST_BENCHES = 8


@dataclass(frozen=True)
class Scene:
    """A finished scene in memory, on a grid of 10 m."""

    counts: NDArray[np.uint16]  #: blue, green, red, near infrared (4, px, px); 0 outside the swath
    elevation: F32  #: meters (px, px)
    labels: NDArray[np.uint8]  #: class codes (px, px); 0 outside the swath
    acquisition: Acquisition


def render_scene(
    site: Site, covers: NDArray[np.int64], scene_px: int, rng: np.random.Generator
) -> Scene:
    """Render one scene of a site; ``covers`` (patches,) are the classes of its patches.

    ``rng`` decides all else, so the order of the steps is part of what an archive's seed means.
    """
    maker = FieldMaker(scene_px, rng)
    acquisition = draw_acquisition(site, rng)
    river = draw_river(maker, site.landscape.river_px)
    elevation = raise_terrain(maker, river, site.landscape)
    patches = grow_patches(maker, covers, elevation, river)
    lakes = np.flatnonzero(patches.covers == Cover.WATER)
    elevation = level_lakes(elevation, patches.number, lakes)
    roads = draw_roads(patches, elevation, rng)
    labels = label_pixels(patches, river, roads)

    spectra = draw_spectra(site, acquisition.season, rng)
    pixels = Pixels.of_scene(maker, patches, spectra, site.landscape.pivots)
    cover = patches.covers[patches.number]
    colors = np.empty((scene_px**2, 4), dtype=np.float32)
    for kind, texture in TEXTURES.items():
        members = (cover == kind).ravel()
        if members.any():
            colors[members] = texture(pixels.select(members))
    targets = draw_group_means(patches.covers, withering(site, acquisition.season), rng)
    image = pull_means(colors, pixels.patch, targets).reshape(scene_px, scene_px, 4)
    _render_river(image, river, cover, spectra)
    image[roads] = 0.8 * spectra["asphalt"] + 0.2 * spectra["gravel"]

    quarry = cover == Cover.QUARRY
    if quarry.any():
        benches = np.minimum(bench_phase(pixels.select(quarry.ravel())), MOST_BENCHES)
        elevation[quarry] -= BENCH_M * np.floor(benches)
    reflectance = np.ascontiguousarray(np.moveaxis(image, -1, 0))
    counts = expose(reflectance, elevation, acquisition, site, maker)
    labels[counts[0] == NODATA] = 0
    return Scene(counts, elevation, labels, acquisition)


def _render_river(
    image: F32, river: River, cover: NDArray[np.int64], spectra: Mapping[str, F32]
) -> None:
    """Paint the river with its banks into ``image`` (px, px, 4), except across lakes."""
    distance = np.abs(river.across)
    land = cover != Cover.WATER
    depth = np.clip(1.2 - distance[..., None], 0, 1)
    water = spectra["shallow water"] + depth * (spectra["deep water"] - spectra["shallow water"])
    bank = land & (distance >= 1) & (distance < 1.35)
    bar = land & (river.across > river.bars) & (distance < 1.1)
    image[land & (distance < 1)] = water[land & (distance < 1)]
    image[bank] = 0.45 * image[bank] + 0.55 * spectra["canopy"]
    image[bar] = 0.6 * spectra["gravel"] + 0.4 * spectra["soil"]
