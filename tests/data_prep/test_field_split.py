from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_prep.field_split import (
    FieldImage,
    connected_fields,
    dilate,
    least_distance_px,
    split_fields,
)
from data_prep.splits import BUFFER, TEST, TRAIN, VAL

IMAGES = arrays(
    np.int64, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(-1, 2)
)


def flood(labels: np.ndarray) -> np.ndarray:
    """Connected regions the slow way."""
    out = np.full(labels.shape, -1)
    count = 0
    for start in np.ndindex(labels.shape):
        if labels[start] < 0 or out[start] >= 0:
            continue
        todo = [start]
        out[start] = count
        while todo:
            r, c = todo.pop()
            for n in [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                inside = 0 <= n[0] < labels.shape[0] and 0 <= n[1] < labels.shape[1]
                if inside and labels[n] == labels[start] and out[n] < 0:
                    out[n] = count
                    todo.append(n)
        count += 1
    return out


@given(IMAGES)
def test_fields_are_the_connected_regions(labels: np.ndarray) -> None:
    np.testing.assert_array_equal(connected_fields(labels), flood(labels))


@given(mask=arrays(np.bool_, (9, 11)), radius=st.integers(0, 5))
def test_dilation_marks_a_square_round_each_pixel(mask: np.ndarray, radius: int) -> None:
    expected = np.zeros_like(mask)
    for r, c in np.argwhere(mask):
        expected[max(r - radius, 0) : r + radius + 1, max(c - radius, 0) : c + radius + 1] = True
    np.testing.assert_array_equal(dilate(mask, radius), expected)


@settings(max_examples=30, deadline=None)
@given(
    coarse=arrays(np.int64, (6, 6), elements=st.integers(-1, 2)).filter(lambda a: (a >= 0).any()),
    buffer=st.integers(0, 4),
    val=st.sampled_from([0.0, 0.2]),
    seed=st.integers(0, 5),
)
def test_splits_keep_fields_whole_and_farther_apart_than_the_buffer(
    coarse: np.ndarray, buffer: int, val: float, seed: int
) -> None:
    labels = np.kron(coarse, np.ones((5, 5), np.int64))
    image = FieldImage(labels, connected_fields(labels))
    (codes,) = split_fields([image], buffer_px=buffer, val_share=val, seed=seed)
    assert ((codes >= 0) == (labels >= 0)).all()
    for field in range(image.fields.max() + 1):
        assert len(set(codes[image.fields == field].tolist()) - {BUFFER}) <= 1
    for one, other in ((TRAIN, TEST), (TRAIN, VAL), (VAL, TEST)):
        assert not ((codes == one) & dilate(codes == other, buffer)).any()
    least = least_distance_px([codes])
    assert least is None or least > buffer


def test_each_class_with_several_fields_is_tested() -> None:
    labels = np.full((40, 80), -1)
    for r in range(4):
        for c in range(8):
            labels[r * 10 : r * 10 + 7, c * 10 : c * 10 + 7] = (r + c) % 2
    image = FieldImage(labels, connected_fields(labels))
    (codes,) = split_fields([image], buffer_px=1)
    for label in (0, 1):
        tested = (codes[labels == label] == TEST).mean()
        assert 0.15 < tested < 0.25
    assert not (codes == BUFFER).any()
