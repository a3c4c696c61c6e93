"""How each class of land looks from above: one painter a class, pixels in, reflectance out.

Every painter takes a :class:`~data_prep.synth.brush.Brush` of n pixels and returns float32
reflectance (n, 4) in the order blue, green, red, near infrared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from data_prep.synth.cover_classes import Cover
from data_prep.synth.plots import divide, dots, turn
from data_prep.synth.random_fields import hash_unit, smoothstep

if TYPE_CHECKING:
    from collections.abc import Callable

    from data_prep.synth.brush import Brush
    from data_prep.synth.random_fields import F32

_TAU = np.float32(2 * np.pi)


def paint_water(brush: Brush) -> F32:
    """Standing and flowing water: silt near the shores and in slow swirls, hardly any texture."""
    silt = 0.3 + 0.09 * brush.broad + 0.5 * (1 - smoothstep(brush.inside, 0, 18))
    colour = brush.mix(silt, "deep water", "shallow water")
    return colour * (1 + 0.015 * brush.mottle + 0.04 * brush.fine)[:, None]


def paint_wetland(brush: Brush) -> F32:
    """Reeds and wet meadows, cut by winding creeks and dotted with pools."""
    pools = smoothstep(brush.mottle + 0.5 * brush.broad, 0.55, 1.0)
    creeks = 1 - smoothstep(np.abs(brush.broad + 0.35 * brush.mottle), 0.04, 0.13)
    colour = brush.mix(0.5 + 0.3 * brush.mottle - 0.3 * brush.broad, "reeds", "grass")
    colour = brush.cover(colour, 0.18 + 0.22 * brush.grain, "shade")
    colour = brush.cover(colour, np.maximum(pools, creeks), "shallow water")
    return colour * (1 + 0.06 * brush.fine)[:, None]


def paint_grassland(brush: Brush) -> F32:
    """Pasture and meadow: soft mottling, worn spots, single trees and a few hedges."""
    parcels = divide(brush.x, brush.y, brush.angle, (118, 88), 2, brush.seed + 11)
    dry = 0.35 + 0.22 * brush.broad + 0.12 * brush.mottle
    dry = dry + 0.25 * (hash_unit(brush.seed + 12, parcels.identity) - 0.5)
    colour = brush.mix(dry, "grass", "straw")
    colour = brush.cover(colour, 0.5 * smoothstep(brush.mottle, 1.4, 2.2), "soil")
    hedge = 0.6 * (parcels.edge < 1.0) * (brush.mottle > -0.6)
    trees, _ = dots(brush.x, brush.y, 13, 0.2, (1.2, 2.4), brush.seed + 13)
    shadow, _ = dots(brush.x - 1.2, brush.y - 1.2, 13, 0.2, (1.2, 2.4), brush.seed + 13)
    colour = brush.cover(colour, 0.6 * (shadow > 0), "shade")
    colour = brush.cover(colour, np.maximum(hedge, 0.8 * (trees > 0)), "canopy")
    return colour * (1 + 0.04 * brush.fine)[:, None]


_CROPS = ("young crop", "dense crop", "ripe crop", "straw", "soil", "blossom", "grass")


def paint_cropland(brush: Brush) -> F32:
    """Fields in strips with tramlines, lanes between the blocks, and round pivots where dry."""
    pivot = hash_unit(brush.seed + 21, brush.patch) < brush.pivots
    strips = divide(brush.x, brush.y, brush.angle, (86, 46), 4, brush.seed + 22)
    squares = divide(brush.x, brush.y, brush.angle, (44, 44), 1, brush.seed + 23)
    identity = np.where(pivot, squares.identity, strips.identity)
    crop = np.floor(hash_unit(brush.seed + 24, identity) * len(_CROPS)).astype(np.intp)
    colour = brush.palette.table(*_CROPS)[crop]
    lengthwise = hash_unit(brush.seed + 25, identity) < 0.75
    run = np.where(lengthwise, strips.along, strips.across)
    period = 3.4 + 2.2 * hash_unit(brush.seed + 26, identity)
    rows = np.cos(_TAU * run / period) * (0.08 + 0.08 * hash_unit(brush.seed + 27, identity))
    tone = 0.85 + 0.3 * hash_unit(brush.seed + 28, identity)
    colour = colour * (tone * (1 + 0.05 * brush.mottle) + np.where(pivot, 0, rows))[:, None]
    outside = pivot & (squares.centre_distance > 0.94)
    colour = brush.cover(colour, 0.9 * outside, "soil")
    lane = ~pivot & (strips.block_edge < 0.9)
    hedge = ~pivot & (strips.edge < 0.8) & (hash_unit(brush.seed + 29, identity) < 0.5)
    colour = brush.cover(colour, 0.55 * hedge, "shade")
    return brush.cover(colour, 0.7 * lane, "gravel") * (1 + 0.03 * brush.fine)[:, None]


def paint_orchard(brush: Brush) -> F32:
    """Trees planted on a grid in large parcels, grass or soil between them."""
    parcels = divide(brush.x, brush.y, brush.angle, (74, 58), 2, brush.seed + 31)
    draw = hash_unit(brush.seed + 32, parcels.identity)
    spacing = 5.6 + 2.0 * brush.scale + 0.6 * draw
    trees = np.cos(_TAU * parcels.along / spacing) * 0.5
    trees = trees + np.cos(_TAU * parcels.across / (spacing * (1 + 0.35 * draw))) * 0.5
    crowns = smoothstep(trees + 0.1 * brush.grain, -0.15, 0.4)
    colour = brush.mix(0.2 + 0.8 * draw + 0.1 * brush.mottle, "grass", "soil")
    colour = brush.cover(colour, 0.92 * crowns, "canopy")
    shadow = smoothstep(-trees, 0.1, 0.7)
    colour = brush.cover(colour, 0.25 * shadow * crowns, "shade")
    track = parcels.edge < 1.2
    return brush.cover(colour, 0.6 * track, "soil") * (1 + 0.05 * brush.fine)[:, None]


def paint_broadleaf(brush: Brush) -> F32:
    """Paint a closed canopy of large round crowns with shade between, and clearings."""
    x, y = brush.x + 1.6 * brush.mottle, brush.y + 1.6 * brush.grain
    size = 1.1 + 0.4 * brush.scale
    near, _ = dots(x / size, y / size, 5.3, 0.95, (1.9, 2.6), brush.seed + 81)
    far, _ = dots(*turn(x / size, y / size, np.float32(0.7)), 4.7, 0.9, (1.7, 2.3), brush.seed + 85)
    crowns = np.maximum(near, 0.85 * far) + 0.12 * brush.grain
    colour = brush.mix(0.9 - 0.95 * crowns, "canopy", "shade")
    light = smoothstep(brush.mottle - 0.5 * brush.broad, 1.7, 2.2)
    colour = brush.cover(colour, 0.75 * light, "grass")
    stands = 1 + 0.08 * brush.broad + 0.06 * brush.mottle
    return colour * stands[:, None]


def paint_conifer(brush: Brush) -> F32:
    """Fine dense needle crowns, straight rides between compartments, and clear-cuts."""
    parcels = divide(brush.x, brush.y, brush.angle, (92, 60), 2, brush.seed + 41)
    draw = hash_unit(brush.seed + 42, parcels.identity)
    crowns = smoothstep(brush.fine, -1.6, 1.6)
    colour = brush.mix(0.55 - 0.5 * crowns, "needles", "shade")
    colour = colour * (0.85 + 0.35 * hash_unit(brush.seed + 43, parcels.identity))[:, None]
    young = (draw > 0.84) & (parcels.edge > 2)
    colour = brush.cover(colour, young * (0.55 + 0.1 * brush.mottle), "straw")
    ride = (parcels.edge < 0.9) & (draw < 0.9)
    return brush.cover(colour, 0.65 * ride, "grass")


_ROOFS = ("red roof", "grey roof", "asphalt", "soil", "red roof", "grey roof", "white roof")


def paint_built_up(brush: Brush) -> F32:
    """Blocks of roofs and gardens on a street grid; large halls in some blocks, parks in others."""
    parcels = divide(brush.x, brush.y, brush.angle, (17, 11.5), 1, brush.seed + 51)
    houses = divide(brush.x, brush.y, brush.angle, (3.8, 3.8), 1, brush.seed + 52)
    draw = hash_unit(brush.seed + 53, parcels.identity)
    hall = draw > 0.88
    park = (draw < 0.1) | (brush.inside < 5 * hash_unit(brush.seed + 54, parcels.identity))
    key = np.where(hall, parcels.identity, houses.identity)
    roof = np.floor(hash_unit(brush.seed + 55, key) * len(_ROOFS)).astype(np.intp)
    roofs = brush.palette.table(*_ROOFS)[roof]
    dense = smoothstep(brush.from_centre, 80, 10)
    built = hash_unit(brush.seed + 56, houses.identity) < 0.5 + 0.35 * dense
    garden = brush.mix(0.5 + 0.5 * brush.grain, "grass", "canopy")
    colour = np.where((hall | (built & (houses.edge > 0.5)))[:, None], roofs, garden)
    colour = brush.cover(colour, 0.5 * (built & (houses.edge <= 0.8)), "shade")
    colour = np.where(park[:, None], garden, colour)
    street = parcels.block_edge < 1.15
    avenue = np.abs(np.mod(parcels.along, 68) - 34) < 1.6
    return brush.cover(colour, 0.9 * (street | avenue), "asphalt")


def paint_bare(brush: Brush) -> F32:
    """Open ground: wind-blown ridges bent by the relief, and branching dry gullies."""
    along, _ = turn(brush.x, brush.y, brush.angle)
    phase = along / (8 + 6 * brush.scale) + 0.45 * brush.broad + 0.12 * brush.mottle
    ridges = 2 * np.abs(phase - np.floor(phase) - 0.5)
    colour = brush.mix(0.45 + 0.35 * brush.broad, "soil", "gravel")
    colour = colour * (0.87 + 0.26 * ridges + 0.04 * brush.grain)[:, None]
    gullies = 1 - smoothstep(np.abs(brush.mottle + 0.8 * brush.broad), 0.03, 0.16)
    colour = brush.cover(colour, 0.45 * gullies, "rock")
    shrubs, _ = dots(brush.x, brush.y, 5, 0.18, (0.7, 1.3), brush.seed + 61)
    return brush.cover(colour, 0.7 * (shrubs > 0), "reeds")


def bench_phase(brush: Brush) -> F32:
    """Return how many benches (of a quarry) lie between the pit's rim and each pixel."""
    rim = 104 + 20 * brush.scale + 7 * brush.broad + 0.8 * brush.mottle
    depth: F32 = np.maximum(rim - brush.from_centre, 0)
    return depth / (8 + 3.5 * brush.scale)


def paint_quarry(brush: Brush) -> F32:
    """Benches that step down to a pit with a pond, haul roads, and heaps of spoil."""
    phase = bench_phase(brush)
    within = phase - np.floor(phase)
    colour = brush.mix(0.35 + 0.3 * hash_unit(brush.seed + 71, phase, brush.patch), "soil", "rock")
    colour = colour * (0.95 + 0.3 * smoothstep(within, 0.2, 0.95))[:, None]
    colour = brush.cover(colour, 0.55 * ((within < 0.22) & (phase > 0)), "shade")
    heaps, _ = dots(brush.x, brush.y, 11, 0.35, (3.0, 5.2), brush.seed + 72)
    lit = dots(brush.x + 1, brush.y + 1, 11, 0.35, (3.0, 5.2), brush.seed + 72)[0] - heaps
    on_heap = (heaps > 0) & (phase <= 0)
    colour = np.where(
        on_heap[:, None], brush.palette["gravel"] * (0.75 + 0.8 * lit)[:, None], colour
    )
    colour = brush.cover(colour, smoothstep(phase, 8.0, 8.3), "shallow water")
    _, across = turn(brush.x, brush.y, brush.angle + 0.03 * phase)
    haul = np.abs(np.mod(across + 6 * brush.broad, 61) - 30) < 1.2
    return brush.cover(colour, 0.8 * haul, "gravel") * (1 + 0.05 * brush.fine)[:, None]


PAINTERS: dict[Cover, Callable[[Brush], F32]] = {
    Cover.WATER: paint_water,
    Cover.WETLAND: paint_wetland,
    Cover.GRASSLAND: paint_grassland,
    Cover.CROPLAND: paint_cropland,
    Cover.ORCHARD: paint_orchard,
    Cover.BROADLEAF: paint_broadleaf,
    Cover.CONIFER: paint_conifer,
    Cover.BUILT_UP: paint_built_up,
    Cover.BARE: paint_bare,
    Cover.QUARRY: paint_quarry,
}
