from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.splits import TEST, TRAIN, VAL, check_shares, split_stratified
from rsdgc.errors import SettingError


def hashes(count: int) -> np.ndarray:
    return np.array([f"{i:04d}" for i in range(count)], dtype=object)


def test_shares_hold_in_every_class() -> None:
    labels = np.repeat(np.arange(21), 100)
    codes = split_stratified(labels, hashes(2100), test_share=0.2, val_share=0.1)
    for label in range(21):
        assert np.bincount(codes[labels == label], minlength=3).tolist() == [70, 10, 20]


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    content=st.integers(1, 60),
    seed=st.integers(0, 99),
)
def test_equal_images_share_a_split_and_classes_keep_train(
    labels: list[int], content: int, seed: int
) -> None:
    label = np.array(labels)
    equal = np.array([f"{i % content}" for i in range(len(labels))], dtype=object)
    codes = split_stratified(label, equal, test_share=0.4, val_share=0.3, seed=seed)
    for name in set(equal):
        assert len(set(codes[equal == name])) == 1
    if content >= len(labels):
        for c in set(labels):
            found = set(codes[label == c].tolist())
            count = int((label == c).sum())
            assert found == {1: {TRAIN}, 2: {TRAIN, TEST}}.get(count, {TRAIN, VAL, TEST})


def test_a_split_is_repeatable_and_depends_on_the_seed() -> None:
    labels = np.repeat(np.arange(2), 50)
    one, two, other = (split_stratified(labels, hashes(100), seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


@pytest.mark.parametrize(("test", "val"), [(-0.1, 0), (1.0, 0), (0.6, 0.4), (0.1, float("nan"))])
def test_impossible_shares_are_refused(test: float, val: float) -> None:
    with pytest.raises(SettingError, match="share"):
        check_shares(test, val)
