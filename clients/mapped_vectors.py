"""Vectors that live in files: mapped, not read, and formed where they will be kept.

A site's replica and residual are as large as its model. A fresh array of that size costs more in
page faults than all arithmetic on it, and writing it out costs as much again; a mapped file that
was used before costs neither. So every vector is formed in the file that will hold it, and a file
that is no longer needed becomes the memory of the next.
"""

from __future__ import annotations

import os
import zlib
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from rsdgc.arrays import Float32

VALUE_BYTES = 4


def create_vector(path: Path, size: int, spare: Path | None = None) -> Float32:
    """Map a file for a new vector; its values are whatever they are.

    Parameters
    ----------
    path : Path
        The file to make; replaced if it is there.
    size : int
        Values in the vector.
    spare : Path, optional
        A file that nobody needs any more: it is taken, where it has the size.

    Returns
    -------
    float32 [size]
        What is written here is in the file at once, and on the disk after
        :func:`rsdgc.durable.sync`.

    Raises
    ------
    OSError
        There is no room: the file's blocks are claimed here, so that no later write can fail.
    """
    length = size * VALUE_BYTES
    if spare is not None and spare.exists() and spare.stat().st_size == length:
        os.replace(spare, path)
    else:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, length)
    return _map(path, size, "r+")


def open_vector(path: Path, size: int, mode: Literal["r", "c"] = "r") -> Float32:
    """Map a kept vector; nothing is read before it is used.

    Parameters
    ----------
    path : Path
        The file.
    size : int
        Values that it must have.
    mode : {"r", "c"}
        For reading, or also for writing what the file does not keep.

    Raises
    ------
    OSError
        It is missing or may not be read.
    ValueError
        It has another length.
    """
    length = path.stat().st_size
    if length != size * VALUE_BYTES:
        raise ValueError(f"{path.name} has {length} bytes instead of {size * VALUE_BYTES}")
    return _map(path, size, mode)


def checksum(content: NDArray[np.float32] | bytes) -> int:
    """CRC-32, which finds accidents."""
    if isinstance(content, bytes):
        return zlib.crc32(content)
    return zlib.crc32(np.ascontiguousarray(content).data.cast("B"))


def _map(path: Path, size: int, mode: Literal["r", "r+", "c"]) -> Float32:
    mapped = np.memmap(path, dtype="<f4", mode=mode, shape=(size,))
    return np.asarray(mapped).view(np.float32)  # a plain array that keeps the map open
