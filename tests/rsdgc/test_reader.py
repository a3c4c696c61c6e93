import pytest

from rsdgc import WireError
from rsdgc.reader import Reader


def test_fields_come_off_the_front():
    reader = Reader(b"\x00\x01\x02\xac\x02\x05", 1)
    assert reader.byte() == 1
    assert bytes(reader.take(1, "it")) == b"\x02"
    assert reader.count() == 300
    assert reader.remaining == 1
    assert bytes(reader.take(0, "nothing")) == b""
    assert reader.position == 5


@pytest.mark.parametrize("size", [4, 2**63])
def test_more_than_there_is_cannot_be_taken(size):
    reader = Reader(b"abc")
    with pytest.raises(WireError, match=f"the ids needs {size} bytes and the upload has 3 left"):
        reader.take(size, "the ids")
    assert reader.remaining == 3


@pytest.mark.parametrize("data", [b"", b"\x80", b"\xff\xff\xff"])
def test_counts_that_are_cut_off_are_refused(data):
    with pytest.raises(WireError, match="0 left"):
        Reader(data).count()
