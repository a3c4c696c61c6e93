import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc.arrays import (
    CHUNK,
    add_scaled,
    check_finite,
    check_flat,
    chunks,
    expand,
    extract,
    l2_norm,
    max_magnitude,
)
from rsdgc.errors import RsdgcError, SettingError


def test_chunks_cover_the_range_in_order():
    found = np.concatenate([np.arange(100)[part] for part in chunks(100, 7)])
    assert np.array_equal(found, np.arange(100))
    assert list(chunks(0)) == []


flags = st.lists(st.booleans(), max_size=50).map(lambda found: np.array(found, bool))


@given(flags, st.sampled_from([np.float32, np.uint16, np.int64, np.bool_]))
def test_extract_and_expand_are_boolean_indexing(chosen, dtype):
    values = np.arange(chosen.size).astype(dtype)
    found = extract(values, chosen)
    assert found.dtype == dtype
    assert np.array_equal(found, values[chosen])
    target, expected = expand(values[chosen], chosen, dtype(1)), np.ones_like(values)
    assert target.dtype == dtype
    expected[chosen] = values[chosen]
    assert np.array_equal(target, expected)


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, 2 * CHUNK + 7])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 1.0])
def test_extract_and_expand_go_through_in_chunks(size, share):
    rng = np.random.default_rng(size)
    values, chosen = rng.standard_normal(size, dtype=np.float32), rng.random(size) < share
    assert np.array_equal(extract(values, chosen), values[chosen])
    target = expand(values[chosen], chosen, np.float32(7))
    assert np.array_equal(target, np.where(chosen, values, np.float32(7)))


@pytest.mark.parametrize("largest", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(largest):
    with pytest.raises(RsdgcError, match="clip the gradients"):
        check_finite(largest)
    check_finite(3e38)


@pytest.mark.parametrize("where", [0, CHUNK - 1, CHUNK, CHUNK + 5])
def test_the_largest_magnitude_is_found_anywhere(where):
    values = np.zeros(CHUNK + 6, np.float32)
    for wanted in (3.0, -3.0):
        values[where] = wanted
        assert max_magnitude(values) == 3.0
    values[where] = np.nan
    assert math.isnan(max_magnitude(values))
    values[where] = -np.inf
    assert max_magnitude(values) == math.inf


def test_the_largest_magnitude_of_nothing_is_zero():
    assert max_magnitude(np.empty(0, np.float32)) == 0.0


@pytest.mark.parametrize(
    "values",
    [np.zeros(3, np.float64), np.zeros(4, np.float32), np.zeros((3, 1), np.float32), [0.0] * 3],
)
def test_check_flat_refuses_other_arrays(values):
    with pytest.raises(SettingError, match="pass a contiguous float32 vector"):
        check_flat(values, 3, "the change")


def test_check_flat_refuses_strided_vectors():
    with pytest.raises(SettingError):
        check_flat(np.zeros(6, np.float32)[::2], 3, "the change")


@pytest.mark.parametrize("size", [0, 1, CHUNK, 2 * CHUNK + 7])
def test_the_norm_and_a_scaled_sum_go_through_in_chunks(size):
    rng = np.random.default_rng(size)
    values, target = rng.standard_normal((2, size), dtype=np.float32)
    assert l2_norm(values) == pytest.approx(np.linalg.norm(values.astype(float)), rel=1e-12)
    expected = target + np.float32(0.3) * values
    add_scaled(target, values, 0.3)
    np.testing.assert_array_equal(target, expected)


def test_the_norm_of_large_values_does_not_overflow():
    assert l2_norm(np.full(9, 1e30, np.float32)) == pytest.approx(3e30, rel=1e-6)
