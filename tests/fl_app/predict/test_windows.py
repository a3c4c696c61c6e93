"""Where windows lie, and what they say of pixels: checked pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_app.predict.windows import WindowAxis
from rsdgc.errors import SettingError


@given(st.integers(1, 70), st.integers(1, 12), st.integers(1, 15), st.integers(1, 2))
def test_blending_is_the_weighted_mean(length: int, chip: int, stride: int, step: int) -> None:
    stride = min(stride, chip)
    axis = WindowAxis.of_chips(length, chip * step, stride * step, step)
    rng = np.random.default_rng(length)
    values = rng.random((len(axis), 3), dtype=np.float32)
    valid = rng.random(len(axis)) < 0.8
    sums = np.zeros((4, length))
    for i, (first, stop) in enumerate(axis.spans):
        if valid[i]:
            sums[:3, first:stop] += values[i][:, None] * axis.weights(i)
            sums[3, first:stop] += axis.weights(i)
    np.testing.assert_allclose(axis.spread(values, valid), sums, atol=1e-5)
    covered = axis.spread(values, np.ones(len(axis), np.bool_))[3]
    assert (covered > 0).all()  # no pixel is left out


@given(st.integers(1, 60), st.integers(1, 8), st.integers(1, 60))
def test_the_windows_of_some_pixels(length: int, stride: int, first: int) -> None:
    axis = WindowAxis.of_chips(length, 8, stride, 1)
    first = first % length
    stop = min(length, first + 5)
    expected = [i for i, (a, b) in enumerate(axis.spans) if a < stop and b > first]
    assert list(axis.covering(first, stop)) == expected


@given(st.integers(6, 40), st.sampled_from([1, 3, 5]), st.integers(1, 9))
def test_patches_stand_for_every_pixel_once(length: int, patch: int, stride: int) -> None:
    axis = WindowAxis.of_patches(length, patch, stride)
    values = np.arange(len(axis), dtype=np.float32)[:, None]
    spread = axis.spread(values, np.ones(len(axis), np.bool_))
    assert (spread[1] == 1).all()
    centers = axis.starts + patch // 2
    assert ((axis.spans[:, 0] <= centers) & (centers < axis.spans[:, 1])).all()


def test_a_stride_that_cuts_coarse_pixels_is_refused() -> None:
    with pytest.raises(SettingError, match="--stride is 5: choose a multiple of 2"):
        WindowAxis.of_chips(64, 16, 5, 2)


@pytest.mark.parametrize(("chip", "stride"), [(16, 17), (8, 512)])
def test_a_stride_that_leaves_pixels_out_is_refused(chip: int, stride: int) -> None:
    with pytest.raises(SettingError, match=f"--stride is {stride}, .*: choose {chip} or less"):
        WindowAxis.of_chips(64, chip, stride, 1)
    assert WindowAxis.of_chips(64, chip, chip, 1).covering(0, 64) == range(64 // chip)
