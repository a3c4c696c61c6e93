import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsdgc import (
    INDICATORS,
    L1,
    NSI,
    RMS,
    Compressor,
    Indicator,
    Neighborhoods,
    Random,
    RsdgcError,
    Scheme,
    SettingError,
    Stamp,
    make_indicator,
)
from tests.rsdgc.examples import MIXED, normal, schemes, shapes, vectors


def members(values, grid):
    return [values[grid.elements(np.array([i]))].astype(np.float64) for i in range(grid.count)]


def reference_nsi(values, grid, mean_weight, std_weight):
    mean = np.array([np.abs(part).mean() for part in members(values, grid)])
    std = np.array([part.std() for part in members(values, grid)])
    total = mean_weight * mean / (np.linalg.norm(mean) or 1)
    return total + std_weight * std / (np.linalg.norm(std) or 1)


@given(shapes, schemes, st.integers(0, 5))
def test_nsi_is_its_equation(shape, scheme, seed):
    grid = scheme.cut(shape)
    values = normal(grid.size, seed)
    found = NSI(0.7, 0.3).score(values, grid)
    expected = reference_nsi(values, grid, 0.7, 0.3)
    if grid.height * grid.width > 1:
        assert found == pytest.approx(expected, rel=1e-3, abs=2e-4)
    else:
        assert np.array_equal(np.argsort(found), np.argsort(expected))


@pytest.mark.parametrize("factor", [1e-300, 1e-60, 1e60, 1e300])
@pytest.mark.parametrize("kind", ["kernel", "tile", "element"])
def test_only_the_proportion_of_the_weights_matters(factor, kind):
    grid = Scheme(kind).cut((8, 8, 3, 3))
    values = normal(grid.size)
    expected = NSI(0.8, 0.2).score(values, grid)
    found = NSI(0.8 * factor, 0.2 * factor).score(values, grid)
    assert found * np.float32(0.8) == pytest.approx(expected, rel=1e-6)


@given(shapes, schemes, st.integers(0, 5))
def test_rms_and_l1_are_their_equations_in_the_values_units(shape, scheme, seed):
    grid = scheme.cut(shape)
    values = normal(grid.size, seed) * np.float32(10.0 ** (seed * 3 - 8))
    parts = members(values, grid)
    rms = [np.sqrt(np.square(part).mean()) for part in parts]
    l1 = [np.abs(part).mean() for part in parts]
    assert RMS().score(values, grid) == pytest.approx(np.array(rms), rel=1e-4)
    assert L1().score(values, grid) == pytest.approx(np.array(l1), rel=1e-4)


@given(shapes, schemes, st.sampled_from(list(INDICATORS)), st.data())
def test_scores_of_any_finite_values_are_finite(shape, scheme, name, data):
    grid = scheme.cut(shape)
    values = data.draw(vectors(grid.size))
    before = values.copy()
    scores = make_indicator(name).score(values, grid, (1, 2, 3))
    assert scores.shape == (grid.count,)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert (scores >= 0).all()
    assert np.array_equal(values, before)


@pytest.mark.parametrize("name", ["nsi", "rms", "l1"])
@pytest.mark.parametrize("unit", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_ranking_does_not_depend_on_the_unit(name, unit):
    grid = Scheme().cut((6, 5, 3, 3))
    values = normal(grid.size)
    scored = make_indicator(name).score
    plain = np.argsort(scored(values, grid))
    assert np.array_equal(plain, np.argsort(scored(values * np.float32(unit), grid)))


@pytest.mark.parametrize("name", ["nsi", "rms", "l1"])
@pytest.mark.parametrize("power", [-100, -70, -52, -48, 47, 52, 70, 100])
@given(shape=shapes, scheme=schemes, seed=st.integers(0, 5))
@settings(max_examples=20)
def test_scores_of_scaled_values_are_the_same_to_the_last_bit(name, power, shape, scheme, seed):
    """Far from 1 statistics take another path; powers of two change no bit but the exponent."""
    grid = scheme.cut(shape)
    values = normal(grid.size, seed)
    plain = make_indicator(name).score(values, grid)
    unit = np.float32(2.0**power)
    scaled = make_indicator(name).score(values * unit, grid)
    assert np.array_equal(scaled, plain if name == "nsi" else plain * unit)


@pytest.mark.parametrize("name", ["nsi", "rms", "l1"])
def test_all_zero_layers_score_zero(name):
    grid = Scheme().cut((4, 9))
    assert not make_indicator(name).score(np.zeros(36, np.float32), grid).any()


@pytest.mark.parametrize("name", ["nsi", "rms", "l1"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_refused(name, bad):
    values = np.ones(36, np.float32)
    values[20] = bad
    with pytest.raises(RsdgcError, match="clip the gradients"):
        make_indicator(name).score(values, Scheme().cut((4, 9)))


def test_chunked_scores_match_whole_ones():
    grid = Neighborhoods(600, 901, 3, 3)
    values = normal(grid.size)
    some = np.array([0, 300, 301, 40_000, grid.count - 1])
    expected = [np.sqrt(np.square(values[grid.elements(some[i : i + 1])]).mean()) for i in range(5)]
    assert RMS().score(values, grid)[some] == pytest.approx(expected, rel=1e-5)


def test_random_scores_depend_on_seed_and_key_alone():
    grid = Scheme().cut((50, 9))
    values = normal(grid.size)
    first = Random(3).score(values, grid, (1, 2))
    assert np.array_equal(first, Random(3).score(values * 0, grid, (1, 2)))
    assert not np.array_equal(first, Random(3).score(values, grid, (1, 3)))
    assert not np.array_equal(first, Random(4).score(values, grid, (1, 2)))


def test_settings_are_checked():
    for weights in [(-1, 1), (0, 0), (np.nan, 1), (np.inf, 1)]:
        with pytest.raises(SettingError, match="NSI weights"):
            make_indicator("nsi", mean_weight=weights[0], std_weight=weights[1])
    with pytest.raises(SettingError, match="choose one of nsi"):
        make_indicator("variance")
    with pytest.raises(SettingError, match="seed"):
        make_indicator("random", seed=-1)


class Noisy(Indicator):
    """An indicator from outside that takes one weight and the seed."""

    def __init__(self, std_weight, seed, power=2):
        self.settings = (std_weight, seed, power)

    def score(self, values, grid, key=()):
        return np.abs(RMS().score(values, grid)) ** self.settings[2]


@pytest.mark.parametrize("name", ["noisy", f"{__name__}:Noisy"])
def test_an_indicator_from_outside_gets_the_settings_that_it_names(name):
    if ":" not in name and name not in INDICATORS:
        INDICATORS.register(name)(Noisy)
    indicator = make_indicator(name, mean_weight=0.1, std_weight=0.9, seed=7)
    assert indicator.settings == (0.9, 7, 2)
    ratios, update = np.full(len(MIXED.layers), 0.3), normal(MIXED.size)
    sent, same = (
        Compressor(MIXED, Scheme(values="int8"), each).compress(update, ratios, Stamp())
        for each in (indicator, RMS())
    )
    assert sent.payload == same.payload


def test_what_is_not_an_indicator_is_refused():
    with pytest.raises(SettingError, match="is not an indicator"):
        make_indicator(f"{__name__}:MIXED")
