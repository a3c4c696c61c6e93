"""How each class of land cover looks from above: pixels in, reflectance out.

Every texture takes the :class:`Pixels` of its class and returns float32 reflectance (n, 4) in the
order blue, green, red, near infrared. Farmland, orchards and towns are divided into land plots
(:func:`divide_land`); trees and heaps are round dots (:func:`dots`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.synth.land_cover import Patches
from data_prep.synth.landscapes import Cover
from data_prep.synth.random_fields import F32, U32, FieldMaker, hash_bits, hash_unit, smoothstep

_TAU = np.float32(2 * np.pi)


@dataclass(frozen=True)
class LandPlots:
    """Where n pixels lie in land that is divided into plots."""

    identity: U32  #: a number for each plot, to hash its properties from
    edge: F32  #: distance to the plot's border in pixels
    block_edge: F32  #: distance to the border of the block of plots, where lanes and streets run
    along: F32  #: pixel coordinate in the direction of the plots
    across: F32  #: the one at a right angle to it
    center_distance: F32  #: from the block's center; 1 in the middle of its sides


@dataclass(frozen=True)
class Pixels:
    """What textures are made from, for all n pixels of a scene or those of one class."""

    x: F32  #: column
    y: F32  #: row
    fine: F32  #: noise of unit variance and about 3 pixels' wavelength
    grain: F32  #: noise of 6 pixels' wavelength
    mottle: F32  #: of 15
    broad: F32  #: of 45
    inside: F32  #: distance from the border with another class in pixels
    angle: F32  #: the patch's direction in radians
    scale: F32  #: the patch's random number in [0, 1)
    from_center: F32  #: distance from the patch's center in pixels
    patch: NDArray[np.int32]  #: the patch's number
    spectra: Mapping[str, F32]  #: reflectance (4,) of each material
    seed: int  #: seed of the hashes; each use adds a number of its own: tens by class
    pivots: float  #: share of patches of cropland with center-pivot irrigation

    @classmethod
    def of_scene(
        cls, maker: FieldMaker, patches: Patches, spectra: Mapping[str, F32], pivots: float
    ) -> Pixels:
        """Return all pixels of a scene, with noises that ``maker`` draws."""
        y, x = np.mgrid[: maker.px, : maker.px].astype(np.float32).reshape(2, -1)
        patch = patches.number.ravel()
        center = patches.centers[patch]
        return cls(
            x=x,
            y=y,
            fine=maker.band(3.2, 0.35).ravel(),
            grain=maker.band(6.5, 0.35).ravel(),
            mottle=maker.band(15, 0.4).ravel(),
            broad=maker.band(45, 0.5).ravel(),
            inside=patches.inside.ravel(),
            angle=patches.angles[patch],
            scale=patches.scales[patch],
            from_center=np.hypot(x - center[:, 0], y - center[:, 1]),
            patch=patch,
            spectra=spectra,
            seed=int(maker.rng.integers(2**31)),
            pivots=pivots,
        )

    def select(self, mask: NDArray[np.bool_]) -> Pixels:
        """Return the pixels where ``mask`` (n,) is true."""
        selected: dict[str, Any] = {
            name: values[mask] for name, values in vars(self).items() if np.ndim(values)
        }
        return replace(self, **selected)

    def mix(self, share: NDArray[Any], first: str, second: str) -> F32:
        """Blend two materials: ``share`` (n,) of the second, the rest of the first; (n, 4)."""
        return self.cover(self.spectra[first], share, second)

    def cover(self, below: F32, share: NDArray[Any], material: str) -> F32:
        """Lay a material over ``below`` (n, 4) with opacity ``share`` (n,)."""
        opacity: F32 = np.clip(share, 0, 1).astype(np.float32)[:, None]
        return below + opacity * (self.spectra[material] - below)

    def choose(self, materials: tuple[str, ...], number: F32) -> F32:
        """Return one of some materials by a number (n,) in [0, 1): (n, 4)."""
        table = np.stack([self.spectra[name] for name in materials])
        return table[np.floor(number * len(materials)).astype(np.intp)]

    def hash(self, use: int, *keys: NDArray[Any]) -> F32:
        """Hash integer keys (n,) to [0, 1), unlike those of any other ``use``."""
        return hash_unit(self.seed + use, *keys)

    def plots(self, block: tuple[float, float], most_strips: int, use: int) -> LandPlots:
        """Divide the land in the patches' directions; see :func:`divide_land`."""
        return divide_land(self.x, self.y, self.angle, block, most_strips, self.seed + use)


def rotate(x: F32, y: F32, angle: F32 | np.float32) -> tuple[F32, F32]:
    """Rotate pixel coordinates by ``angle`` radians: returns (along, across)."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return x * cosine + y * sine, y * cosine - x * sine


def divide_land(
    x: F32, y: F32, angle: F32, block: tuple[float, float], most_strips: int, seed: int
) -> LandPlots:
    """Divide the plane into staggered blocks, and each block into strips of unequal width.

    ``block`` is a block's length and depth in pixels; 1 to ``most_strips`` plots lie side by side.
    """
    along, across = rotate(x, y, angle)
    length, depth = np.float32(block[0]), np.float32(block[1])
    # neighboring patches with other directions must not continue each other's plots
    survey = np.round(angle * 64)
    row = np.floor(across / depth)
    shifted = along / length + hash_unit(seed, row, survey)
    column = np.floor(shifted)
    key = hash_bits(seed + 1, row, column, survey)
    part = shifted - column
    skew = 0.75 + 0.6 * hash_unit(seed + 2, key)
    strips = 1 + np.floor(hash_unit(seed + 3, key) * most_strips)
    position = part**skew * strips
    strip = np.minimum(np.floor(position), strips - 1)
    within = position - strip
    fraction = across / depth - row
    block_edge = np.minimum(
        np.minimum(part, 1 - part) * length, np.minimum(fraction, 1 - fraction) * depth
    )
    strip_edge = np.minimum(within, 1 - within) * length / strips
    center_distance = np.hypot(part - 0.5, fraction - 0.5) * 2
    edge = np.minimum(block_edge, strip_edge)
    return LandPlots(
        hash_bits(seed + 4, key, strip), edge, block_edge, along, across, center_distance
    )


def dots(
    x: F32, y: F32, spacing: float, share: float, radius: tuple[float, float], seed: int
) -> F32:
    """Scatter domes in a ``share`` of a grid's cells; return their height, 0 to 1, over each pixel.

    ``spacing`` is the side of a cell, ``radius`` the least and greatest one, at most half of it.
    """
    column, row = np.floor(x / np.float32(spacing)), np.floor(y / np.float32(spacing))
    key = hash_bits(seed, column, row)
    size = radius[0] + (radius[1] - radius[0]) * hash_unit(seed + 1, key)
    room = spacing - 2 * size
    dx = x - column * np.float32(spacing) - size - room * hash_unit(seed + 2, key)
    dy = y - row * np.float32(spacing) - size - room * hash_unit(seed + 3, key)
    dome = np.maximum(1 - (dx * dx + dy * dy) / (size * size), 0)
    dome = np.where(hash_unit(seed + 4, key) < share, dome, 0)
    return dome.astype(np.float32)


def water(p: Pixels) -> F32:
    """Standing and flowing water: silt near the shores and in slow swirls, hardly any texture."""
    silt = 0.3 + 0.09 * p.broad + 0.5 * (1 - smoothstep(p.inside, 0, 18))
    color = p.mix(silt, "deep water", "shallow water")
    return color * (1 + 0.015 * p.mottle + 0.04 * p.fine)[:, None]


def wetland(p: Pixels) -> F32:
    """Reeds and wet meadows, cut by winding creeks and dotted with pools."""
    pools = smoothstep(p.mottle + 0.5 * p.broad, 0.55, 1.0)
    creeks = 1 - smoothstep(np.abs(p.broad + 0.35 * p.mottle), 0.04, 0.13)
    color = p.mix(0.5 + 0.3 * p.mottle - 0.3 * p.broad, "reeds", "grass")
    color = p.cover(color, 0.18 + 0.22 * p.grain, "shade")
    color = p.cover(color, np.maximum(pools, creeks), "shallow water")
    return color * (1 + 0.06 * p.fine)[:, None]


def grassland(p: Pixels) -> F32:
    """Pasture and meadow: soft mottling, worn spots, single trees and a few hedges."""
    plots = p.plots((118, 88), 2, 11)
    dry = 0.35 + 0.22 * p.broad + 0.12 * p.mottle
    dry = dry + 0.25 * (p.hash(12, plots.identity) - 0.5)
    color = p.mix(dry, "grass", "straw")
    color = p.cover(color, 0.5 * smoothstep(p.mottle, 1.4, 2.2), "soil")
    hedge = 0.6 * (plots.edge < 1.0) * (p.mottle > -0.6)
    trees = dots(p.x, p.y, 13, 0.2, (1.2, 2.4), p.seed + 13)
    # the same trees, a little to the southeast
    shadow = dots(p.x - 1.2, p.y - 1.2, 13, 0.2, (1.2, 2.4), p.seed + 13)
    color = p.cover(color, 0.6 * (shadow > 0), "shade")
    color = p.cover(color, np.maximum(hedge, 0.8 * (trees > 0)), "canopy")
    return color * (1 + 0.04 * p.fine)[:, None]


_CROPS = ("young crop", "dense crop", "ripe crop", "straw", "soil", "blossom", "grass")


def cropland(p: Pixels) -> F32:
    """Fields in strips with tramlines, lanes between the blocks, and round pivots where dry."""
    pivot = p.hash(21, p.patch) < p.pivots
    strips = p.plots((86, 46), 4, 22)
    squares = p.plots((44, 44), 1, 23)
    identity = np.where(pivot, squares.identity, strips.identity)
    color = p.choose(_CROPS, p.hash(24, identity))
    lengthwise = p.hash(25, identity) < 0.75
    run = np.where(lengthwise, strips.along, strips.across)
    period = 3.4 + 2.2 * p.hash(26, identity)
    rows = np.cos(_TAU * run / period) * (0.08 + 0.08 * p.hash(27, identity))
    tone = 0.85 + 0.3 * p.hash(28, identity)
    color = color * (tone * (1 + 0.05 * p.mottle) + np.where(pivot, 0, rows))[:, None]
    outside = pivot & (squares.center_distance > 0.94)
    color = p.cover(color, 0.9 * outside, "soil")
    lane = ~pivot & (strips.block_edge < 0.9)
    hedge = ~pivot & (strips.edge < 0.8) & (p.hash(29, identity) < 0.5)
    color = p.cover(color, 0.55 * hedge, "shade")
    return p.cover(color, 0.7 * lane, "gravel") * (1 + 0.03 * p.fine)[:, None]


def orchard(p: Pixels) -> F32:
    """Trees planted on a grid in large plots, grass or soil between them."""
    plots = p.plots((74, 58), 2, 31)
    draw = p.hash(32, plots.identity)
    spacing = 5.6 + 2.0 * p.scale + 0.6 * draw
    trees = np.cos(_TAU * plots.along / spacing) * 0.5
    trees = trees + np.cos(_TAU * plots.across / (spacing * (1 + 0.35 * draw))) * 0.5
    crowns = smoothstep(trees + 0.1 * p.grain, -0.15, 0.4)
    color = p.mix(0.2 + 0.8 * draw + 0.1 * p.mottle, "grass", "soil")
    color = p.cover(color, 0.92 * crowns, "canopy")
    shadow = smoothstep(-trees, 0.1, 0.7)
    color = p.cover(color, 0.25 * shadow * crowns, "shade")
    track = plots.edge < 1.2
    return p.cover(color, 0.6 * track, "soil") * (1 + 0.05 * p.fine)[:, None]


def broadleaf(p: Pixels) -> F32:
    """Large round crowns in a closed canopy, with shade between, and clearings."""
    x, y = p.x + 1.6 * p.mottle, p.y + 1.6 * p.grain
    size = 1.1 + 0.4 * p.scale
    near = dots(x / size, y / size, 5.3, 0.95, (1.9, 2.6), p.seed + 81)
    far = dots(*rotate(x / size, y / size, np.float32(0.7)), 4.7, 0.9, (1.7, 2.3), p.seed + 85)
    crowns = np.maximum(near, 0.85 * far) + 0.12 * p.grain
    color = p.mix(0.9 - 0.95 * crowns, "canopy", "shade")
    light = smoothstep(p.mottle - 0.5 * p.broad, 1.7, 2.2)
    color = p.cover(color, 0.75 * light, "grass")
    stands = 1 + 0.08 * p.broad + 0.06 * p.mottle
    return color * stands[:, None]


def conifer(p: Pixels) -> F32:
    """Fine dense needle crowns, straight rides between compartments, and clear-cuts."""
    plots = p.plots((92, 60), 2, 41)
    draw = p.hash(42, plots.identity)
    crowns = smoothstep(p.fine, -1.6, 1.6)
    color = p.mix(0.55 - 0.5 * crowns, "needles", "shade")
    color = color * (0.85 + 0.35 * p.hash(43, plots.identity))[:, None]
    young = (draw > 0.84) & (plots.edge > 2)
    color = p.cover(color, young * (0.55 + 0.1 * p.mottle), "straw")
    ride = (plots.edge < 0.9) & (draw < 0.9)
    return p.cover(color, 0.65 * ride, "grass")


_ROOFS = ("red roof", "gray roof", "asphalt", "soil", "red roof", "gray roof", "white roof")


def built_up(p: Pixels) -> F32:
    """Blocks of roofs and gardens on a street grid; large halls in some blocks, parks in others."""
    plots = p.plots((17, 11.5), 1, 51)
    houses = p.plots((3.8, 3.8), 1, 52)
    draw = p.hash(53, plots.identity)
    hall = draw > 0.88
    park = (draw < 0.1) | (p.inside < 5 * p.hash(54, plots.identity))
    key = np.where(hall, plots.identity, houses.identity)
    roofs = p.choose(_ROOFS, p.hash(55, key))
    dense = smoothstep(p.from_center, 80, 10)
    built = p.hash(56, houses.identity) < 0.5 + 0.35 * dense
    garden = p.mix(0.5 + 0.5 * p.grain, "grass", "canopy")
    color = np.where((hall | (built & (houses.edge > 0.5)))[:, None], roofs, garden)
    color = p.cover(color, 0.5 * (built & (houses.edge <= 0.8)), "shade")
    color = np.where(park[:, None], garden, color)
    street = plots.block_edge < 1.15
    avenue = np.abs(np.mod(plots.along, 68) - 34) < 1.6
    return p.cover(color, 0.9 * (street | avenue), "asphalt")


def bare(p: Pixels) -> F32:
    """Open ground: wind-blown ridges bent by the relief, and branching dry gullies."""
    along, _ = rotate(p.x, p.y, p.angle)
    phase = along / (8 + 6 * p.scale) + 0.45 * p.broad + 0.12 * p.mottle
    ridges = 2 * np.abs(phase - np.floor(phase) - 0.5)
    color = p.mix(0.45 + 0.35 * p.broad, "soil", "gravel")
    color = color * (0.87 + 0.26 * ridges + 0.04 * p.grain)[:, None]
    gullies = 1 - smoothstep(np.abs(p.mottle + 0.8 * p.broad), 0.03, 0.16)
    color = p.cover(color, 0.45 * gullies, "rock")
    shrubs = dots(p.x, p.y, 5, 0.18, (0.7, 1.3), p.seed + 61)
    return p.cover(color, 0.7 * (shrubs > 0), "reeds")


def bench_phase(p: Pixels) -> F32:
    """Return how many benches (of a quarry) lie between the pit's rim and each pixel."""
    # the rim winds with the noise, or pits would be round
    rim = 104 + 20 * p.scale + 7 * p.broad + 0.8 * p.mottle
    depth: F32 = np.maximum(rim - p.from_center, 0)
    return depth / (8 + 3.5 * p.scale)


def quarry(p: Pixels) -> F32:
    """Benches that step down to a pit with a pond, haul roads, and heaps of spoil."""
    phase = bench_phase(p)
    within = phase - np.floor(phase)
    color = p.mix(0.35 + 0.3 * p.hash(71, phase, p.patch), "soil", "rock")
    color = color * (0.95 + 0.3 * smoothstep(within, 0.2, 0.95))[:, None]
    color = p.cover(color, 0.55 * ((within < 0.22) & (phase > 0)), "shade")
    heaps = dots(p.x, p.y, 11, 0.35, (3.0, 5.2), p.seed + 72)
    # the slope of a heap: the difference from the same heap one pixel on
    lit = dots(p.x + 1, p.y + 1, 11, 0.35, (3.0, 5.2), p.seed + 72) - heaps
    on_heap = (heaps > 0) & (phase <= 0)
    color = np.where(on_heap[:, None], p.spectra["gravel"] * (0.75 + 0.8 * lit)[:, None], color)
    color = p.cover(color, smoothstep(phase, 8.0, 8.3), "shallow water")
    _, across = rotate(p.x, p.y, p.angle + 0.03 * phase)
    haul = np.abs(np.mod(across + 6 * p.broad, 61) - 30) < 1.2
    return p.cover(color, 0.8 * haul, "gravel") * (1 + 0.05 * p.fine)[:, None]


TEXTURES: dict[Cover, Callable[[Pixels], F32]] = {
    Cover.WATER: water,
    Cover.WETLAND: wetland,
    Cover.GRASSLAND: grassland,
    Cover.CROPLAND: cropland,
    Cover.ORCHARD: orchard,
    Cover.BROADLEAF: broadleaf,
    Cover.CONIFER: conifer,
    Cover.BUILT_UP: built_up,
    Cover.BARE: bare,
    Cover.QUARRY: quarry,
}
