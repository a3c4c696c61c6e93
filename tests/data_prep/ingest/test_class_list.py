from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from data_prep.ingest.archive import open_archive
from data_prep.ingest.chips import majority_codes
from data_prep.ingest.class_list import distinct, given_classes, named_classes, raster_classes
from rsdgc.errors import DataError


@given(arrays(np.int64, st.integers(0, 30), elements=st.integers(-5, 9) | st.just(10**6)))
def test_distinct_codes_are_those_of_unique(codes: np.ndarray) -> None:
    np.testing.assert_array_equal(distinct(codes), np.unique(codes))


@given(
    codes=arrays(np.int64, (4, 11), elements=st.integers(0, 3)),
    labeled=arrays(np.bool_, (4, 11)),
    stride=st.integers(1, 4),
)
def test_majorities_equal_those_of_plain_counting(
    codes: np.ndarray, labeled: np.ndarray, stride: int
) -> None:
    cols = np.arange(0, 8, stride)
    majority, share = majority_codes(codes, labeled, cols, 4)
    for i, col in enumerate(cols):
        inside = codes[:, col : col + 4][labeled[:, col : col + 4]]
        assert share[i] == inside.size / 16
        if inside.size:
            assert majority[i] == np.bincount(inside).argmax()


def test_an_open_list_takes_the_codes_that_occur(tmp_path: Path) -> None:
    classes = raster_classes(tmp_path / "labels.tif")
    assert classes.settle(np.array([7, 2, 7])) == ([2, 7], ["class 2", "class 7"])
    assert not classes.zero_is_unlabeled
    assert raster_classes(tmp_path / "labels.tif", pixels=True).zero_is_unlabeled


def test_names_of_polygons_are_numbered_and_codes_kept() -> None:
    assert named_classes(["wood", "field", "wood"]).names == {1: "field", 2: "wood"}
    assert named_classes([3, 7]).code_of(7, "x") == 7
    mixed = named_classes([3, "wood"])
    assert mixed.names == {1: "3", 2: "wood"}


def test_lists_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    archive = open_archive(tmp_path)
    assert given_classes(archive, None) is None
    for wrong, message in (({}, "empty"), ({1: "a", 2: "a"}, "repeats")):
        with pytest.raises(DataError, match=message):
            given_classes(archive, wrong)
    with pytest.raises(DataError, match=r"gone.json cannot be read"):
        given_classes(archive, tmp_path / "gone.json")
