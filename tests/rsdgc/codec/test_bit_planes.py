import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import WireError
from rsdgc.codec.bit_planes import MAX_LEVEL, PLANES, RAW_FLAGS, ZEROS, Levels, PlaneCode
from rsdgc.codec.golomb_rice import RiceReader, RiceWriter

magnitudes = st.one_of(
    st.lists(st.integers(0, 5), max_size=60),
    st.lists(st.sampled_from([0] * 30 + [1, 2, MAX_LEVEL]), max_size=60),
    st.lists(st.sampled_from([3] * 30 + [0, 1, 2]), max_size=60),
)


def levels_of(found, negative):
    found, negative = np.array(found, np.uint16), np.array(negative, bool)
    outside = found > 0
    kept, signs = found[outside], negative[outside]
    middle = kept.size // 2
    pieces = [(kept[:middle], signs[:middle]), (kept[middle:], signs[middle:])]
    return Levels.from_magnitudes(outside, pieces)


def coded(found, negative):
    writer = RiceWriter()
    levels = levels_of(found, negative)
    codes = levels.write(writer)
    streams = writer.finish()
    return levels, codes, RiceReader(*map(memoryview, streams)), writer.num_bits


@given(magnitudes, st.integers(0, 99))
def test_round_trip(found, seed):
    negative = np.random.default_rng(seed).random(len(found)) < 0.5
    levels, codes, reader, num_bits = coded(found, negative)
    back = Levels.read(codes, len(found), reader)
    assert reader.num_bits == num_bits
    reader.finish()
    for plane in range(PLANES):
        assert back.flags[plane].dtype == np.bool_
        assert np.array_equal(back.flags[plane], levels.flags[plane])
    assert back.large.tolist() == [size for size in found if size > 2]
    assert np.array_equal(back.negative, negative[np.array(found, int) > 0])


@given(magnitudes)
def test_planes_are_the_definition(found):
    levels, codes, _, num_bits = coded(found, [False] * len(found))
    rest = found
    for plane in range(PLANES):
        assert levels.flags[plane].tolist() == [size > plane for size in rest]
        rest = [size for size in rest if size > plane]
    assert len(codes) == PLANES + 1
    flags = sum(flags.size for flags in levels.flags)
    large = sum(size - PLANES + 1 for size in rest)  # at most: all in the unary stream
    assert num_bits <= flags + large + levels.negative.size


@pytest.mark.parametrize(
    ("ones", "code"),
    [
        (0, 0),
        (1, 5),
        (45, RAW_FLAGS),
        (50, RAW_FLAGS),
        (55, RAW_FLAGS),
        (99, 5 + ZEROS),
        (100, ZEROS),
    ],
)
def test_the_fewer_flags_are_coded(ones, code):
    flags = np.zeros(100, np.uint16)
    flags[np.random.default_rng(1).permutation(100)[:ones]] = 1
    _, codes, _, _ = coded(flags, [False] * 100)
    if ones in (1, 99):
        assert codes[0].code in range(code, code + 2)
    else:
        assert codes[0].code == code
    assert codes[0].num_ids == (0 if code == RAW_FLAGS else min(ones, 100 - ones))


def test_the_largest_level_is_read_and_none_above():
    _, codes, reader, _ = coded([MAX_LEVEL], [True])
    assert Levels.read(codes, 1, reader).large.tolist() == [MAX_LEVEL]
    writer = RiceWriter()
    levels = levels_of([MAX_LEVEL], [True])
    codes = levels._replace(large=levels.large + 1).write(writer)
    with pytest.raises(WireError, match="above 65535"):
        Levels.read(codes, 1, RiceReader(*map(memoryview, writer.finish())))


@pytest.mark.parametrize("code", [64, 65, 128, 254])
def test_unknown_codes_are_refused(code):
    codes = [PlaneCode(code, 0)] * PLANES + [PlaneCode(0)]
    with pytest.raises(WireError, match=f"unknown code {code}"):
        Levels.read(codes, 3, RiceReader(memoryview(b""), memoryview(b"")))
