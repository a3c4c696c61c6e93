"""Terrain of a scene: relief, a meandering river in its valley, and hillshade."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_prep.synth.random_fields import blur, smoothstep

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_prep.synth.random_fields import F32, FieldMaker
    from data_prep.synth.sites import Landscape

PIXEL_M = 10.0


@dataclass(frozen=True)
class River:
    """A river given by the zero contour of a function that noise has bent into meanders.

    Attributes
    ----------
    across : float32 array, (px, px)
        Signed distance from the centre line over the half width; the water is where |across| < 1.
    valley : float32 array, (px, px)
        Coarse distance from the river in pixels, smooth enough to carve a valley with.
    bars : float32 array, (px, px)
        Where |across| exceeds this, gravel lies on the river's bed.
    """

    across: F32
    valley: F32
    bars: F32


def draw_river(maker: FieldMaker, width_px: float) -> River:
    """Draw a river that crosses the scene.

    Parameters
    ----------
    maker : FieldMaker
        Draws the bends and the changes of width.
    width_px : float
        Typical width in pixels; 0.6 to 1.5 times as much along the course.

    Returns
    -------
    River
        Where the bends fold over, the contour cuts off oxbow lakes.
    """
    px, rng = maker.px, maker.rng
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[:px, :px].astype(np.float32) - px / 2
    straight = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    straight += np.float32(rng.uniform(-0.25, 0.25) * px)
    bends = 50 * maker.smooth(170) + 12.5 * maker.band(95, 0.3)
    course = straight + bends
    slope_y, slope_x = np.gradient(course)
    distance = course / np.maximum(np.hypot(slope_x, slope_y), 0.45)
    half_width = np.float32(width_px / 2) * np.clip(1 + 0.25 * maker.smooth(60), 0.6, 1.5)
    bars = 1.15 - 0.75 * smoothstep(maker.band(60, 0.4), 0.4, 1.6)
    return River(distance / half_width, np.abs(course), bars)


def raise_terrain(maker: FieldMaker, river: River, landscape: Landscape) -> F32:
    """Raise the relief and cut the river's valley into it.

    Parameters
    ----------
    maker : FieldMaker
        Draws the relief.
    river : River
        Where the valley goes.
    landscape : Landscape
        How high the relief is.

    Returns
    -------
    float32 array, (px, px)
        Elevation in metres, above zero.
    """
    hills = maker.fractal(2.15, 260)
    ridges = 0.6 - np.abs(maker.fractal(2.1, 180))
    steep = min(1.0, landscape.relief_m / 100)
    relief = (1 - 0.4 * steep) * hills + 0.4 * steep * ridges
    flat = 1 - np.exp(-((river.valley / 85) ** 2))
    height = landscape.relief_m * (relief * (0.25 + 0.75 * flat) + 1.3 * flat)
    base = maker.rng.uniform(40, 180)
    raised: F32 = (height - height.min() + base).astype(np.float32)
    return raised


def level_lakes(elevation: F32, patch: NDArray[np.int32], lakes: NDArray[np.int64]) -> F32:
    """Flatten the terrain under standing water and ease the shores down to it.

    Parameters
    ----------
    elevation : float32 array, (px, px)
        Metres.
    patch : integer array, (px, px)
        Patch number of every pixel.
    lakes : integer array
        Patch numbers that are lakes.

    Returns
    -------
    float32 array, (px, px)
        Elevation with one level a lake: the tenth percentile of what was there.
    """
    for lake in lakes:
        members = patch == lake
        if members.any():
            level = np.float32(np.percentile(elevation[members], 10))
            near = np.maximum(smoothstep(blur(members.astype(np.float32), 9), 0.02, 0.5), members)
            elevation = elevation + near * (level - elevation)
    return elevation


def hillshade(elevation: F32, azimuth_deg: float, altitude_deg: float) -> F32:
    """Return the cosine of the sun's incidence over that of flat ground.

    Parameters
    ----------
    elevation : float32 array, (px, px)
        Metres on a 10 m grid, rows running south.
    azimuth_deg, altitude_deg : float
        Where the sun stands: clockwise from north, above the horizon.

    Returns
    -------
    float32 array, (px, px)
        1 on flat ground, 0 in full shadow.
    """
    north, east = np.gradient(elevation, PIXEL_M)
    azimuth, altitude = math.radians(azimuth_deg), math.radians(altitude_deg)
    toward_sun = -east * math.sin(azimuth) + north * math.cos(azimuth)
    lit = 1 + toward_sun / math.tan(altitude)
    lit /= np.sqrt(1 + east**2 + north**2)
    shade: F32 = np.maximum(lit, 0)
    return shade
