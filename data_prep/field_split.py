"""Splits of labeled pixels by whole fields, with a buffer of at least the patch radius.

A pixel's patch covers its neighbors, so a random split of pixels shows the network its test
pixels in training. Here a field (a connected region of one label) is kept in one split, and
pixels near another split's are set aside. Where scenes overlap, fields of one class that show the
same ground count as one, and distances are kept across the scenes, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.pixel_overlap import Overlap
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


def join_fields(images: Sequence[FieldImage], overlaps: Sequence[Overlap]) -> list[FieldImage]:
    """Give fields of one class that show the same ground in several scenes one number."""
    edges = [np.zeros((2, 0), np.int64)]
    for overlap in overlaps:
        ours, theirs = images[overlap.image], images[overlap.other]
        inside = overlap.inside(theirs.fields.shape)
        pixels, place = overlap.pixels[inside], (overlap.rows[inside], overlap.cols[inside])
        fields, labels = theirs.fields[place], theirs.labels[place]
        same = (fields >= 0) & (labels == ours.labels.reshape(-1)[pixels])
        pairs = np.stack([ours.fields.reshape(-1)[pixels[same]], fields[same]])
        edges.append(np.unique(pairs, axis=1))
    joined = np.concatenate(edges, axis=1)
    if not joined.size:
        return list(images)
    root = _components(joined, 1 + max(int(image.fields.max()) for image in images))
    return [
        FieldImage(image.labels, np.where(image.fields >= 0, root[image.fields], -1))
        for image in images
    ]


def split_fields(
    images: Sequence[FieldImage],
    overlaps: Sequence[Overlap] = (),
    *,
    buffer_px: int,
    test_share: float = 0.2,
    val_share: float = 0.0,
    seed: int = 0,
) -> list[SplitCodes]:
    """Split labeled pixels by whole fields, stratified per class.

    Of several random choices of fields, the one is kept that comes closest to the shares of every
    class and loses least to the buffer. A class with a single field is trained on and never
    tested. Pixels of different splits are farther apart than ``buffer_px``, along rows or columns,
    also those of several scenes.

    Parameters
    ----------
    images
        Labeled pixels of the scenes.
    overlaps
        Pixels that come close to another scene.
    buffer_px
        Distance that pixels of different splits exceed.
    test_share, val_share, seed
        Shares of each class, and the seed of the choice.

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
        by_field = field_codes[lookup]
        codes = [np.where(i.fields >= 0, by_field[i.fields], np.int8(-1)) for i in images]
        codes = set_pixel_buffer(codes, overlaps, buffer_px)
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


def set_pixel_buffer(
    codes: Sequence[SplitCodes], overlaps: Sequence[Overlap], buffer_px: int
) -> list[SplitCodes]:
    """Set aside pixels that come too close to another split's: train yields to all, val to test.

    ``codes`` are int8 [H, W] of each scene, -1 where a pixel has no label.
    """
    out = [image.copy() for image in codes]
    # val first: pixels that it loses to test no longer push train pixels aside
    for code, rival_codes in ((VAL, (TEST,)), (TRAIN, (TEST, VAL))):
        rivals = [np.isin(image, rival_codes) for image in out]
        # contiguous, so that the flattened form is the same memory
        close = [np.ascontiguousarray(dilate(rival, buffer_px)) for rival in rivals]
        for overlap in overlaps:
            reach = overlap.reach
            grown = dilate(np.pad(rivals[overlap.other], reach), reach)
            close[overlap.image].reshape(-1)[overlap.near(grown)] = True
        for image, too_close in zip(out, close, strict=True):
            image[(image == code) & too_close] = BUFFER
    return out


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


def least_distance_px(
    codes: Sequence[SplitCodes], overlaps: Sequence[Overlap] = ()
) -> float | None:
    """Return the least distance, up to :data:`REACH_PX`, of train and test on the longer axis.

    Those of an overlapping scene count in that scene's pixels, and as far as ``overlaps`` reach.
    """
    train = [image == TRAIN for image in codes]
    reached = [image == TEST for image in codes]
    # of each scene that others come close to, its test pixels with room around them
    across = []
    for overlap in overlaps:
        own = train[overlap.image].reshape(-1)[overlap.pixels]
        if own.any() and reached[overlap.other].any():
            place = overlap.rows[own] + overlap.reach, overlap.cols[own] + overlap.reach
            across.append((np.pad(reached[overlap.other], overlap.reach), place))
    pairs = [(t, r) for t, r in zip(train, reached, strict=True) if t.any() and r.any()]
    for distance in range(1, REACH_PX + 1 if pairs or across else 1):
        pairs = [(own, dilate(mask, 1)) for own, mask in pairs]
        across = [(dilate(mask, 1), place) for mask, place in across]
        if any((own & mask).any() for own, mask in pairs) or any(m[at].any() for m, at in across):
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
