from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_prep.statistics import BandSums, ChipSums, valid_mask


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
        np.testing.assert_allclose(sums.std[band], expected.std(), rtol=1e-9)
        assert (sums.low[band], sums.high[band]) == (expected.min(), expected.max())


def test_a_band_without_valid_pixels_is_all_zero() -> None:
    values = np.zeros((2, 1, 2, 2))
    meta = BandSums.of(values, np.zeros(values.shape, np.bool_)).as_meta()
    assert meta == {"mean": [0.0], "std": [0.0], "min": [0.0], "max": [0.0], "count": [0]}


def test_valid_mask_ands_nodata_and_finite() -> None:
    values = np.array([1.0, np.nan, -9999.0, np.inf], np.float32)
    assert valid_mask(values, -9999.0).tolist() == [True, False, False, False]
    assert valid_mask(np.array([0, 65535], np.uint16), 65535.0).tolist() == [True, False]


@given(
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["uint8", "int8", "uint16", "int16", "int32", "float32"]),
    share=st.sampled_from([0.0, 0.6, 1.0]),
)
def test_any_choice_of_chips_adds_up_to_its_pixels(seed: int, dtype: str, share: float) -> None:
    rng = np.random.default_rng(seed)
    limits = np.iinfo(dtype if dtype[0] != "f" else "int16")
    low, high = max(limits.min, -30_000), min(limits.max, 65_000)
    center = rng.integers(low, high)
    spread = rng.integers(1, 100)
    values = (center + rng.normal(0, spread, (12, 3, 9, 9))).clip(low, high).astype(dtype)
    valid = rng.random(values.shape) < share
    sums = ChipSums.of(values, None if share == 1.0 else valid)
    sums = ChipSums.join([sums, sums])
    chosen = rng.integers(0, 12, 5)
    total = sums.total(chosen)
    for band in range(3):
        expected = values[chosen, band][valid[chosen, band]].astype(np.float64)
        assert total.count[band] == expected.size
        if expected.size:
            scale = max(1.0, float(np.abs(expected).max()))
            np.testing.assert_allclose(total.mean[band], expected.mean(), atol=1e-7 * scale)
            np.testing.assert_allclose(
                total.std[band], expected.std(), rtol=1e-5, atol=1e-6 * scale
            )
            assert (total.low[band], total.high[band]) == (expected.min(), expected.max())
