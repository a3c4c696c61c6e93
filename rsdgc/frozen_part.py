"""The part of a model that is never sent in a round: what every site starts from and keeps.

It holds the frozen layers, and the values before training of what is not in the shared vector:
running statistics, and buffers that never change. A site builds it for itself, from the seed or
from a file of weights, and compares its digest with the server's. A site whose part differs is sent
the server's once: the values of all arrays in their order, without names, which both ends know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np

from rsdgc.arrays import Float32, UInt8
from rsdgc.errors import WireError

DIGEST_BYTES = 16


class FrozenPart:
    """Named arrays that are the same at the server and at all sites.

    Parameters
    ----------
    arrays : mapping of str to float32 or uint8 array
        In an order that both ends know; not copied, and not to be changed. Arrays of uint8 are the
        bytes of values of any type.
    """

    def __init__(self, arrays: Mapping[str, Float32 | UInt8]) -> None:
        self.arrays = dict(arrays)

    @cached_property
    def digest(self) -> bytes:
        """Sixteen bytes that identify names, shapes and the exact bits of the values: SHA-256."""
        digest = hashlib.sha256()
        for name, array in self.arrays.items():
            # Every length goes before what it measures, so different parts never hash equal bytes.
            encoded = name.encode()
            for number in (len(encoded), array.ndim, *array.shape):
                digest.update(number.to_bytes(8, "little"))
            digest.update(encoded)
            digest.update(_bytes_of(array))
        return digest.digest()[:DIGEST_BYTES]

    @property
    def size(self) -> int:
        """Values of all arrays."""
        return sum(array.size for array in self.arrays.values())

    @property
    def num_bytes(self) -> int:
        """Bytes of the packed part."""
        return sum(array.nbytes for array in self.arrays.values())

    def pack(self) -> bytes:
        """Return the values of all arrays, little-endian."""
        return b"".join(_bytes_of(array) for array in self.arrays.values())

    def unpack(self, buffer: bytes, digest: bytes) -> FrozenPart:
        """Return the part of the same names and shapes that another end has packed.

        Raises
        ------
        WireError
            It has another size, a float32 value that is not finite, or not this digest.
        """
        if len(buffer) != self.num_bytes:
            raise WireError(
                f"a frozen part of {self.num_bytes} bytes is expected, and {len(buffer)} arrived: "
                "the server and all sites must build the same model"
            )
        arrays: dict[str, Float32 | UInt8] = {}
        start = 0
        for name, array in self.arrays.items():
            values: Any = np.frombuffer(buffer, _wire_type(array), array.size, start)
            arrays[name] = values.astype(array.dtype, copy=False).reshape(array.shape)
            if not np.isfinite(arrays[name]).all():
                raise WireError(f"{name} of the frozen part is not finite")
            start += array.nbytes
        part = FrozenPart(arrays)
        if part.digest != digest:
            raise WireError("the frozen part arrived damaged: its digest is not the server's")
        return part


def _bytes_of(array: Float32 | UInt8) -> bytes:
    return np.ascontiguousarray(array, dtype=_wire_type(array)).tobytes()


def _wire_type(array: Float32 | UInt8) -> str:
    return "u1" if array.dtype == np.uint8 else "<f4"
