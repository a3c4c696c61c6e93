"""For data without scenes: some test chips with their classes and the model's predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_prep.pictures.images import photo_uri
from data_prep.pictures.mosaic import THUMB_PX, chip_pictures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from data_prep.store import Store

#: Most right chips that are shown, and most wrong ones: two rows of each on a wide screen.
EACH = 12


@dataclass(frozen=True)
class Thumb:
    """One chip of the gallery."""

    uri: str
    reference: str
    predicted: str


@dataclass(frozen=True)
class Gallery:
    """Some right and some wrong test chips, and how many there are of each in all."""

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
    """Pick right and wrong chips, spread over the classes, and make their pictures.

    Parameters
    ----------
    store : Store
        Where the chips are.
    chips, labels, predicted : int64 [n]
        Test chips, their classes, and the predicted ones.
    classes : sequence of str
        Class names.
    """
    right = predicted == labels
    chosen_right, chosen_wrong = _spread(labels, right), _spread(labels, ~right)
    chosen = np.concatenate([chosen_right, chosen_wrong])
    thumbs = [
        Thumb(photo_uri(picture, THUMB_PX), classes[labels[i]], classes[predicted[i]])
        for picture, i in zip(chip_pictures(store, chips[chosen]), chosen.tolist(), strict=True)
    ]
    return Gallery(
        thumbs[: len(chosen_right)],
        thumbs[len(chosen_right) :],
        int(right.sum()),
        int((~right).sum()),
    )


def _spread(labels: NDArray[np.int64], eligible: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Choose from each class in turn until there are enough; return their positions."""
    positions = np.flatnonzero(eligible)
    classes = labels[positions]
    rank_in_class = np.zeros(len(positions), np.int64)
    for label in np.unique(classes):
        members = np.flatnonzero(classes == label)
        rank_in_class[members] = np.arange(len(members))
    return positions[np.lexsort((classes, rank_in_class))[:EACH]]
