from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import data_prep.block_split
from data_prep.block_split import (
    block_ids,
    close_pairs,
    least_distance,
    separate_duplicates,
    set_buffer,
    split_blocks,
)
from data_prep.footprints import Footprints
from data_prep.splits import BUFFER, TEST, TRAIN, VAL


def lattice(
    rows: int, cols: int, stride: int, chip: int, pixel: float, shift: float = 0.0
) -> np.ndarray:
    r, c = np.mgrid[:rows, :cols].reshape(2, -1)
    left, top = shift + c * stride * pixel, -r * stride * pixel
    return np.stack([left, top - chip * pixel, left + chip * pixel, top], axis=1)


def gaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Chebyshev gap of every pair of boxes; negative where they overlap."""
    across = np.maximum(a[:, None, 0] - b[None, :, 2], b[None, :, 0] - a[:, None, 2])
    along = np.maximum(a[:, None, 1] - b[None, :, 3], b[None, :, 1] - a[:, None, 3])
    return np.maximum(across, along)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(6, 14),
    cols=st.integers(6, 14),
    stride=st.integers(2, 5),
    buffer=st.integers(0, 9),
    val=st.sampled_from([0.0, 0.15]),
    shift=st.floats(0, 200),
    seed=st.integers(0, 9),
)
def test_splits_never_overlap_nor_come_within_the_buffer(
    rows: int, cols: int, stride: int, buffer: int, val: float, shift: float, seed: int
) -> None:
    # two overlapping scenes of one plane, chips of 4 px of 10 m
    boxes = np.concatenate([lattice(rows, cols, stride, 4, 10.0, s) for s in (0.0, shift)])
    n = len(boxes)
    ground = Footprints(np.zeros(n, np.int64), boxes, np.full(n, 10.0))
    labels = np.random.default_rng(seed).integers(0, 3, n)
    unique = np.arange(n).astype(str).astype(object)
    split = split_blocks(
        ground,
        labels,
        np.zeros(n),
        unique,
        chip_px=4,
        buffer_px=buffer,
        val_share=val,
        seed=seed,
    )
    codes = split.codes
    for one, other in ((TRAIN, TEST), (TRAIN, VAL), (VAL, TEST)):
        a, b = boxes[codes == one], boxes[codes == other]
        if len(a) and len(b):
            assert gaps(a, b).min() >= buffer * 10.0 - 0.05
    assert (codes == TEST).any()
    least = least_distance(ground, codes)
    if (codes == TRAIN).any():
        assert least is not None
        assert least[0] >= buffer - 0.05


@given(
    stride=st.integers(2, 5),
    buffer=st.integers(0, 9),
    planes=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_pairs_found_once_give_the_same_buffer(
    stride: int, buffer: int, planes: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([lattice(7, 9, stride, 4, 10.0, 3.0 * p) for p in range(planes)])
    ground = Footprints(np.repeat(np.arange(planes), 63), boxes, rng.uniform(9, 11, len(boxes)))
    codes = rng.integers(0, 4, len(boxes)).astype(np.int8)
    once = set_buffer(ground, codes, buffer, close_pairs(ground, buffer))
    assert once.tolist() == set_buffer(ground, codes, buffer).tolist()


@given(seed=st.integers(0, 999), count=st.integers(2, 1600), spread=st.floats(0.5, 50))
def test_the_least_distance_is_that_of_all_pairs(seed: int, count: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, spread * 10, (count, 2))
    boxes = np.concatenate([corner, corner + 1], axis=1)
    ground = Footprints(np.zeros(count, np.int64), boxes, np.full(count, 0.5))
    codes = np.where(np.arange(count) % 2 == 0, TEST, TRAIN).astype(np.int8)
    a, b = boxes[codes == TRAIN][:, None], boxes[codes == TEST][None]
    sides = np.maximum(np.maximum(a[..., :2] - b[..., 2:], b[..., :2] - a[..., 2:]), 0)
    gap = np.hypot(sides[..., 0], sides[..., 1]).min()
    assert least_distance(ground, codes) == pytest.approx((gap / 0.5, gap))


def test_too_many_pairs_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = lattice(12, 12, 1, 8, 1.0)
    ground = Footprints(np.zeros(144, np.int64), boxes, np.ones(144))
    assert close_pairs(ground, 4) is not None
    monkeypatch.setattr(data_prep.block_split, "MOST_PAIRS", 1000)
    assert close_pairs(ground, 4) is None


def test_no_buffer_and_touching_chips_lose_nothing() -> None:
    boxes = lattice(20, 20, 4, 4, 30.0)
    ground = Footprints(np.zeros(400, np.int64), boxes, np.full(400, 30.0))
    labels = np.arange(400) % 2
    hashes = np.arange(400).astype(str).astype(object)
    split = split_blocks(ground, labels, np.zeros(400), hashes, chip_px=4, buffer_px=0, block_px=16)
    counts = np.bincount(split.codes, minlength=4)
    assert counts[BUFFER] == 0
    assert counts[TEST] == pytest.approx(80, abs=8)
    assert least_distance(ground, split.codes) == (0.0, 0.0)


def test_every_group_gives_its_share() -> None:
    boxes = np.concatenate([lattice(16, 16, 4, 4, 1.0, 1000.0 * g) for g in range(3)])
    ground = Footprints(np.zeros(768, np.int64), boxes, np.ones(768))
    groups = np.repeat(["a", "b", "c"], 256)
    hashes = np.arange(768).astype(str).astype(object)
    split = split_blocks(ground, np.zeros(768, np.int64), groups, hashes, chip_px=4, buffer_px=2)
    for group in "abc":
        share = (split.codes[groups == group] == TEST).mean()
        assert 0.1 < share < 0.3


def test_blocks_of_different_planes_differ() -> None:
    boxes = lattice(4, 4, 4, 4, 1.0)
    ground = Footprints(np.repeat([0, 1], 16), np.concatenate([boxes, boxes]), np.ones(32))
    blocks = block_ids(ground, 8)
    assert not set(blocks[:16]) & set(blocks[16:])
    assert len(set(blocks[:16])) == 4


def separated(codes: list[int], hashes: str, labels: list[int] | None = None) -> list[int]:
    equal = np.unique(list(hashes), return_inverse=True)[1]
    of_class = np.zeros(len(codes), np.int64) if labels is None else np.array(labels)
    return separate_duplicates(np.array(codes, np.int8), equal, of_class, (0.2, 0.1)).tolist()


def test_equal_chips_stay_in_the_strictest_split() -> None:
    expected = [BUFFER, BUFFER, TEST, BUFFER, TRAIN, TRAIN]
    assert separated([TRAIN, VAL, TEST, BUFFER, TRAIN, TRAIN], "aaaabb") == expected


def test_equal_chips_that_are_most_of_a_class_are_trained_on() -> None:
    # four of five chips of water are in train; the ground of another class is not like it
    codes = [TRAIN] * 4 + [TEST] + [TRAIN, TEST]
    assert separated(codes, "aaaaabc", [1, 1, 1, 1, 1, 0, 0]) == [TRAIN] * 4 + [BUFFER, TRAIN, TEST]
    # once its class is trained on and test lacks its share, the next content is tested
    codes = [TRAIN] * 4 + [TEST] + [TRAIN] * 3 + [TEST]
    assert separated(codes, "aaaaabbbb") == [TRAIN] * 4 + [BUFFER] * 4 + [TEST]


@given(
    chips=st.lists(
        st.tuples(st.sampled_from([TRAIN, VAL, TEST, BUFFER]), st.sampled_from("abcdefg")),
        min_size=1,
        max_size=60,
    ),
    seed=st.integers(0, 9),
)
def test_equal_chips_are_never_on_two_sides(chips: list[tuple[int, str]], seed: int) -> None:
    codes, hashes = zip(*chips, strict=True)
    labels = np.random.default_rng(seed).integers(0, 2, len(codes))
    out = np.array(separated(list(codes), "".join(hashes), labels.tolist()))
    assert ((out == codes) | (out == BUFFER)).all()
    for content in set(hashes):
        members = np.array([h == content for h in hashes])
        assert len(set(out[members & (out != BUFFER)].tolist())) <= 1
        # no content is lost
        was_used = (np.array(codes)[members] != BUFFER).any()
        assert was_used == bool((out[members] != BUFFER).any())
