"""Vectors in memory-mapped files, computed in place in the file that will hold them.

A site's replica and residual are as large as its model. The page faults of a new array of that
size cost more than all arithmetic on it, and writing it to a file costs as much again. A mapped
file whose pages are in memory costs neither. So every vector is computed in its file, and a file
that is no longer needed is reused, as a *spare*, for the next vector.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from xxhash import xxh3_64_intdigest

from rsdgc.arrays import Float32

VALUE_BYTES = 4


def create_vector(path: Path, size: int, spare: Path | None = None) -> Float32:
    """Map a file for a new float32 vector [size], whose values are undefined.

    A ``spare`` of the right size is renamed and used again. What is written to the vector is on the
    disk after :func:`rsdgc.durable.sync`. A full disk raises :class:`OSError` here, not later.
    """
    length = size * VALUE_BYTES
    if spare is not None and spare.exists() and spare.stat().st_size == length:
        os.replace(spare, path)
    else:
        with path.open("wb") as file:
            # Claims the blocks now. With ftruncate a full disk would show only when a page is
            # written, as SIGBUS, which kills the process.
            os.posix_fallocate(file.fileno(), 0, length)
    return _map(path, size, "r+")


def open_vector(path: Path, size: int, mode: Literal["r", "c"] = "r") -> Float32:
    """Map an existing float32 vector [size]; its pages are read when they are used.

    In mode ``"c"`` (copy on write) the vector may be written to, without effect on the file.
    Raises :class:`ValueError` if the file has another length.
    """
    length = path.stat().st_size
    if length != size * VALUE_BYTES:
        raise ValueError(f"{path.name} has {length} bytes instead of {size * VALUE_BYTES}")
    return _map(path, size, mode)


def checksum(content: Float32 | bytes) -> int:
    """Return the XXH3 of a vector or of bytes, 64 bits.

    It detects accidental damage, much faster than a cryptographic hash would. A hash would not
    protect more: whoever can change a state can change the hash next to it.
    """
    return int(xxh3_64_intdigest(_bytes_of(content)))


def is_intact(content: Float32 | bytes, expected: int) -> bool:
    """Return whether a vector or bytes have a checksum; states of earlier versions have CRC-32."""
    return expected == checksum(content) or expected == zlib.crc32(_bytes_of(content))


def _bytes_of(content: Float32 | bytes) -> bytes | memoryview:
    if isinstance(content, bytes):
        return content
    return np.ascontiguousarray(content).data.cast("B")


def _map(path: Path, size: int, mode: Literal["r", "r+", "c"]) -> Float32:
    mapped = np.memmap(path, dtype="<f4", mode=mode, shape=(size,))
    # A plain array, for np.memmap slows small operations; it keeps the map open.
    return np.asarray(mapped).view(np.float32)
