"""Arrays in NumPy's file format, read strictly: for bytes that a peer sent.

``numpy.load`` guesses the format, parses the header as Python, and allocates what the header
claims. Here a header must be the very one that ``numpy.save`` writes for the array that is
expected, and the size that it states must be that of the bytes that arrived. Nothing is copied: the
arrays that are returned are views of these bytes.

NumPy's format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from rsdgc.arrays import Float32
from rsdgc.errors import WireError

_PREFIX_BYTES = 10
"""Magic, version 1.0, and the length of the header that follows as u16."""
_MAX_HEADER_BYTES = 512
"""Of prefix and header; 128 hold a shape of four dimensions."""
_ALIGNMENT = 64
_HEADER = re.compile(
    rb"\{'descr': '(?P<dtype>\|u1|<f4)', 'fortran_order': False, "
    rb"'shape': \((?P<shape>|[0-9]{1,15},|[0-9]{1,15}(?:, [0-9]{1,15}){1,15})\), \} *\n"
)


def read_npy_bytes(data: bytes) -> memoryview:
    """Return the content of a file of a one-dimensional uint8 array.

    Raises
    ------
    WireError
        It is no such file.
    """
    dtype, shape, start = _read_header(data)
    if dtype != "|u1" or len(shape) != 1:
        raise WireError(f"an array is {_kind(dtype, shape)}, not bytes")
    _check_size(data, start, shape[0])
    return memoryview(data)[start:]


def read_npy_floats(data: bytes, shape: Sequence[int]) -> Float32:
    """Return the content of a file of a float32 array, read-only, of a given shape.

    Raises
    ------
    WireError
        It is no such file, or the array has another shape.
    """
    dtype, stated, start = _read_header(data)
    expected = tuple(shape)
    if dtype != "<f4" or stated != expected:
        raise WireError(f"an array is {_kind(dtype, stated)}, not {_kind('<f4', expected)}")
    count = 1
    for size in stated:
        count *= size
    _check_size(data, start, 4 * count)
    return np.frombuffer(data, "<f4", count, start).reshape(expected)


def _read_header(data: bytes) -> tuple[str, tuple[int, ...], int]:
    """Return dtype, shape, and where the values start."""
    size = int.from_bytes(data[8:_PREFIX_BYTES], "little")
    start = _PREFIX_BYTES + size
    if data[:8] != b"\x93NUMPY\x01\x00" or start > min(len(data), _MAX_HEADER_BYTES):
        raise WireError("an array is not in NumPy's format")
    match = _HEADER.fullmatch(data, _PREFIX_BYTES, start)
    if match is None or start % _ALIGNMENT:
        raise WireError("an array is neither bytes nor float32 as NumPy writes them")
    shape = tuple(int(number) for number in match["shape"].split(b",") if number)
    return match["dtype"].decode("ascii"), shape, start


def _check_size(data: bytes, start: int, num_bytes: int) -> None:
    if len(data) - start != num_bytes:
        raise WireError(f"an array states {num_bytes} bytes, and {len(data) - start} arrived")


def _kind(dtype: str, shape: tuple[int, ...]) -> str:
    return f"{np.dtype(dtype)}{list(shape)}"
