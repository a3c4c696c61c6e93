import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import RsdgcError, WireError
from rsdgc.codec.values import decode_values, encode_values, find_coding
from tests.rsdgc.examples import normal, vectors

KINDS = ("float32", "float16", "int8")


def round_trip(values, kind):
    coding = find_coding(kind)
    data = encode_values(values, coding)
    assert len(data) == coding.num_bytes(values.size)
    return decode_values(memoryview(data), values.size, coding)


@given(st.integers(0, 40).flatmap(vectors), st.sampled_from(KINDS))
def test_round_trip_is_finite_and_close(values, kind):
    found = round_trip(values, kind)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    largest = np.abs(values.astype(np.float64)).max(initial=0)
    error = np.abs(found.astype(np.float64) - values)
    if kind == "float32":
        assert np.array_equal(found, values)
    elif kind == "float16":
        inside = np.abs(values) <= 65504
        assert (error[inside] <= np.maximum(2.0**-25, np.abs(values[inside]) * 2.0**-11)).all()
        assert (np.abs(found[~inside]) == 65504).all()
    else:
        assert (error <= largest / 127 * 0.501 + 127 * 2.0**-149).all()


def test_sizes():
    assert [find_coding(kind).num_bytes(10) for kind in KINDS] == [40, 20, 14]
    assert [find_coding(kind).num_bytes(0) for kind in KINDS] == [0, 0, 0]


def test_large_arrays_go_through_in_chunks():
    values = normal(300_001)
    assert np.abs(round_trip(values, "int8") - values).max() <= np.abs(values).max() / 250
    assert np.allclose(round_trip(values, "float16"), values, rtol=1e-3, atol=1e-6)


def test_float16_saturates():
    values = np.array([65519, 65520, 1e30, -1e30], np.float32)
    assert round_trip(values, "float16").tolist() == [65504, 65504, 65504, -65504]


@pytest.mark.parametrize("largest", [1e-45, 1e-43, 1e-38, np.finfo(np.float32).max])
def test_int8_at_the_ends_of_float32(largest):
    values = np.array([largest, -largest, 0], np.float32)
    found = round_trip(values, "int8")
    assert np.isfinite(found).all()
    assert found == pytest.approx(values, rel=1e-6, abs=2e-43)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_not_encoded(kind, bad):
    with pytest.raises(RsdgcError):
        encode_values(np.array([1, bad], np.float32), find_coding(kind))


@pytest.mark.parametrize(
    ("data", "count", "kind"),
    [
        ("0000c07f", 1, "float32"),
        ("0000807f", 1, "float32"),
        ("000080ff", 1, "float32"),
        ("007e", 1, "float16"),
        ("007c", 1, "float16"),
        ("00fc", 1, "float16"),
        ("0000c07f01", 1, "int8"),
        ("0000807f01", 1, "int8"),
        ("000080bf01", 1, "int8"),
        ("ffff7f7f01", 1, "int8"),  # 127 times the scale is infinite
        ("0000803f80", 1, "int8"),  # -128
        ("0000803f", 1, "int8"),
        ("000000", 1, "float32"),
        ("00000000", 1, "float16"),
    ],
)
def test_bad_values_are_refused(data, count, kind):
    with pytest.raises(WireError):
        decode_values(memoryview(bytes.fromhex(data)), count, find_coding(kind))
