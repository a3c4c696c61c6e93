import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import SettingError, WireError
from rsdgc.indices import MAX_RICE, best_rice, decode_ids, encode_ids, remainder_bytes


def as_bytes(data):
    return np.frombuffer(data, dtype=np.uint8)


def decoded(coded, kept, count):
    return decode_ids(as_bytes(coded.unary), as_bytes(coded.remainder), coded.rice, kept, count)


def reference(ids, rice):
    """The code spelled out bit by bit."""
    gaps = [b - a - 1 for a, b in zip([-1, *ids], ids, strict=False)]
    unary = "".join("0" * (gap >> rice) + "1" for gap in gaps)
    planes = "".join(str(gap >> bit & 1) for bit in reversed(range(rice)) for gap in gaps)
    return tuple(
        bytes(int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8))
        for bits in (unary, planes)
    )


@st.composite
def id_sets(draw):
    count = draw(st.one_of(st.integers(1, 100), st.integers(1, 2**31 - 1)))
    ids = draw(st.sets(st.integers(0, count - 1), max_size=60))
    return np.array(sorted(ids), dtype=np.int64), count


@given(id_sets())
def test_round_trip(case):
    ids, count = case
    coded = encode_ids(ids, count)
    found = decoded(coded, ids.size, count)
    assert found.dtype == np.int64
    assert np.array_equal(found, ids)
    assert len(coded.remainder) == remainder_bytes(ids.size, coded.rice)


@given(id_sets())
def test_streams_are_as_specified(case):
    ids, count = case
    coded = encode_ids(ids, count)
    assert (coded.unary, coded.remainder) == reference(ids.tolist(), coded.rice)


@given(st.lists(st.integers(0, 2**31 - 2), min_size=1, max_size=40))
def test_rice_parameter_is_optimal(gaps):
    gaps = np.array(gaps, dtype=np.int64)
    costs = [gaps.size * (rice + 1) + int((gaps >> rice).sum()) for rice in range(MAX_RICE + 1)]
    assert costs[best_rice(gaps)] == min(costs)


def test_all_ids_cost_a_bit_each():
    coded = encode_ids(np.arange(800), 800)
    assert (coded.rice, len(coded.unary), len(coded.remainder)) == (0, 100, 0)


def test_one_per_cent_costs_about_eight_bits_an_id():
    rng = np.random.default_rng(0)
    ids = np.flatnonzero(rng.random(1_000_000) < 0.01)
    coded = encode_ids(ids, 1_000_000)
    bits = 8 * (len(coded.unary) + len(coded.remainder)) / ids.size
    assert 8.0 < bits < 8.2
    assert np.array_equal(decoded(coded, ids.size, 1_000_000), ids)


@pytest.mark.parametrize("ids", [[1, 1], [2, 1], [-1, 3], [0, 10]])
def test_bad_ids_are_not_encoded(ids):
    with pytest.raises(SettingError, match="increase strictly"):
        encode_ids(np.array(ids, dtype=np.int64), 10)


@pytest.mark.parametrize(
    ("unary", "remainder", "rice", "kept", "count"),
    [
        ("", "", 0, 1, 10),  # no bits
        ("00", "", 0, 1, 10),  # no ones
        ("80", "", 0, 2, 10),  # too few ones
        ("c0", "", 0, 1, 10),  # too many ones
        ("8000", "", 0, 1, 10),  # bytes after the last one
        ("01", "", 0, 1, 7),  # id 7 of 7
        ("80", "", 0, 11, 10),  # more ids than neighborhoods
        ("80", "", 0, -1, 10),
        ("80", "80", 0, 1, 10),  # remainder without a Rice parameter
        ("80", "", 1, 1, 10),  # no remainder
        ("80", "8000", 1, 1, 10),  # remainder too long
        ("80", "81", 1, 1, 10),  # padding bits set
        ("80", "fc", 6, 1, 60),  # Rice parameter too large for 60 neighborhoods
        ("80", "f0", 4, 1, 15),
        ("80", "00000000", 32, 1, 2**31),
        ("80", "00", -1, 1, 10),
        ("80", "f0", 4, 1, 12),
        ("80", "e0", 3, 1, 7),
        ("", "", 1, 0, 10),
        ("80", "", 0, 0, 10),
        ("00", "", 0, 0, 10),
        ("c0", "f000", 8, 2, 300),  # each gap in range, their sum not
    ],
)
def test_bad_streams_are_refused(unary, remainder, rice, kept, count):
    with pytest.raises(WireError):
        decode_ids(
            as_bytes(bytes.fromhex(unary)), as_bytes(bytes.fromhex(remainder)), rice, kept, count
        )
