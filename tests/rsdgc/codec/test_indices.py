from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import Neighborhoods, SettingError, WireError
from rsdgc.codec.byte_stream import ByteReader
from rsdgc.codec.golomb_rice import MAX_RICE, RiceReader
from rsdgc.codec.indices import (
    ALL_KEPT,
    KeptNeighborhoods,
    all_ids,
    bytes_from_bits,
    check_ids,
    encode_ids,
    read_counts,
    read_ids,
)
from tests.rsdgc.examples import normal


@given(st.lists(st.integers(0, 10_000), max_size=40), st.integers(1, 7))
def test_whole_bytes_add_up(eighths, divisor):
    bits = np.array(eighths, dtype=np.float64) / divisor
    found = bytes_from_bits(bits)
    assert len(found) == len(eighths)
    assert sum(found) == np.rint(bits.sum() / 8)
    assert (np.abs(np.array(found) - bits / 8) <= 1 + 1e-6).all()


def test_all_ids_are_left_out_where_they_say_nothing():
    assert all_ids(Neighborhoods(4, 13, 1, 9)) is None
    assert all_ids(Neighborhoods(4, 13, 2, 2)).tolist() == list(range(14))


def test_sizes_and_parts_of_what_is_coded():
    grid = Neighborhoods(2, 20, 1, 5)
    layers = [
        KeptNeighborhoods(grid, ids, grid.gather(normal(40), ids))
        for ids in (np.arange(8), np.array([1, 5]), np.arange(0))
    ]
    for indices, id_bytes in (("rice", 1), ("int32", 8)):
        coded = encode_ids(layers, indices)
        assert coded.counts == b"\x02\x00"
        assert coded.size == 2 + len(coded.unary) + len(coded.plain) + len(coded.raw_ids)
        assert coded.kept == layers
        assert [layer.is_complete for layer in layers] == [True, False, False]
        assert bytes_from_bits(coded.layer_bits) == [0, id_bytes, 0]


NOTHING = np.empty(0, np.float32)


@st.composite
def layers(draw):
    found = []
    for _ in range(draw(st.integers(0, 5))):
        count = draw(st.one_of(st.integers(1, 9), st.integers(1, 2**31 - 1)))
        ids = draw(st.sets(st.integers(0, count - 1), max_size=40))
        found.append(
            KeptNeighborhoods(
                Neighborhoods(1, count, 1, 1), np.array(sorted(ids), np.int64), NOTHING
            )
        )
    return found


@given(layers(), st.sampled_from(["rice", "int32"]))
def test_round_trip(kept, indices):
    coded = encode_ids(kept, indices)
    grids = [layer.grid for layer in kept]
    reader = ByteReader(coded.counts)
    counts = read_counts(coded.codes, grids, reader)
    assert reader.remaining == 0
    assert counts == [layer.ids.size for layer in kept]
    streams = RiceReader(memoryview(coded.unary), memoryview(coded.plain))
    assert indices == "int32" or coded.raw_ids == b""
    raw = ByteReader(coded.raw_ids)
    found, bits = read_ids(coded.codes, counts, grids, indices, raw, streams)
    assert raw.remaining == 0
    streams.finish()
    assert np.array_equal(bits, coded.layer_bits)
    for code, ids, layer in zip(coded.codes, found, kept, strict=True):
        if layer.ids.size == layer.grid.count:
            assert (code, ids) == (ALL_KEPT, None)
            continue
        assert code <= MAX_RICE
        assert ids.dtype == np.int64
        assert np.array_equal(ids, layer.ids)


def read_one(code, count, grid, indices, raw=b""):
    streams = RiceReader(memoryview(b""), memoryview(b""))
    return read_ids([code], [count], [grid], indices, ByteReader(raw), streams)[0][0]


@pytest.mark.parametrize("indices", ["rice", "int32"])
def test_all_ids_of_tiles_are_there(indices):
    grid = Neighborhoods(4, 4, 2, 2)
    assert read_one(ALL_KEPT, 4, grid, indices).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("ids", [[1, 1], [2, 1], [-1, 3], [0, 10], [10], [-1], [0, 2, 1, 5]])
def test_bad_ids_are_not_encoded(ids):
    with pytest.raises(SettingError, match="increase strictly"):
        check_ids(np.array(ids, dtype=np.int64), 10)


@pytest.mark.parametrize("ids", [[], [0], [9], [0, 9], list(range(10))])
def test_good_ids_are(ids):
    check_ids(np.array(ids, dtype=np.int64), 10)


@pytest.mark.parametrize(
    ("code", "count"), [(0, "0a"), (0, "0b"), (32, "01"), (253, "01"), (3, "00"), (0, "8a00")]
)
def test_bad_counts_are_refused(code, count):
    with pytest.raises(WireError):
        read_counts([code], [Neighborhoods(1, 10, 1, 1)], ByteReader(bytes.fromhex(count)))


@pytest.mark.parametrize("ids", [[1, 1], [2, 1], [0, 10], [0, 2**32 - 1], [3]])
def test_bad_plain_ids_are_refused(ids):
    grid = Neighborhoods(1, 10, 1, 1)
    with pytest.raises(WireError):
        read_one(0, 2, grid, "int32", np.array(ids, dtype="<u4").tobytes())
    with pytest.raises(WireError, match="has the code 3"):
        read_one(3, 1, grid, "int32", bytes(4))
