import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import SettingError, WireError
from rsdgc.codec import golomb_rice
from rsdgc.codec.golomb_rice import (
    MAX_RICE,
    RiceReader,
    RiceWriter,
    best_rice,
    expected_id_bits,
    gaps_of,
    ids_of,
    rice_cost,
)
from tests.rsdgc.forge import packed

numbers = st.lists(st.integers(0, 2**16), max_size=30)
bits = st.lists(st.booleans(), max_size=30)


def reference(arrays):
    """The code spelled out bit by bit."""
    unary = plain = ""
    for array, parameter in arrays:
        if parameter is None:
            plain += "".join(str(int(bit)) for bit in array)
            continue
        unary += "".join("0" * (number >> parameter) + "1" for number in array)
        planes = reversed(range(parameter))
        plain += "".join(str(number >> bit & 1) for bit in planes for number in array)
    return packed(unary), packed(plain)


def reader(unary, plain):
    return RiceReader(memoryview(unary), memoryview(plain))


def written(array, parameter):
    writer = RiceWriter()
    writer.write_numbers(np.array(array, np.int64), parameter)
    return writer


@st.composite
def arrays(draw):
    """Arrays of numbers with a Rice parameter, and arrays of bits with none."""
    found = []
    for _ in range(draw(st.integers(0, 5))):
        array = draw(st.one_of(numbers, bits))
        parameter = None
        if array and not isinstance(array[0], bool):
            least = max(0, max(array).bit_length() - 6)  # else the unary stream gets long
            parameter = draw(st.integers(least, MAX_RICE))
        found.append((array, parameter if array else None))
    return found


@given(arrays())
def test_streams_are_as_specified_and_read_back(case):
    writer = RiceWriter()
    for array, parameter in case:
        if parameter is None:
            writer.write_bits(np.array(array, dtype=bool))
        else:
            writer.write_numbers(np.array(array, np.int64), parameter)
    streams = writer.finish()
    assert streams == reference(case)
    source = reader(*streams)
    for array, parameter in case:
        before = source.num_bits
        if parameter is None:
            assert source.read_bits(len(array)).tolist() == [int(bit) for bit in array]
            assert source.num_bits - before == len(array)
        else:
            found = source.read_numbers(len(array), parameter)
            assert found.dtype == np.int64
            assert found.tolist() == array
            assert source.num_bits - before == rice_cost(found, parameter)
    assert source.num_bits == writer.num_bits
    source.finish()


@st.composite
def id_sets(draw):
    count = draw(st.one_of(st.integers(1, 100), st.integers(1, 2**31 - 1)))
    ids = draw(st.sets(st.integers(0, count - 1), max_size=60))
    return np.array(sorted(ids), dtype=np.int64), count


@given(id_sets())
def test_ids_round_trip(case):
    ids, count = case
    gaps = gaps_of(ids)
    parameter = best_rice(gaps) if ids.size else 0
    source = reader(*written(gaps, parameter).finish())
    found = source.read_ids(ids.size, parameter, count)
    source.finish()
    assert found.dtype == np.int64
    assert np.array_equal(found, ids)
    assert np.array_equal(ids_of(gaps), ids)


@given(st.lists(st.integers(0, 2**31 - 2), min_size=1, max_size=40))
def test_rice_parameter_is_optimal_and_within_the_numbers(gaps):
    gaps = np.array(gaps, dtype=np.int64)
    costs = [gaps.size * (r + 1) + int((gaps >> r).sum()) for r in range(MAX_RICE + 1)]
    assert [rice_cost(gaps, r) for r in range(MAX_RICE + 1)] == costs
    assert costs[best_rice(gaps)] == min(costs)
    assert 1 << best_rice(gaps) <= max(1, gaps.max())


def test_all_ids_cost_a_bit_each():
    unary, plain = written(np.zeros(800), 0).finish()
    assert (len(unary), len(plain)) == (100, 0)


def test_one_per_cent_costs_about_eight_bits_an_id():
    ids = np.flatnonzero(np.random.default_rng(0).random(1_000_000) < 0.01)
    gaps = gaps_of(ids)
    parameter = best_rice(gaps)
    streams = written(gaps, parameter).finish()
    assert 8.0 < 8 * sum(map(len, streams)) / ids.size < 8.2
    assert np.array_equal(reader(*streams).read_ids(ids.size, parameter, 1_000_000), ids)


@pytest.mark.parametrize("size", [2**17 - 1, 2**17, 2**17 + 1, 400_000])
def test_streams_longer_than_a_chunk(size):
    found = np.random.default_rng(size).geometric(0.3, size).astype(np.int64)
    found[size // 2] = 300_000  # a run of zeros over several chunks
    source = reader(*written(found, 1).finish())
    assert np.array_equal(source.read_numbers(size, 1), found)
    source.finish()


@pytest.mark.parametrize(
    ("unary", "plain", "parameter", "kept", "count"),
    [
        ("", "", 0, 1, 10),  # no bits
        ("00", "", 0, 1, 10),  # no ones
        ("80", "", 0, 2, 10),  # too few ones
        ("c0", "", 0, 1, 10),  # too many ones
        ("8000", "", 0, 1, 10),  # bytes after the last one
        ("01", "", 0, 1, 7),  # id 7 of 7
        ("80", "", 0, 11, 10),  # more ids than neighborhoods
        ("80", "", 0, -1, 10),
        ("80", "80", 0, 1, 10),  # plain bits without a Rice parameter
        ("80", "", 1, 1, 10),  # no plain bits
        ("80", "8000", 1, 1, 10),  # plain bits too many
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
def test_bad_streams_are_refused(unary, plain, parameter, kept, count):
    def read_all():
        source = reader(bytes.fromhex(unary), bytes.fromhex(plain))
        source.read_ids(kept, parameter, count)
        source.finish()

    with pytest.raises(WireError):
        read_all()


def test_gaps_of_all_31_bits_are_summed_without_overflow():
    top = 2**31 - 2
    streams = written(np.full(3, top), 30).finish()
    with pytest.raises(WireError, match="not all below"):
        reader(*streams).read_ids(3, 30, 2**31 - 1)


def test_unary_streams_beyond_the_limit_are_neither_written_nor_read(monkeypatch):
    monkeypatch.setattr(golomb_rice, "MAX_STREAM_BYTES", 100)
    longest = written([8 * 99 - 1], 0).finish()
    assert len(longest[0]) == 99
    assert reader(*longest).read_numbers(1, 0).tolist() == [791]
    with pytest.raises(SettingError, match="lower the budget"):
        written([8 * 99], 0).finish()
    with pytest.raises(WireError, match="beyond any model"):
        reader(bytes(99) + b"\1", b"")


def entropy(density):
    rest = 1 - density
    return -(np.log2(density) + rest / density * np.log2(rest))


def test_rice_is_near_the_entropy():
    density = np.array([1e-4, 1e-3, 1e-2, 0.1, 0.3])
    found, bound = expected_id_bits(density), entropy(density)
    assert (found >= bound).all()
    assert found == pytest.approx(bound, rel=0.05)
    assert expected_id_bits(np.array([1.0])) == 1
