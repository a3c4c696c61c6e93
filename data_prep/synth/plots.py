"""Parcels: the patchwork into which farmland, orchards and towns are divided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_prep.synth.random_fields import hash_bits, hash_unit

if TYPE_CHECKING:
    from data_prep.synth.random_fields import F32, U32


@dataclass(frozen=True)
class LandPlots:
    """Where a pixel lies in the patchwork.

    Attributes
    ----------
    identity : uint32 array, (n,)
        A number for each parcel, to hash its properties from.
    edge : float32 array, (n,)
        Distance to the parcel's border in pixels.
    block_edge : float32 array, (n,)
        Distance to the border of the block of parcels, where lanes and streets run.
    along, across : float32 arrays, (n,)
        Pixel coordinates in the patchwork's own direction.
    centre_distance : float32 array, (n,)
        Distance from the block's centre, 1 in the middle of its sides.
    """

    identity: U32
    edge: F32
    block_edge: F32
    along: F32
    across: F32
    centre_distance: F32


def turn(x: F32, y: F32, angle: F32 | np.float32) -> tuple[F32, F32]:
    """Rotate pixel coordinates by `angle` radians: returns (along, across)."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return x * cosine + y * sine, y * cosine - x * sine


def divide(
    x: F32, y: F32, angle: F32, block: tuple[float, float], most_strips: int, seed: int
) -> LandPlots:
    """Divide the plane into staggered blocks, and each block into strips of unequal width.

    Parameters
    ----------
    x, y : float32 arrays, (n,)
        Pixel coordinates.
    angle : float32 array, (n,)
        Direction of the patchwork in radians.
    block : tuple of float
        Length and depth of a block in pixels.
    most_strips : int
        A block has 1 to this many parcels side by side.
    seed : int
        Chooses the stagger and the widths.

    Returns
    -------
    Parcels
        Parcels that bear different identities everywhere in a scene.
    """
    along, across = turn(x, y, angle)
    length, depth = np.float32(block[0]), np.float32(block[1])
    # Neighbouring patches with other directions must not continue each other's patchwork.
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
    centre = np.hypot(part - 0.5, fraction - 0.5) * 2
    return LandPlots(
        identity=hash_bits(seed + 4, key, strip),
        edge=np.minimum(block_edge, strip_edge),
        block_edge=block_edge,
        along=along,
        across=across,
        centre_distance=centre,
    )


def dots(
    x: F32, y: F32, spacing: float, share: float, radius: tuple[float, float], seed: int
) -> tuple[F32, F32]:
    """Scatter round things, one at most in each cell of a grid.

    Parameters
    ----------
    x, y : float32 arrays, (n,)
        Pixel coordinates.
    spacing : float
        Side of the grid's cells in pixels.
    share : float
        Share of the cells that hold one.
    radius : tuple of float
        Least and greatest radius in pixels; at most half the spacing.
    seed : int
        Chooses places and sizes.

    Returns
    -------
    tuple of float32 arrays, (n,)
        Height of a dome over the pixel (0 outside, 1 on top), and its radius in pixels.
    """
    column, row = np.floor(x / np.float32(spacing)), np.floor(y / np.float32(spacing))
    key = hash_bits(seed, column, row)
    size = radius[0] + (radius[1] - radius[0]) * hash_unit(seed + 1, key)
    room = spacing - 2 * size
    dx = x - column * np.float32(spacing) - size - room * hash_unit(seed + 2, key)
    dy = y - row * np.float32(spacing) - size - room * hash_unit(seed + 3, key)
    dome = np.maximum(1 - (dx * dx + dy * dy) / (size * size), 0)
    dome = np.where(hash_unit(seed + 4, key) < share, dome, 0)
    return dome.astype(np.float32), size.astype(np.float32)
