"""The part of a model that is never sent in a round: what every site starts from and keeps.

It holds the frozen layers, and the values before training of what is not in the shared vector,
such as running statistics. A site builds it for itself, from the seed or from a file of weights,
and compares its digest with the server's. A site whose part differs is sent the server's once:
the float32 values of all arrays in their order, without names, which both ends know.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property

import numpy as np

from rsdgc.arrays import Float32
from rsdgc.errors import WireError

DIGEST_BYTES = 16


class FrozenPart:
    """Named arrays that are the same at the server and at all sites.

    Parameters
    ----------
    arrays : mapping of str to float32 array
        In an order that both ends know; not copied, and not to be changed.
    """

    def __init__(self, arrays: Mapping[str, Float32]) -> None:
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

    def pack(self) -> bytes:
        """Return the values of all arrays, float32 little-endian."""
        return b"".join(_bytes_of(array) for array in self.arrays.values())

    def unpack(self, buffer: bytes, digest: bytes) -> FrozenPart:
        """Return the part of the same names and shapes that another end has packed.

        Raises
        ------
        WireError
            It has another size, a value that is not finite, or not this digest.
        """
        if len(buffer) != 4 * self.size:
            raise WireError(
                f"a frozen part of {4 * self.size} bytes is expected, and {len(buffer)} arrived: "
                "the server and all sites must build the same model"
            )
        values = np.frombuffer(buffer, "<f4").astype(np.float32, copy=False)
        arrays: dict[str, Float32] = {}
        start = 0
        for name, array in self.arrays.items():
            arrays[name] = values[start : start + array.size].reshape(array.shape)
            if not np.isfinite(arrays[name]).all():
                raise WireError(f"{name} of the frozen part is not finite")
            start += array.size
        part = FrozenPart(arrays)
        if part.digest != digest:
            raise WireError("the frozen part arrived damaged: its digest is not the server's")
        return part


def _bytes_of(array: Float32) -> bytes:
    return np.ascontiguousarray(array, dtype="<f4").tobytes()
