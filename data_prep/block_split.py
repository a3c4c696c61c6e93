"""Splits of chips by spatial block, with a buffer between the splits.

A random split of chips puts neighbors on both sides and inflates accuracy. Here the ground is cut
into square blocks; whole blocks become test (and validation) ground, and chips that overlap or
come within the buffer of another split's chips are set aside as ``buffer``.

Scenes that share a CRS lie in one plane, so overlapping scenes (two dates, neighboring tiles) are
kept apart too. Scenes of different CRSs that show the same ground are brought into one plane
beforehand (:mod:`data_prep.common_frame`); scenes without a CRS are planes of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from data_prep.footprints import Footprints
from data_prep.splits import (
    BUFFER,
    TEST,
    TRAIN,
    VAL,
    SplitCodes,
    check_shares,
    class_cost,
    count_cells,
    search_assignments,
)

#: Sides tried for a block, in chips. Large blocks lose less ground to the buffer, small ones come
#: closer to the shares; which of the two counts more depends on the archive.
BLOCK_CHIPS = (8, 6, 5, 4, 3, 2)
#: Blocks that every group must have at a side that is tried: with fewer, a fifth is out of reach.
BLOCKS_PER_GROUP = 6
#: Most close pairs that are kept (16 bytes each, so 128 MiB).
MOST_PAIRS = 2**23
#: Chips that an estimate or a first bound is taken from.
SAMPLE = 256

#: Indices of chips and of chips close to them, both int64 [k].
Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class BlockSplit:
    """Split codes and block ids [n] of chips, and a block's side."""

    codes: SplitCodes
    blocks: NDArray[np.int64]
    block_px: int


def split_blocks(
    ground: Footprints,
    labels: NDArray[np.int64],
    groups: NDArray[Any],
    hashes: NDArray[Any],
    *,
    chip_px: int,
    buffer_px: int,
    block_px: int | None = None,
    test_share: float = 0.2,
    val_share: float = 0.0,
    seed: int = 0,
) -> BlockSplit:
    """Split chips by blocks, stratified by class as far as blocks allow.

    Of many random assignments of blocks, over several sides of the blocks, the one is kept whose
    splits come closest to the requested shares of every class and lose least to the buffer.

    Parameters
    ----------
    ground
        Where the n chips lie.
    labels : int64 [n]
        Classes, for the stratification.
    groups : [n]
        Each group has its share of every split (the archive's folders).
    hashes : texts [n]
        Chips of equal content end in one split; copies in other splits go to the buffer.
    chip_px, buffer_px
        Side of a chip; least gap between chips of different splits. 0 forbids overlap only.
    block_px
        Side of a block; None tries several.
    """
    check_shares(test_share, val_share)
    shares = (test_share, val_share)
    group_of = np.unique(groups.astype(str), return_inverse=True)[1]
    content_of = np.unique(hashes.astype(str), return_inverse=True)[1]
    pairs = close_pairs(ground, buffer_px)
    candidates = (
        {block_px: block_ids(ground, block_px)}
        if block_px
        else _candidate_blocks(ground, group_of, chip_px)
    )
    best: tuple[float, BlockSplit] | None = None
    for side_px, blocks in candidates.items():
        for block_codes in search_assignments(blocks, labels, group_of, shares, seed):
            codes = set_buffer(ground, block_codes[blocks], buffer_px, pairs)
            codes = separate_duplicates(codes, content_of, labels, shares)
            cost = _cost(codes, labels, group_of, shares)
            if best is None or cost < best[0]:
                best = (cost, BlockSplit(codes, blocks, side_px))
    assert best is not None
    return best[1]


def _candidate_blocks(
    ground: Footprints, group_of: NDArray[np.int64], chip_px: int
) -> dict[int, NDArray[np.int64]]:
    """Return block ids [n] by the side of a block in pixels, for the sides worth trying."""
    candidates = {}
    for chips in BLOCK_CHIPS:
        blocks = block_ids(ground, chips * chip_px)
        first = np.unique(blocks, return_index=True)[1]
        if np.bincount(group_of[first], minlength=group_of.max() + 1).min() >= BLOCKS_PER_GROUP:
            candidates[chips * chip_px] = blocks
    if not candidates:
        # So few chips that no side will do: pairs of chips lose less to the buffer than single
        # ones, as long as a handful of pairs remains.
        side_px = min(2, max(1, len(ground) // 8)) * chip_px
        candidates[side_px] = block_ids(ground, side_px)
    return candidates


def block_ids(ground: Footprints, block_px: int) -> NDArray[np.int64]:
    """Return the block of each chip's center: numbers from 0 in a fixed order, int64 [n]."""
    ids = np.zeros((len(ground), 3), np.int64)
    ids[:, 0] = ground.plane
    centers = ground.centers()
    for plane in np.unique(ground.plane):
        members = ground.plane == plane
        side = block_px * float(np.median(ground.pixel[members]))
        left, top = ground.boxes[members, 0].min(), ground.boxes[members, 3].max()
        ids[members, 1] = np.floor((top - centers[members, 1]) / side)
        ids[members, 2] = np.floor((centers[members, 0] - left) / side)
    # one number in the order of plane, row, column: np.unique over several columns is slow
    spans = ids.max(axis=0) + 1
    number = (ids[:, 0] * spans[1] + ids[:, 1]) * spans[2] + ids[:, 2]
    blocks: NDArray[np.int64] = np.unique(number, return_inverse=True)[1].reshape(-1)
    return blocks


def set_buffer(
    ground: Footprints, codes: SplitCodes, buffer_px: int, pairs: Pairs | None = None
) -> SplitCodes:
    """Set aside chips that come too close to another split's: train yields to all, val to test.

    The held-out splits keep their chips because they are the smaller ones. ``pairs`` are those of
    :func:`close_pairs`, where the same chips are split many times; None searches again.
    """
    out = codes.copy()
    # val first: chips that it loses to test no longer push train chips aside
    for code, rival_codes in ((VAL, (TEST,)), (TRAIN, (TEST, VAL))):
        rival = np.isin(out, rival_codes)
        if pairs is not None:
            chip, neighbor = pairs
            out[chip[(out[chip] == code) & rival[neighbor]]] = BUFFER
        else:
            own = np.flatnonzero(out == code)
            trees = _buffer_trees(ground, np.flatnonzero(rival), buffer_px)
            out[own[_query(ground, own, trees)[0]]] = BUFFER
    return out


def close_pairs(ground: Footprints, buffer_px: int) -> Pairs | None:
    """Find all pairs of chips with a gap under the buffer.

    Returns None where there would be more than :data:`MOST_PAIRS`, because strides are far below
    the side of a chip: then a search per split takes less memory and time.
    """
    chips = np.arange(len(ground))
    trees = _buffer_trees(ground, chips, buffer_px)
    sample = chips[:: max(1, len(ground) // SAMPLE)]
    if len(_query(ground, sample, trees)[0]) * len(ground) > MOST_PAIRS * len(sample):
        return None
    return _query(ground, chips, trees)


#: Of each plane: its number, positions of its chips, and a tree of their boxes plus the buffer.
_Trees = list[tuple[int, NDArray[np.int64], shapely.STRtree]]


def _buffer_trees(ground: Footprints, chips: NDArray[np.int64], buffer_px: int) -> _Trees:
    """Index the buffered boxes of some chips, plane by plane."""
    trees: _Trees = []
    for plane in np.unique(ground.plane[chips]).tolist():
        members = np.flatnonzero(ground.plane[chips] == plane)
        # a thousandth of a pixel less: gaps equal to the buffer, and edges that touch, are allowed
        reach = (buffer_px - 1e-3) * ground.pixel[chips[members]]
        boxes = ground.boxes[chips[members]] + reach[:, None] * np.array([-1, -1, 1, 1])
        trees.append((plane, members, shapely.STRtree(shapely.box(*boxes.T))))
    return trees


def _query(ground: Footprints, chips: NDArray[np.int64], trees: _Trees) -> Pairs:
    """Find pairs of one of ``chips`` and an indexed chip with a gap under the buffer: positions."""
    pairs = [np.zeros((2, 0), np.int64)]
    for plane, indexed, tree in trees:
        members = np.flatnonzero(ground.plane[chips] == plane)
        # no predicate: the tree compares envelopes, and a box is its own envelope
        query, hit = tree.query(ground.polygons[chips[members]])
        pairs.append(np.stack([members[query], indexed[hit]]))
    first, second = np.concatenate(pairs, axis=1)
    return first, second


def separate_duplicates(
    codes: SplitCodes,
    content_of: NDArray[np.int64],
    labels: NDArray[np.int64],
    shares: tuple[float, float],
) -> SplitCodes:
    """Keep the copies of a chip in one split, and set those in other splits aside.

    Test counts before val before train. But where most copies are in another split, as of open
    water that is one value throughout, that one counts, unless test or val still lack their share
    of the copies' classes; and a class is trained on before it is tested.

    Parameters
    ----------
    codes : int8 [n]
        Splits of the chips; those in the buffer do not count.
    content_of, labels : int64 [n]
        The same number for chips of the same content, from 0 without gaps; classes.
    shares
        Of test and val.
    """
    used = codes != BUFFER
    copies = count_cells((content_of[used], codes[used]), (int(content_of.max()) + 1, BUFFER))
    # the codes rise from train to test, so the greatest one is the split that counts
    split_of = np.where(copies > 0, np.arange(BUFFER), -1).max(axis=1)
    outnumbered = copies[np.arange(len(copies)), split_of] < copies.max(axis=1)
    outnumbered &= split_of >= 0
    if outnumbered.any():
        kept = used & ~outnumbered[content_of] & (codes == split_of[content_of])
        classes = int(labels.max()) + 1
        totals = count_cells((labels[kept], codes[kept]), (classes, BUFFER))
        chips = np.flatnonzero(used & outnumbered[content_of])
        chips = chips[np.argsort(content_of[chips], kind="stable")]
        contents, starts = np.unique(content_of[chips], return_index=True)
        groups = np.split(chips, starts[1:])
        # contents of many copies first: the others can make up for them
        for i in sorted(range(len(groups)), key=lambda i: (-len(groups[i]), int(groups[i][0]))):
            group = groups[i]
            of_group = count_cells((labels[group], codes[group]), (classes, BUFFER))
            split = _split_of_copies(of_group, totals, shares)
            totals[:, split] += of_group[:, split]
            split_of[contents[i]] = split
    out = codes.copy()
    out[used & (codes != split_of[content_of])] = BUFFER
    return out


def _split_of_copies(
    copies: NDArray[np.float64], totals: NDArray[np.float64], shares: tuple[float, float]
) -> int:
    """Choose the split of equal chips: ``copies`` and ``totals`` so far are [classes, splits]."""
    trained = copies[:, TRAIN] > 0
    if (totals[trained, TRAIN] == 0).any():
        return TRAIN
    of_classes = totals[copies.sum(axis=1) > 0]
    for split, share in ((TEST, shares[0]), (VAL, shares[1])):
        if copies[:, split].any() and of_classes[:, split].sum() < share * of_classes.sum():
            return split
    return int(copies.sum(axis=0).argmax())


def equal_chip_notes(codes: SplitCodes, content_of: NDArray[np.int64]) -> list[str]:
    """Note how many chips are in the buffer although a chip of equal content is in a split."""
    in_split = np.zeros(int(content_of.max()) + 1, np.bool_)
    in_split[content_of[codes != BUFFER]] = True
    count = int(((codes == BUFFER) & in_split[content_of]).sum())
    if not count:
        return []
    return [f"{count} chips in the buffer equal chips of a split: equal chips stay in one split"]


def _cost(
    codes: SplitCodes,
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    shares: tuple[float, float],
) -> float:
    """Add the share lost to the buffer, the class cost over all, and the mean one of the groups."""
    shape = (int(groups.max()) + 1, 4, int(labels.max()) + 1)
    counts = count_cells((groups, codes, labels), shape)
    group_costs = [class_cost(c[:BUFFER], c.sum(axis=0), shares) for c in counts]
    total = counts.sum(axis=0)
    lost = float((codes == BUFFER).mean())
    cost = class_cost(total[:BUFFER], total.sum(axis=0), shares)
    return lost + cost + float(np.mean(group_costs))


def least_distance(ground: Footprints, codes: SplitCodes) -> tuple[float, float] | None:
    """Return the least gap of train and test in one plane: (pixels, plane units), or None."""
    best: tuple[float, float] | None = None
    for plane in np.unique(ground.plane):
        members = ground.plane == plane
        train = np.flatnonzero(members & (codes == TRAIN))
        test = np.flatnonzero(members & (codes == TEST))
        if not len(train) or not len(test):
            continue
        gap = _least_gap(ground.polygons[train], ground.polygons[test])
        distance = (gap / float(np.median(ground.pixel[members])), gap)
        best = distance if best is None or distance < best else best
    return best


def _least_gap(polygons: NDArray[Any], others: NDArray[Any]) -> float:
    """Return the least gap between a polygon and another one."""
    tree = shapely.STRtree(polygons)
    least = np.inf
    # a few polygons first: their least gap bounds the search of all, which is much faster for it
    for queries in (others[:: max(1, len(others) // SAMPLE)], others):
        _, gaps = tree.query_nearest(
            queries,
            max_distance=None if least == np.inf else least,
            return_distance=True,
            all_matches=False,
        )
        least = min(least, float(gaps.min(initial=np.inf)))
        if least == 0:
            break
    return least
