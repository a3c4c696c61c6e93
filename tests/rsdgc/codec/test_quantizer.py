import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import SettingError, WireError
from rsdgc.codec.bit_planes import MAX_LEVEL
from rsdgc.codec.quantizer import COARSEST_STEP, FINEST_STEP, Quantizer
from rsdgc.neighborhoods import Neighborhoods
from tests.rsdgc.examples import heavy_tailed, normal, vectors

offsets = st.tuples(*[st.integers(-128, 127)] * 3)
steps = st.floats(FINEST_STEP, COARSEST_STEP, width=32)


def decoded(quantizer, values):
    return quantizer.dequantize(quantizer.quantize([values[:7], values[7:]], values.size))


@given(st.integers(0, 60).flatmap(vectors), steps, offsets)
def test_values_are_as_specified(values, step, units):
    quantizer = Quantizer(step, units)
    expected = []
    for value in values.tolist():
        with np.errstate(over="ignore"):
            level = min(np.rint(np.abs(np.float32(value)) / np.float32(step)), MAX_LEVEL)
        exact = step * (float(level) + units[int(min(level, 3)) - 1] / 256)
        expected.append(np.copysign(min(exact, COARSEST_STEP), value) if level else 0.0)
    found = decoded(quantizer, values)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert np.array_equal(found, np.array(expected, np.float32))


@given(st.integers(0, 60).flatmap(lambda n: vectors(n, st.floats(-100, 100, width=32))))
def test_errors_are_within_half_a_step(values):
    step = 0.25
    found = decoded(Quantizer(step), values)
    assert (np.abs(found - values) <= step / 2).all()
    assert not found[np.abs(values) < step / 2].any()
    assert (found * values >= 0).all()


@pytest.mark.parametrize("size", [0, 1, 300_001])
def test_large_arrays_go_through_in_chunks(size):
    values = normal(size)
    quantizer = Quantizer(0.5, (10, -20, 30))
    found = decoded(quantizer, values)
    level = np.rint(np.abs(values) / np.float32(0.5)).astype(int)
    offset = np.array([0, 10, -20, 30])[np.minimum(level, 3)] / 256
    expected = np.sign(values) * (0.5 * (level + offset))
    assert np.array_equal(found, expected.astype(np.float32))


def test_reconstruction_at_the_centroids_takes_less_error():
    values = heavy_tailed(100_000)
    step = 2e-3
    plain = Quantizer(step)
    fitted = Quantizer.fit(step, np.abs(values), np.ones(values.size))
    assert fitted.step == plain.step
    assert fitted.offsets[0] < 0  # there are more small values than large ones
    errors = [np.square(decoded(q, values) - values).sum() for q in (plain, fitted)]
    assert errors[1] < 0.99 * errors[0]
    for level in (1, 2):
        members = np.rint(np.abs(values) / np.float32(step)) == level
        mean = np.abs(values[members]).mean() / step - level
        assert fitted.offsets[level - 1] == pytest.approx(256 * mean, abs=1)


@given(steps, offsets)
def test_round_trip(step, units):
    packed = Quantizer(step, units).pack()
    assert packed == struct.pack("<f3b", step, *units)
    assert len(packed) == Quantizer.NUM_BYTES
    assert Quantizer.unpack(memoryview(packed)) == Quantizer(step, units)


def test_values_saturate():
    quantizer = Quantizer(COARSEST_STEP, (127, 0, 0))
    largest = np.array([COARSEST_STEP, -COARSEST_STEP], np.float32)
    assert np.array_equal(decoded(quantizer, largest), largest)
    clipped = decoded(Quantizer(FINEST_STEP), largest)
    assert clipped.tolist() == [MAX_LEVEL * FINEST_STEP, -MAX_LEVEL * FINEST_STEP]


@pytest.mark.parametrize("step", [0.0, -0.0, -1.0, 1e-45, 1.1754942e-38, np.nan, np.inf, -np.inf])
def test_other_steps_are_refused(step):
    with pytest.raises(SettingError, match="choose"):
        Quantizer(step)
    with pytest.raises(WireError):
        Quantizer.unpack(memoryview(struct.pack("<f3b", step, 0, 0, 0)))


@given(st.integers(0, 60).flatmap(vectors), steps, offsets)
def test_rounding_in_place_gives_the_same_bits(values, step, units):
    quantizer = Quantizer(step, units)
    expected = decoded(quantizer, values)
    quantizer.reconstruct([values[:7], values[7:]], out=values)
    assert values.tobytes() == expected.tobytes()


@given(st.integers(0, 60).flatmap(vectors), steps, offsets, st.data())
def test_rounding_closes_the_gaps_of_what_is_left_out(values, step, units, data):
    quantizer = Quantizer(step, units)
    flags = st.lists(st.booleans(), min_size=values.size, max_size=values.size)
    chosen = np.array(data.draw(flags), bool)
    expected = decoded(quantizer, values[chosen])
    grid = Neighborhoods(1, values.size, 1, 1)
    found = quantizer.reconstruct(grid.select(values, np.arange(values.size), chosen), out=values)
    assert found.tobytes() == expected.tobytes()
    assert found.size == 0 or np.shares_memory(found, values)
