"""Pixels of several scenes that show the same ground, or ground within a patch of each other.

Scenes of two dates, or neighboring tiles, overlap: a patch of one would show the test pixels of the
other in training. Scenes without a CRS, or of CRSs that cannot be related, count as far apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from data_prep.common_frame import moved_boxes
from data_prep.crs import pixel_sides, transform_positions
from data_prep.schema import SceneMeta

#: Share of a pixel by which two grids may be shifted and still count as one.
ALIGNED = 1e-3
#: Share of its extent by which the envelope of a scene in another CRS may be too small.
ENVELOPE_MARGIN = 0.05


@dataclass(frozen=True, eq=False)
class Overlap:
    """Labeled pixels of one scene near or within another, and where they lie in its grid.

    ``rows`` and ``cols`` may lie outside the other scene by up to ``reach`` pixels.
    """

    image: int  #: number of the scene
    other: int  #: and of the other one
    pixels: NDArray[np.int64]  #: in the flattened scene [n]
    rows: NDArray[np.int64]  #: in the other scene [n]
    cols: NDArray[np.int64]
    reach: int  #: pixels of the other scene that count as too close, along rows and columns

    def near(self, grown: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Return the pixels that lie in a mask of the other scene, padded by the reach."""
        return self.pixels[grown[self.rows + self.reach, self.cols + self.reach]]

    def inside(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Mark the pixels that lie within the other scene, which has this shape."""
        rows, cols = self.rows, self.cols
        return (rows >= 0) & (cols >= 0) & (rows < shape[0]) & (cols < shape[1])


def find_overlaps(
    scenes: Sequence[SceneMeta], labeled: Sequence[NDArray[np.bool_]], buffer_px: int
) -> list[Overlap]:
    """Find the labeled pixels of each scene that come within the buffer of another scene.

    Parameters
    ----------
    scenes
        The scenes; those with a CRS are north-up.
    labeled : bool [H, W] each
        Pixels that are samples.
    buffer_px
        Distance that counts as too close, in the larger pixels of the two scenes.
    """
    return [
        overlap
        for first, second in _candidates(scenes, buffer_px)
        if (overlap := _overlap(scenes, labeled[first], first, second, buffer_px)) is not None
    ]


def _candidates(scenes: Sequence[SceneMeta], buffer_px: int) -> Iterator[tuple[int, int]]:
    """Yield ordered pairs of scenes whose bounds come close, also those that cannot be compared."""
    placed = [number for number, scene in enumerate(scenes) if scene.crs]
    boxes = np.array([_bounds(scenes[number]) for number in placed]).reshape(-1, 4)
    texts = {scenes[number].crs for number in placed}
    crs_of = {text: CRS.from_user_input(text) for text in texts}
    of_text = np.array([scenes[number].crs for number in placed], dtype=object)
    for first, number in enumerate(placed):
        own = boxes[first : first + 1]
        for text in sorted(texts):
            members = np.flatnonzero(of_text == text)
            box = own[0]
            if text != scenes[number].crs:
                box = moved_boxes(own, crs_of[scenes[number].crs], crs_of[text])[0]
                box = box + ENVELOPE_MARGIN * np.ptp(box[[0, 2]]) * np.array([-1, -1, 1, 1])
            for second in members[members != first].tolist():
                other = boxes[second]
                reach = buffer_px * max(_pixel(scenes[number]), _pixel(scenes[placed[second]]))
                reach = 2 * reach if text == scenes[number].crs else math.inf
                if not np.isfinite(box).all() or _meet(box, other, reach):
                    yield number, placed[second]


def _bounds(scene: SceneMeta) -> tuple[float, float, float, float]:
    a, _, c, _, e, f = scene.transform
    return c, f + e * scene.height, c + a * scene.width, f


def _pixel(scene: SceneMeta) -> float:
    """Return the longer side of a scene's pixels, in units of its CRS."""
    return max(map(abs, scene.transform[::4]))


def _sides(scene: SceneMeta, crs: CRS) -> NDArray[np.float64]:
    """Return the sides of a scene's pixels, in meters, at its corners and center: [2, 5]."""
    cols, rows = (np.array([0.0, 0.0, 0.5, 1.0, 1.0]), np.array([0.0, 1.0, 0.5, 0.0, 1.0]))
    return pixel_sides(crs, Affine(*scene.transform), scene.width * cols, scene.height * rows)


def _meet(box: NDArray[np.float64], other: NDArray[np.float64], reach: float) -> bool:
    if not math.isfinite(reach):  # in another CRS: of the other scene's own size
        reach = float(np.max(other[2:] - other[:2]))
    left, bottom, right, top = box
    return bool(
        left < other[2] + reach
        and right > other[0] - reach
        and bottom < other[3] + reach
        and top > other[1] - reach
    )


def _overlap(
    scenes: Sequence[SceneMeta],
    labeled: NDArray[np.bool_],
    first: int,
    second: int,
    buffer_px: int,
) -> Overlap | None:
    ours, theirs = scenes[first], scenes[second]
    source, target = CRS.from_user_input(ours.crs), CRS.from_user_input(theirs.crs)
    pixels = np.flatnonzero(labeled)
    rows, cols = np.divmod(pixels, labeled.shape[1])
    a, _, c, _, e, f = ours.transform
    centers = np.stack([c + a * (cols + 0.5), f + e * (rows + 0.5)])
    x, y = transform_positions(source, target, centers)
    a, _, c, _, e, f = theirs.transform
    with np.errstate(invalid="ignore"):  # of places that do not exist there
        col, row = (x - c) / a - 0.5, (y - f) / e - 0.5
        known = np.isfinite(col) & np.isfinite(row)
        whole = np.abs(col - np.round(col)).max(initial=0, where=known) < ALIGNED
        whole &= np.abs(row - np.round(row)).max(initial=0, where=known) < ALIGNED
    if source == target:
        terms = zip(ours.transform[::4], theirs.transform[::4], strict=True)
        size = max(abs(own / other) for own, other in terms)
    else:
        size = _sides(ours, source).max() / _sides(theirs, target).min()
    if source == target and whole and abs(size - 1) < ALIGNED:
        reach = buffer_px
    else:
        # squares of another CRS lie askew, and centers between those of the other scene's pixels
        askew = 1.0 if source == target else math.sqrt(2)
        reach = math.ceil(buffer_px * max(1.0, size) * askew) + 1
    near = known & (col > -0.5 - reach) & (col < theirs.width - 0.5 + reach)
    near &= (row > -0.5 - reach) & (row < theirs.height - 0.5 + reach)
    if not near.any():
        return None
    low = -reach
    at_row = np.round(row[near]).astype(np.int64).clip(low, theirs.height - 1 + reach)
    at_col = np.round(col[near]).astype(np.int64).clip(low, theirs.width - 1 + reach)
    return Overlap(first, second, pixels[near], at_row, at_col, reach)
