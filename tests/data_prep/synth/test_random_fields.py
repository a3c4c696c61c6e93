from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.synth.random_fields import FieldMaker, blur, hash_unit, smoothstep


def maker(px: int = 128, seed: int = 0) -> FieldMaker:
    return FieldMaker(px, np.random.default_rng(seed))


def spectrum_peak(field: np.ndarray) -> float:
    power = np.abs(np.fft.rfft2(field)) ** 2
    fy, fx = np.fft.fftfreq(len(field)), np.fft.rfftfreq(len(field))
    frequency = np.hypot(fy[:, None], fx[None, :])
    return float(1 / (power * frequency).sum() * power.sum())


@pytest.mark.parametrize("draw", ["band", "smooth", "fractal", "white"])
def test_fields_are_standardized_float32(draw: str) -> None:
    arguments = {"band": (8,), "smooth": (20,), "fractal": (2.0, 60), "white": ()}[draw]
    field = getattr(maker(), draw)(*arguments)
    assert field.shape == (128, 128)
    assert field.dtype == np.float32
    assert abs(field.mean()) < 0.05
    assert field.std() == pytest.approx(1, abs=0.05)


def test_band_has_the_given_wavelength() -> None:
    assert spectrum_peak(maker().band(8, 0.2)) == pytest.approx(8, rel=0.1)


def test_same_generator_state_gives_the_same_field() -> None:
    np.testing.assert_array_equal(maker(seed=3).band(9), maker(seed=3).band(9))
    assert not np.array_equal(maker(seed=3).band(9), maker(seed=4).band(9))


@given(st.integers(0, 2**31), st.integers(-(2**31), 2**31))
def test_hash_is_a_function_into_the_unit_interval(seed: int, key: int) -> None:
    value = hash_unit(seed, np.array([key]))
    assert 0 <= value[0] < 1
    assert value == hash_unit(seed, np.array([key]))


def test_hash_is_uniform_over_a_grid_of_keys() -> None:
    row, column = np.mgrid[:200, :200]
    counts, _ = np.histogram(hash_unit(5, row, column), bins=10, range=(0, 1))
    assert counts.min() > 3700
    assert counts.max() < 4300


def test_smoothstep_ends_and_reverses() -> None:
    values = np.array([-1, 0, 0.5, 1, 2], dtype=np.float32)
    np.testing.assert_allclose(smoothstep(values, 0, 1), [0, 0, 0.5, 1, 1])
    np.testing.assert_allclose(smoothstep(values, 1, 0), [1, 1, 0.5, 0, 0])


def test_blur_keeps_the_mean_and_lessens_the_variance() -> None:
    noise = maker().white()
    assert blur(noise, 3).mean() == pytest.approx(noise.mean(), abs=1e-5)
    assert blur(noise, 3).std() < 0.2
