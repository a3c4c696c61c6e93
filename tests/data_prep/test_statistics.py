from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.statistics import BandSums, valid_mask


@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(0, 40), max_size=5))
def test_merged_sums_equal_those_of_the_whole(seed: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(1e4, 3, (40, 2, 3, 3)).astype(np.float32)
    valid = rng.random(values.shape) < 0.7
    sums = BandSums.empty(2)
    for part, mask in zip(
        np.split(values, sorted(cuts)), np.split(valid, sorted(cuts)), strict=True
    ):
        sums = sums.merge(BandSums.of(part, mask))
    for band in range(2):
        expected = values[:, band][valid[:, band]].astype(np.float64)
        assert sums.count[band] == expected.size
        np.testing.assert_allclose(sums.mean[band], expected.mean(), rtol=1e-12)
        np.testing.assert_allclose(sums.std()[band], expected.std(), rtol=1e-9)
        assert (sums.low[band], sums.high[band]) == (expected.min(), expected.max())


def test_a_band_without_valid_pixels_is_all_zero() -> None:
    values = np.zeros((2, 1, 2, 2))
    meta = BandSums.of(values, np.zeros(values.shape, np.bool_)).as_meta()
    assert meta == {"mean": [0.0], "std": [0.0], "min": [0.0], "max": [0.0], "count": [0]}


def test_valid_mask_ands_nodata_and_finite() -> None:
    values = np.array([1.0, np.nan, -9999.0, np.inf], np.float32)
    assert valid_mask(values, -9999.0).tolist() == [True, False, False, False]
    assert valid_mask(np.array([0, 65535], np.uint16), 65535.0).tolist() == [True, False]
