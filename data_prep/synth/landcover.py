"""Land cover of a scene: patches of classes fitted to the terrain, the river, and roads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_prep.synth.cover_classes import Cover

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_prep.synth.random_fields import F32, FieldMaker
    from data_prep.synth.terrain import River

PATCH_PX = 190


@dataclass(frozen=True)
class Patches:
    """A partition of the scene into patches of one class each.

    Attributes
    ----------
    covers : int64 array, (patches,)
        Class code of each patch.
    centres : float32 array, (patches, 2)
        Column and row of the point that the patch grew round.
    angles : float32 array, (patches,)
        Direction of its rows, streets or ridges in radians.
    scales : float32 array, (patches,)
        A random number in [0, 1) by which its pattern differs from another's of its class.
    number : int32 array, (px, px)
        Patch of every pixel.
    inside : float32 array, (px, px)
        Distance from the border with another class in pixels.
    """

    covers: NDArray[np.int64]
    centres: F32
    angles: F32
    scales: F32
    number: NDArray[np.int32]
    inside: F32


def patches_across(px: int) -> int:
    """Return how many patches lie along a scene's side of `px` pixels (at least 2)."""
    return max(2, round(px / PATCH_PX))


def grow_patches(
    maker: FieldMaker, deck: NDArray[np.int64], elevation: F32, river: River
) -> Patches:
    """Grow patches from jittered seeds and give each the class that suits its place.

    Parameters
    ----------
    maker : FieldMaker
        Draws the seeds and the wobble of the borders.
    deck : int64 array, (patches,)
        Class codes to place; a square number of them.
    elevation : float32 array, (px, px)
        Metres.
    river : River
        Wetlands, towns and fields keep near it.

    Returns
    -------
    Patches
        Voronoi cells seen through a noise that bends their borders.
    """
    centres = _scatter(maker, round(len(deck) ** 0.5))
    covers = _fit_to_place(deck, centres, elevation, river, maker.rng)
    number, inside = _nearest(maker, centres, covers)
    # Rows and streets of neighbouring patches are often parallel: a country is surveyed in pieces.
    survey = maker.rng.uniform(0, np.pi, size=2)
    angles = survey[maker.rng.integers(2, size=len(deck))] + maker.rng.normal(0, 0.12, len(deck))
    scales = maker.rng.random(len(deck))
    return Patches(
        covers, centres, angles.astype(np.float32), scales.astype(np.float32), number, inside
    )


def _scatter(maker: FieldMaker, across: int) -> F32:
    """Return a jittered grid of seeds as (column, row), float32 (across², 2)."""
    step = maker.px / across
    grid = np.stack(np.meshgrid(np.arange(across), np.arange(across)), axis=-1).reshape(-1, 2)
    jitter = maker.rng.uniform(0.12, 0.88, size=grid.shape)
    return ((grid + jitter) * step).astype(np.float32)


def _fit_to_place(
    deck: NDArray[np.int64],
    centres: F32,
    elevation: F32,
    river: River,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Deal each class of the deck to the free seed whose height and river distance suit it best."""
    column, row = np.minimum(centres.astype(int), len(elevation) - 1).T
    height = elevation[row, column].argsort().argsort() / max(len(deck) - 1, 1)
    away = river.valley[row, column].argsort().argsort() / max(len(deck) - 1, 1)
    affinity = {
        Cover.WATER: -1.6 * height,
        Cover.WETLAND: -0.8 * height - 1.2 * away,
        Cover.BUILT_UP: -0.5 * height - 0.6 * away,
        Cover.CROPLAND: -0.7 * height,
        Cover.CONIFER: 1.3 * height,
        Cover.QUARRY: 1.6 * away,
        Cover.BARE: 0.7 * height,
    }
    covers = np.zeros(len(deck), dtype=np.int64)
    for code in sorted(deck, key=_PLACED_FIRST.index):
        suits = affinity.get(Cover(code), np.zeros(len(deck))) + rng.normal(0, 0.4, len(deck))
        covers[np.where(covers == 0, suits, -np.inf).argmax()] = code
    return covers


_PLACED_FIRST = [
    int(cover)
    for cover in (
        Cover.WATER,
        Cover.WETLAND,
        Cover.BUILT_UP,
        Cover.QUARRY,
        Cover.CONIFER,
        Cover.BARE,
        Cover.CROPLAND,
        Cover.ORCHARD,
        Cover.BROADLEAF,
        Cover.GRASSLAND,
    )
]


def _nearest(
    maker: FieldMaker, centres: F32, covers: NDArray[np.int64]
) -> tuple[NDArray[np.int32], F32]:
    """Return each pixel's nearest seed, and its distance to the border with another class."""
    y, x = np.mgrid[: maker.px, : maker.px].astype(np.float32)
    x = x + 17 * maker.smooth(75) + 2.2 * maker.band(17)
    y = y + 17 * maker.smooth(75) + 2.2 * maker.band(17)
    nearest = np.zeros(x.shape, dtype=np.int32)
    far = np.float32(2 * maker.px)
    first = np.full(x.shape, far)
    by_class = {code: first.copy() for code in covers}
    by_class.setdefault(0, first.copy())  # so that there is a second one in a scene of one class
    for index, ((column, row), code) in enumerate(zip(centres, covers, strict=True)):
        distance = np.hypot(x - column, y - row)
        nearest[distance < first] = index
        np.minimum(first, distance, out=first)
        np.minimum(by_class[code], distance, out=by_class[code])
    two = np.partition(np.stack(list(by_class.values())), 1, axis=0)
    return nearest, (two[1] - two[0]) / 2


def label_pixels(patches: Patches, river: River, roads: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the class of every pixel: patch, then river, then roads (mapped as built-up).

    Parameters
    ----------
    patches : Patches
        The patches' classes.
    river : River
        Water where it flows.
    roads : bool array, (px, px)
        True on a road.

    Returns
    -------
    uint8 array, (px, px)
        Class codes, 1 to 10.
    """
    labels = patches.covers[patches.number].astype(np.uint8)
    labels[np.abs(river.across) < 1] = Cover.WATER
    labels[roads] = Cover.BUILT_UP
    return labels
