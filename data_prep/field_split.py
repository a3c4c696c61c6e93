"""Splits of labeled pixels by whole fields, with a buffer of at least the patch radius.

A pixel's patch covers its neighbors, so a random split of pixels shows the network its test
pixels in training. Here a field (a connected region of one label) is kept in one split, and
pixels near another split's are set aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.splits import BUFFER, TEST, TRAIN, VAL, SplitCodes, check_shares

#: Random choices of fields that are rated with their buffer, which dilates every scene twice: a
#: quarter of the trials that the search over blocks makes on counts alone.
TRIALS = 16
#: Random orders of a class's fields in one trial; the one that comes closest to the share is kept.
ORDERS = 8
#: Farthest distance that :func:`least_distance_px` looks for: patches are far smaller.
REACH_PX = 256


def connected_fields(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the 8-connected regions of equal label in an image, int64 [H, W].

    Fields are numbered from 0 in reading order; -1 stands where ``labels`` is negative.
    """
    height, width = labels.shape
    index = np.arange(height * width).reshape(height, width)
    neighbors = [
        (index[:, :-1], index[:, 1:]),
        (index[:-1], index[1:]),
        (index[:-1, :-1], index[1:, 1:]),
        (index[:-1, 1:], index[1:, :-1]),
    ]
    flat = labels.reshape(-1)
    edges = []
    for left, right in neighbors:
        same = (flat[left] == flat[right]) & (flat[left] >= 0)
        edges.append(np.stack([left[same], right[same]]))
    root = _components(np.concatenate(edges, axis=1), height * width)
    fields = np.full(height * width, -1, np.int64)
    inside = flat >= 0
    fields[inside] = np.unique(root[inside], return_inverse=True)[1]
    return fields.reshape(height, width)


def _components(edges: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the least member of each node's connected component, int64 [count].

    Hooking and pointer jumping (Shiloach and Vishkin 1982): roots of an edge's ends are joined,
    then every node jumps to its root. Each pass runs over whole arrays, and few passes are needed,
    so this is fast without SciPy, which nothing else here depends on.
    """
    root = np.arange(count)
    left, right = edges
    while len(left):
        low = np.minimum(root[left], root[right])
        high = np.maximum(root[left], root[right])
        np.minimum.at(root, high, low)
        while True:
            jumped = root[root]
            if np.array_equal(jumped, root):
                break
            root = jumped
        apart = root[left] != root[right]
        left, right = left[apart], right[apart]
    return root


@dataclass(frozen=True)
class FieldImage:
    """One scene's labeled pixels, int64 [H, W]; -1 stands for no label."""

    labels: NDArray[np.int64]  #: class indices
    fields: NDArray[np.int64]  #: field numbers, unique over all scenes


def split_fields(
    images: Sequence[FieldImage],
    *,
    buffer_px: int,
    test_share: float = 0.2,
    val_share: float = 0.0,
    seed: int = 0,
) -> list[SplitCodes]:
    """Split labeled pixels by whole fields, stratified per class.

    Of several random choices of fields, the one is kept that comes closest to the shares of every
    class and loses least to the buffer. A class with a single field is trained on and never
    tested. Pixels of different splits are farther apart than ``buffer_px``, along rows or columns.

    Returns
    -------
    list of int8 [H, W]
        Codes per image; -1 where a pixel has no label.
    """
    check_shares(test_share, val_share)
    labels = np.concatenate([image.labels[image.fields >= 0] for image in images])
    fields = np.concatenate([image.fields[image.fields >= 0] for image in images])
    ids, first, sizes = np.unique(fields, return_index=True, return_counts=True)
    lookup = np.zeros(int(ids.max()) + 1, np.int64)
    lookup[ids] = np.arange(len(ids))
    rng = np.random.default_rng(seed)
    best: tuple[float, list[SplitCodes]] | None = None
    for _ in range(TRIALS):
        field_codes = _assign_fields(labels[first], sizes, test_share, val_share, rng)
        codes = [_set_buffer(image, field_codes[lookup], buffer_px) for image in images]
        inside = np.concatenate([c[i.fields >= 0] for c, i in zip(codes, images, strict=True)])
        cost = _cost(inside, labels, test_share, val_share)
        if best is None or cost < best[0]:
            best = (cost, codes)
    assert best is not None
    return best[1]


def _assign_fields(
    classes: NDArray[np.int64],
    sizes: NDArray[np.int64],
    test_share: float,
    val_share: float,
    rng: np.random.Generator,
) -> SplitCodes:
    """Give each field a split: per class, random fields whose pixels come close to the shares."""
    codes = np.full(len(sizes), TRAIN, np.int8)
    for label in np.unique(classes):
        fields = np.flatnonzero(classes == label)
        total = int(sizes[fields].sum())
        for code, share in ((TEST, test_share), (VAL, val_share)):
            target = share * total
            draws = [_take_fields(sizes, rng.permutation(fields), target) for _ in range(ORDERS)]
            chosen = min(draws, key=lambda draw: abs(sizes[draw].sum() - target))
            codes[chosen] = code
            fields = np.setdiff1d(fields, chosen)
    return codes


def _take_fields(
    sizes: NDArray[np.int64], order: NDArray[np.int64], target: float
) -> NDArray[np.int64]:
    """Take each field of an order that brings the number of pixels nearer to a target.

    At least one is taken if there are several, and never all.
    """
    if target == 0 or len(order) < 2:
        return order[:0]
    taken: list[int] = []
    filled = 0
    for field in order.tolist():
        nearer = abs(filled + sizes[field] - target) < abs(filled - target)
        if nearer and len(taken) < len(order) - 1:
            taken.append(field)
            filled += int(sizes[field])
    return np.array(taken or [order[np.argmin(sizes[order])]], np.int64)


def _set_buffer(image: FieldImage, codes_by_field: SplitCodes, buffer_px: int) -> SplitCodes:
    """Give pixels the splits of their fields; those too close to another split's go to none."""
    codes = np.full(image.fields.shape, -1, np.int8)
    labeled = image.fields >= 0
    codes[labeled] = codes_by_field[image.fields[labeled]]
    # val first: pixels that it loses to test no longer push train pixels aside
    codes[(codes == VAL) & dilate(codes == TEST, buffer_px)] = BUFFER
    held_out = (codes == TEST) | (codes == VAL)
    codes[(codes == TRAIN) & dilate(held_out, buffer_px)] = BUFFER
    return codes


def dilate(mask: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """Mark everything within ``radius`` pixels of a mask, along rows and columns (a square)."""
    # one axis, then the other; a window has a set pixel if its cumulative sum rises, so the cost
    # does not depend on the radius
    for _ in range(2):
        length = mask.shape[0]
        total = np.zeros((length + 1, mask.shape[1]), np.int64)
        np.cumsum(mask, axis=0, out=total[1:])
        low = np.maximum(np.arange(length) - radius, 0)
        high = np.minimum(np.arange(length) + radius + 1, length)
        mask = (total[high] > total[low]).T
    return mask


def least_distance_px(codes: Sequence[SplitCodes]) -> float | None:
    """Return the least distance, up to :data:`REACH_PX`, of train and test on the longer axis."""
    masks = [(image == TRAIN, image == TEST) for image in codes]
    masks = [(train, test) for train, test in masks if train.any() and test.any()]
    for distance in range(1, REACH_PX + 1):
        masks = [(train, dilate(reached, 1)) for train, reached in masks]
        if any((train & reached).any() for train, reached in masks):
            return float(distance)
    return None


def _cost(
    codes: SplitCodes, labels: NDArray[np.int64], test_share: float, val_share: float
) -> float:
    """Rate a split: pixels lost to the buffer, distance from the shares, classes not trained on."""
    width = int(labels.max()) + 1
    total = np.maximum(np.bincount(labels, minlength=width), 1)
    cost = float((codes == BUFFER).mean())
    for code, share in ((TEST, test_share), (VAL, val_share)):
        inside = np.bincount(labels[codes == code], minlength=width)
        cost += float(np.abs(inside / total - share).mean())
    train = np.bincount(labels[codes == TRAIN], minlength=width)
    return cost + float((train == 0).mean())
