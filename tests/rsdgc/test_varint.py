import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import WireError
from rsdgc.varint import MAX_BYTES, read_varint, varint
from tests.rsdgc.forge import leb128


def read(data):
    source = iter(data)
    return read_varint(lambda: next(source)), bytes(source)


@given(st.integers(0, 2**35 - 1), st.binary(max_size=3))
def test_round_trip(number, rest):
    data = varint(number)
    assert data == leb128(number)
    assert len(data) == max(1, -(-number.bit_length() // 7)) <= MAX_BYTES
    assert read(data + rest) == (number, rest)


@pytest.mark.parametrize(
    ("number", "data"), [(0, "00"), (127, "7f"), (128, "8001"), (300, "ac02"), (16384, "808001")]
)
def test_examples(number, data):
    assert varint(number).hex() == data


@pytest.mark.parametrize("data", ["8000", "ff00", "80808000", "8080808000", "808080808001"])
def test_codes_longer_than_they_need_to_be_are_refused(data):
    with pytest.raises(WireError, match="more bytes than it needs"):
        read(bytes.fromhex(data))
