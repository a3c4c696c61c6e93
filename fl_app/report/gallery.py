"""For data without scenes: some test chips with what they are and what the model says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fl_app.report.raster import photo_uri, stretch
from fl_app.report.scene_cells import picture_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from data_prep.store import Store

EACH = 12
"""Right chips shown, and wrong ones."""

THUMB_PX = 96


@dataclass(frozen=True)
class Thumb:
    """One chip of the gallery."""

    uri: str
    reference: str
    predicted: str


@dataclass(frozen=True)
class Gallery:
    """Right and wrong test chips, and how many there are of each in truth."""

    right: list[Thumb]
    wrong: list[Thumb]
    num_right: int
    num_wrong: int


def draw_gallery(
    store: Store,
    chips: NDArray[np.int64],
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    classes: Sequence[str],
) -> Gallery:
    """Pick up to twelve right and twelve wrong chips, spread over the classes, and show them.

    Parameters
    ----------
    store : Store
        Where the chips are.
    chips, labels, predicted : int64[n]
        Test chips, their classes, and what the model takes them for.
    classes : sequence of str
        Class names.
    """
    right = predicted == labels
    chosen = [_spread(labels, right), _spread(labels, ~right)]
    places = np.concatenate(chosen)
    pictures = _pictures(store, chips[places])
    thumbs = [
        Thumb(photo_uri(picture, THUMB_PX), classes[labels[at]], classes[predicted[at]])
        for picture, at in zip(pictures, places.tolist(), strict=True)
    ]
    split = len(chosen[0])
    return Gallery(thumbs[:split], thumbs[split:], int(right.sum()), int((~right).sum()))


def _spread(labels: NDArray[np.int64], among: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Take one chip of each class in turn until there are enough."""
    places = np.flatnonzero(among)
    if not len(places):
        return places
    turns = np.zeros(len(places), dtype=np.int64)
    for label in np.unique(labels[places]):
        same = np.flatnonzero(labels[places] == label)
        turns[same] = np.arange(len(same))
    order = np.lexsort((labels[places], turns))[:EACH]
    picked: NDArray[np.int64] = places[order]
    return picked


def _pictures(store: Store, chips: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Chips as uint8[n, H, W, 4]; 8-bit imagery as it is, anything else stretched together."""
    first, bands, nodata = picture_of(store)
    pixels = store.take(chips)[first][:, bands].transpose(0, 2, 3, 1)
    if pixels.dtype == np.uint8:
        opaque = np.full((*pixels.shape[:-1], 1), 255, dtype=np.uint8)
        return np.concatenate([pixels, opaque], axis=-1)
    values = pixels.astype(np.float32)
    if nodata is not None:
        values[(values == nodata).any(axis=-1)] = np.nan
    return stretch(values)
