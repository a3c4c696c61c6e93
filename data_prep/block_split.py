"""Splits of chips by spatial block, with a buffer between the splits.

A random split of chips puts neighbors on both sides and inflates accuracy. Here the ground is cut
in square blocks; whole blocks become test (and validation) ground, and chips that overlap or come
within the buffer of another split's chips are set aside as ``buffer``.

Scenes that share a CRS lie in one plane, so overlapping scenes (two dates, neighboring tiles) are
kept apart too. Scenes of different CRSs, and scenes without one, are planes of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from data_prep.split_search import SplitSearch, class_cost, count_cells
from data_prep.splits import BUFFER, TEST, TRAIN, VAL, SplitCodes, check_shares

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Sides tried for a block, in chips, and the blocks that each group must then have.
BLOCK_CHIPS = (8, 6, 5, 4, 3, 2)
BLOCKS_PER_GROUP = 6
#: Close pairs of chips are kept up to so many (16 bytes each), estimated from so many chips.
MOST_PAIRS = 2**23
PROBED = 256


Pairs = tuple["NDArray[np.int64]", "NDArray[np.int64]"]


@dataclass(frozen=True)
class Footprints:
    """Ground of n chips.

    Attributes
    ----------
    plane : int64 [n]
        Chips of different planes are taken to be far apart.
    boxes : float64 [n, 4]
        Left, bottom, right, top in the plane's units (CRS units, or pixels).
    pixel : float64 [n]
        Size of a pixel in those units.
    """

    plane: NDArray[np.int64]
    boxes: NDArray[np.float64]
    pixel: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.plane)

    @cached_property
    def shapes(self) -> NDArray[Any]:
        """The boxes as shapely polygons [n], made once."""
        shapes: NDArray[Any] = shapely.box(*self.boxes.T)
        return shapes

    def centers(self) -> NDArray[np.float64]:
        """Centers [n, 2]."""
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2


@dataclass(frozen=True)
class BlockSplit:
    """Outcome of :func:`split_blocks`: split codes and block ids per chip, and the block's side."""

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
    """Split chips by blocks, stratified as far as blocks allow.

    Many random assignments of blocks are drawn; the one is kept whose splits come closest to the
    wished shares of every class, and whose buffer costs least; over several sides of the blocks
    where that is left open.

    Parameters
    ----------
    ground
        Where the chips lie.
    labels : int64 [n]
        Classes, for the stratification.
    groups : [n]
        Chips that should each give their share of every split (the archive's folders).
    hashes : texts [n]
        Chips of equal content end in one split; the others' copies go to the buffer.
    chip_px, buffer_px
        Side of a chip; least gap between chips of different splits. 0 forbids overlap only.
    block_px
        Side of a block; None tries several.
    test_share, val_share, seed
        Shares of the chips, and the seed of the draws.
    """
    check_shares(test_share, val_share)
    best: tuple[float, BlockSplit] | None = None
    group_of = np.unique(groups.astype(str), return_inverse=True)[1]
    equal = np.unique(hashes.astype(str), return_inverse=True)[1]
    close = close_pairs(ground, buffer_px)
    if block_px:
        tried = {block_px: block_ids(ground, block_px)}
    else:
        tried = _blocks_by_side(ground, group_of, chip_px)
    for side_px, blocks in tried.items():
        draws = SplitSearch(blocks, labels, group_of, (test_share, val_share), seed)
        for assigned in draws.best():
            codes = set_buffer(ground, assigned[blocks], buffer_px, close)
            codes = separate_equal(codes, equal)
            cost = _cost(codes, labels, group_of, (test_share, val_share))
            if best is None or cost < best[0]:
                best = (cost, BlockSplit(codes, blocks, side_px))
    assert best is not None
    return best[1]


def _blocks_by_side(
    ground: Footprints, group_of: NDArray[np.int64], chip_px: int
) -> dict[int, NDArray[np.int64]]:
    """Find blocks of the sides worth trying: large lose less to the buffer, small mix better."""
    tried = {}
    for chips in BLOCK_CHIPS:
        blocks = block_ids(ground, chips * chip_px)
        first = np.unique(blocks, return_index=True)[1]
        if np.bincount(group_of[first], minlength=group_of.max() + 1).min() >= BLOCKS_PER_GROUP:
            tried[chips * chip_px] = blocks
    if not tried:
        # so few chips that no block is good: pairs lose less to the buffer than single chips
        side_px = min(2, max(1, len(ground) // 8)) * chip_px
        tried[side_px] = block_ids(ground, side_px)
    return tried


def block_ids(ground: Footprints, block_px: int) -> NDArray[np.int64]:
    """Find the block of each chip's center: numbers from 0 in a fixed order, int64 [n]."""
    ids = np.zeros((len(ground), 3), np.int64)
    ids[:, 0] = ground.plane
    centers = ground.centers()
    for plane in np.unique(ground.plane):
        here = ground.plane == plane
        side = block_px * float(np.median(ground.pixel[here]))
        left, top = ground.boxes[here, 0].min(), ground.boxes[here, 3].max()
        ids[here, 1] = np.floor((top - centers[here, 1]) / side)
        ids[here, 2] = np.floor((centers[here, 0] - left) / side)
    # one number in the order of plane, row, column: several columns are slow to sort
    spans = ids.max(axis=0) + 1
    number = (ids[:, 0] * spans[1] + ids[:, 1]) * spans[2] + ids[:, 2]
    blocks: NDArray[np.int64] = np.unique(number, return_inverse=True)[1].reshape(-1)
    return blocks


def set_buffer(
    ground: Footprints, codes: SplitCodes, buffer_px: int, close: Pairs | None = None
) -> SplitCodes:
    """Set aside chips that come too close to another split's: train yields to all, val to test.

    ``close`` is what :func:`close_pairs` gave, for many splits of the same chips.
    """
    out = codes.copy()
    for code, rivals in ((VAL, (TEST,)), (TRAIN, (TEST, VAL))):
        rival = np.isin(out, rivals)
        if close is not None:
            mine, other = close
            out[mine[(out[mine] == code) & rival[other]]] = BUFFER
        else:
            own = np.flatnonzero(out == code)
            trees = _reaching(ground, np.flatnonzero(rival), buffer_px)
            out[own[_close(ground, own, trees)[0]]] = BUFFER
    return out


def close_pairs(ground: Footprints, buffer_px: int) -> Pairs | None:
    """Find all pairs of chips with a gap under the buffer; None where they are very many.

    Returns
    -------
    tuple of int64 [k]
        Chips, and chips that are close to them. Chips of strides far below their side have so many
        that looking for them anew, split by split, takes less memory and time.
    """
    every = np.arange(len(ground))
    trees = _reaching(ground, every, buffer_px)
    probe = every[:: max(1, len(ground) // PROBED)]
    if len(_close(ground, probe, trees)[0]) * len(ground) > MOST_PAIRS * len(probe):
        return None
    return _close(ground, every, trees)


#: Of each plane: its number, places of its chips, and a tree of their boxes grown by the buffer.
Trees = list[tuple[int, "NDArray[np.int64]", shapely.STRtree]]


def _reaching(ground: Footprints, others: NDArray[np.int64], buffer_px: int) -> Trees:
    """Set up the search for chips that come within the buffer of some others."""
    trees: Trees = []
    for plane in np.unique(ground.plane[others]).tolist():
        there = np.flatnonzero(ground.plane[others] == plane)
        # a thousandth of a pixel less: gaps equal to the buffer, and edges that touch, are allowed
        reach = (buffer_px - 1e-3) * ground.pixel[others[there]]
        boxes = ground.boxes[others[there]] + reach[:, None] * np.array([-1, -1, 1, 1])
        trees.append((plane, there, shapely.STRtree(shapely.box(*boxes.T))))
    return trees


def _close(ground: Footprints, mine: NDArray[np.int64], trees: Trees) -> Pairs:
    """Pairs of one of ``mine`` and one of the others with a gap under the buffer: their places."""
    pairs = [np.zeros((2, 0), np.int64)]
    for plane, there, tree in trees:
        here = np.flatnonzero(ground.plane[mine] == plane)
        # boxes are their own envelopes: what the tree finds needs no closer look
        found = tree.query(ground.shapes[mine[here]])
        pairs.append(np.stack([here[found[0]], there[found[1]]]))
    first, second = np.concatenate(pairs, axis=1)
    return first, second


def separate_equal(codes: SplitCodes, equal: NDArray[np.int64]) -> SplitCodes:
    """Keep chips of equal content in one split: copies outside the strictest go to the buffer.

    Parameters
    ----------
    codes
        Splits.
    equal : int64 [n]
        The same number for chips of the same content, from 0 without gaps.
    """
    rank = np.where(codes == BUFFER, -1, codes)
    strictest = np.full(equal.max() + 1, -1, np.int8)
    np.maximum.at(strictest, equal, rank.astype(np.int8))
    out = codes.copy()
    out[(rank >= 0) & (rank < strictest[equal])] = BUFFER
    return out


def _cost(
    codes: SplitCodes,
    labels: NDArray[np.int64],
    groups: NDArray[np.int64],
    shares: tuple[float, float],
) -> float:
    """Add the share lost to the buffer and the class costs: over all, and mean of the groups."""
    shape = (int(groups.max()) + 1, 4, int(labels.max()) + 1)
    counts = count_cells((groups, codes, labels), shape)
    costs = [class_cost(c[:BUFFER], c.sum(axis=0), *shares) for c in counts]
    whole = counts.sum(axis=0)
    lost = float((codes == BUFFER).mean())
    return lost + class_cost(whole[:BUFFER], whole.sum(axis=0), *shares) + float(np.mean(costs))


def least_distance(ground: Footprints, codes: SplitCodes) -> tuple[float, float] | None:
    """Least gap between a train and a test chip of one plane: (pixels, plane units), or None."""
    best: tuple[float, float] | None = None
    for plane in np.unique(ground.plane):
        here = ground.plane == plane
        train = np.flatnonzero(here & (codes == TRAIN))
        test = np.flatnonzero(here & (codes == TEST))
        if not len(train) or not len(test):
            continue
        gap = _least_gap(ground.shapes[train], ground.shapes[test])
        found = (gap / float(np.median(ground.pixel[here])), gap)
        best = found if best is None or found < best else best
    return best


def _least_gap(shapes: NDArray[Any], others: NDArray[Any]) -> float:
    """Find the least gap between a shape and another one, from a bound that a few of them give."""
    tree = shapely.STRtree(shapes)
    least = np.inf
    for some in (others[:: max(1, len(others) // PROBED)], others):
        _, gaps = tree.query_nearest(
            some,
            max_distance=None if least == np.inf else least,
            return_distance=True,
            all_matches=False,
        )
        least = min(least, float(gaps.min(initial=np.inf)))
        if least == 0:
            break
    return least
