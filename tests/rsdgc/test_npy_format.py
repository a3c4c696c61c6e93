import io
import struct
import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from rsdgc.errors import WireError
from rsdgc.npy_format import read_npy_bytes, read_npy_floats

FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3)


def saved(array: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def with_header(text: str, data: bytes = bytes(24), version: bytes = b"\x01\x00") -> bytes:
    """Return a file with a header of one's own, padded as NumPy pads it."""
    header = text.encode("latin-1")
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data


def header(shape: str = "(2, 3)", descr: str = "'<f4'", order: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"


@given(st.binary(max_size=300))
def test_bytes_as_numpy_saves_them(content: bytes) -> None:
    assert bytes(read_npy_bytes(saved(np.frombuffer(content, np.uint8)))) == content


@given(arrays(np.float32, st.lists(st.integers(0, 4), max_size=5).map(tuple)))
def test_floats_as_numpy_saves_them(values: NDArray[np.float32]) -> None:
    read = read_npy_floats(saved(values), values.shape)
    assert read.tobytes() == values.tobytes()
    assert (read.dtype, read.shape) == (np.float32, values.shape)
    assert not read.flags.writeable


def test_the_tests_own_header_is_numpys() -> None:
    assert np.array_equal(np.load(io.BytesIO(with_header(header()))), np.zeros((2, 3)))
    read_npy_floats(with_header(header()), (2, 3))


REFUSED = {
    "another shape": saved(FLOATS.T.copy()),
    "a flat one": saved(FLOATS.reshape(-1)),
    "a leading one": saved(FLOATS.reshape(1, 2, 3)),
    "a scalar": saved(np.float32(1)),
    "column order": saved(np.asfortranarray(FLOATS)),
    "float64": saved(FLOATS.astype(np.float64)),
    "float64 beyond float32": saved(np.full((2, 3), 1e300)),
    "float16": saved(FLOATS.astype(np.float16)),
    "int32": saved(FLOATS.astype(np.int32)),
    "booleans": saved(FLOATS.astype(np.bool_)),
    "complex": saved(FLOATS.astype(np.complex64)),
    "strings": saved(FLOATS.astype("U4")),
    "big-endian": saved(FLOATS.astype(">f4")),
    "records": saved(np.zeros((2, 3), [("a", "<f4")])),
    "2^45 elements": with_header(header(f"({2**45},)")),
    "2^45 bytes": with_header(header(f"({2**45},)", "'|u1'")),
    "2^63 elements": with_header(header(f"({2**63},)")),
    "elements whose product wraps to six": with_header(header(f"({2**32}, {2**32}, 6)")),
    "a negative size": with_header(header("(-2, -3)")),
    "a size of True": with_header(header("(True, 6)")),
    "a size in words": with_header(header("(2, 'x')")),
    "nested parentheses": with_header(header("(" * 150 + ")" * 150)),
    "an expression": with_header(header("(2, 1+2)")),
    "objects": with_header(header(descr="'|O'")),
    "a pickle": b"\x80\x04K\x01.",
    "an archive": b"PK\x03\x04" + bytes(200),
    "a truncated archive": b"PK\x05\x06",
    "nothing": b"",
    "the magic alone": b"\x93NUMPY",
    "a header that is cut": saved(FLOATS)[:60],
    "a header longer than the file": b"\x93NUMPY\x01\x00\xff\xff" + bytes(100),
    "a header of NUL": b"\x93NUMPY\x01\x00\x76\x00" + bytes(118) + bytes(24),
    "version 2": b"\x93NUMPY\x02\x00" + struct.pack("<I", 116) + bytes(116) + bytes(24),
    "version 3 in the place of 1": with_header(header(), version=b"\x03\x00"),
    "another order of keys": with_header(
        "{'fortran_order': False, 'descr': '<f4', 'shape': (2, 3), }"
    ),
    "a key twice": with_header(header().replace("}", "'shape': (2, 3), }")),
    "an unaligned header": b"\x93NUMPY\x01\x00\x43\x00" + header().encode() + b"   \n" + bytes(24),
    "a byte too few": saved(FLOATS)[:-1],
    "a byte too many": saved(FLOATS) + b"\0",
    "two files": saved(FLOATS) + saved(FLOATS),
    "no values": saved(FLOATS)[:128],
    "a shape of 17 dimensions": with_header(header("(" + "1, " * 16 + "6)")),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_whatever_else_there_is_raises_a_wire_error(data: bytes) -> None:
    for read in (read_npy_bytes, lambda data: read_npy_floats(data, (2, 3))):
        tracemalloc.start()
        try:
            with pytest.raises(WireError) as caught:
                read(data)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < 100_000
        assert len(str(caught.value)) < 1000


@given(st.data(), st.sampled_from([(2, 3), ()]))
def test_mutants_are_refused_or_hold_as_many_bytes_as_arrived(
    data: st.DataObject, shape: Sequence[int]
) -> None:
    original = bytearray(saved(FLOATS if shape else np.float32(1)))
    for _ in range(data.draw(st.integers(1, 4))):
        original[data.draw(st.integers(0, len(original) - 1))] = data.draw(st.integers(0, 255))
    try:
        values = read_npy_floats(bytes(original), shape)
    except WireError:
        return
    assert values.shape == tuple(shape)
