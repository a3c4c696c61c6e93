from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import WireError
from rsdgc.codec.byte_stream import MAX_VARINT_BYTES, ByteReader, encode_varint
from tests.rsdgc.forge import leb128


def read(data):
    reader = ByteReader(data)
    return reader.read_varint(), bytes(reader.take(reader.remaining, "the rest"))


@given(st.integers(0, 2**35 - 1), st.binary(max_size=3))
def test_round_trip(number, rest):
    data = encode_varint(number)
    assert data == leb128(number)
    assert len(data) == max(1, -(-number.bit_length() // 7)) <= MAX_VARINT_BYTES
    assert read(data + rest) == (number, rest)


@pytest.mark.parametrize(
    ("number", "data"), [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02"), (16384, "808001")]
)
def test_examples(number, data):
    assert encode_varint(number).hex() == data


@pytest.mark.parametrize("data", ["8000", "ff00", "80808000", "8080808000", "808080808001"])
def test_codes_longer_than_they_need_to_be_are_refused(data):
    with pytest.raises(WireError, match="more bytes than it needs"):
        read(bytes.fromhex(data))


def test_fields_come_off_the_front():
    reader = ByteReader(b"\x00\x01\x02\xac\x02\x05", 1)
    assert reader.read_byte() == 1
    assert bytes(reader.take(1, "it")) == b"\x02"
    assert reader.read_varint() == 300
    assert reader.remaining == 1
    assert bytes(reader.take(0, "nothing")) == b""
    assert reader.position == 5


@pytest.mark.parametrize("size", [4, 2**63])
def test_more_than_there_is_cannot_be_taken(size):
    reader = ByteReader(b"abc")
    with pytest.raises(WireError, match=f"the ids needs {size} bytes and the upload has 3 left"):
        reader.take(size, "the ids")
    assert reader.remaining == 3


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff\xff\xff"])
def test_counts_that_are_cut_off_are_refused(data):
    with pytest.raises(WireError, match="0 left"):
        ByteReader(data).read_varint()
