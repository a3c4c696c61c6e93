"""Terrain of a scene: relief, a meandering river in its valley, lakes, and hillshade."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.synth.landscapes import Landscape
from data_prep.synth.random_fields import F32, FieldMaker, blur, smoothstep

PIXEL_M = 10.0


@dataclass(frozen=True)
class River:
    """A river given by the zero contour of a function that noise has bent into meanders.

    All fields are (px, px).
    """

    across: F32  #: signed distance from the center line over the half width: water up to 1
    valley: F32  #: coarse distance from the river in pixels, smooth enough to carve a valley with
    bars: F32  #: where ``across`` exceeds this, gravel lies on the river's bed


def draw_river(maker: FieldMaker, width_px: float) -> River:
    """Draw a river across the scene, 0.6 to 1.5 times ``width_px`` wide along its course.

    Where the bends fold over, the contour cuts off oxbow lakes.
    """
    px, rng = maker.px, maker.rng
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[:px, :px].astype(np.float32) - px / 2
    straight = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    straight += np.float32(rng.uniform(-0.25, 0.25) * px)
    bends = 50 * maker.smooth(170) + 12.5 * maker.band(95, 0.3)
    course = straight + bends
    # the function over its slope is about the distance from its contour; the floor keeps flat
    # places from turning into lakes
    slope_y, slope_x = np.gradient(course)
    distance = course / np.maximum(np.hypot(slope_x, slope_y), 0.45)
    half_width = np.float32(width_px / 2) * np.clip(1 + 0.25 * maker.smooth(60), 0.6, 1.5)
    bars = 1.15 - 0.75 * smoothstep(maker.band(60, 0.4), 0.4, 1.6)
    return River(distance / half_width, np.abs(course), bars)


def raise_terrain(maker: FieldMaker, river: River, landscape: Landscape) -> F32:
    """Raise the relief and cut the river's valley into it: meters above zero, float32 (px, px)."""
    hills = maker.fractal(2.15, 260)
    ridges = 0.6 - np.abs(maker.fractal(2.1, 180))
    steep = min(1.0, landscape.relief_m / 100)
    relief = (1 - 0.4 * steep) * hills + 0.4 * steep * ridges
    above_valley = 1 - np.exp(-((river.valley / 85) ** 2))
    height = landscape.relief_m * (relief * (0.25 + 0.75 * above_valley) + 1.3 * above_valley)
    base = maker.rng.uniform(40, 180)
    raised: F32 = (height - height.min() + base).astype(np.float32)
    return raised


def level_lakes(elevation: F32, patch: NDArray[np.int32], lakes: NDArray[np.int64]) -> F32:
    """Flatten the patches that are lakes, and ease their shores down to the water.

    A lake's level is the tenth percentile of the terrain: low, so that shores rise from it.
    """
    for lake in lakes:
        members = patch == lake
        if members.any():
            level = np.float32(np.percentile(elevation[members], 10))
            near = np.maximum(smoothstep(blur(members.astype(np.float32), 9), 0.02, 0.5), members)
            elevation = elevation + near * (level - elevation)
    return elevation


def hillshade(elevation: F32, azimuth_deg: float, altitude_deg: float) -> F32:
    """Return the cosine of the sun's incidence over that of flat ground, float32 (px, px).

    The azimuth is clockwise from north, and the rows of ``elevation`` run south.
    """
    north, east = np.gradient(elevation, PIXEL_M)
    azimuth, altitude = math.radians(azimuth_deg), math.radians(altitude_deg)
    toward_sun = -east * math.sin(azimuth) + north * math.cos(azimuth)
    lit = 1 + toward_sun / math.tan(altitude)
    lit /= np.sqrt(1 + east**2 + north**2)
    shade: F32 = np.maximum(lit, 0)
    return shade
