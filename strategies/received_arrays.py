"""What is in an array that a peer sent. Flower's ``Array.numpy()`` trusts the peer."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import Array

from rsdgc.arrays import Float32
from rsdgc.errors import WireError
from rsdgc.npy_format import read_npy_bytes, read_npy_floats

_SERIALIZATION = "numpy.ndarray"


def received_bytes(array: Array) -> memoryview:
    """Return the content of a one-dimensional array of bytes, without a copy.

    Raises
    ------
    WireError
        It is another array, or not what its description says.
    """
    content = read_npy_bytes(array.data)
    _check_description(array, "uint8", (len(content),))
    return content


def received_floats(array: Array, shape: Sequence[int]) -> Float32:
    """Return the content of a float32 array of a given shape, read-only, without a copy.

    Raises
    ------
    WireError
        It is another array, or not what its description says.
    """
    values = read_npy_floats(array.data, shape)
    _check_description(array, "float32", values.shape)
    return values


def rebuilt_array(values: Float32, data: bytes) -> Array:
    """Return a checked array, with the description of its content instead of the peer's."""
    return Array("float32", values.shape, _SERIALIZATION, data)


def _check_description(array: Array, dtype: str, shape: tuple[int, ...]) -> None:
    if (array.stype, array.dtype, array.shape) != (_SERIALIZATION, dtype, shape):
        described = f"{array.stype} {array.dtype}{list(array.shape)}"
        raise WireError(f"an array of {dtype}{list(shape)} is described as {described:.200}")
