"""Which values of samples are data, where no value of their type is free to say it: packed bits.

A store has such a layer for a modality of whole numbers whose files declare no nodata value, or
several different ones, and that has invalid pixels. It holds a bit for each value, 1 for data: the
bits of a line of pixels (of a pixel's bands, in a store of pixels) are packed to bytes, the first
pixel in the highest bit, and the last byte is filled up with zeros.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pack(valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pack a mask (…, width) to bits, uint8 (…, ⌈width / 8⌉)."""
    return np.packbits(valid, axis=-1)


def unpack(bits: NDArray[np.uint8], width: int) -> NDArray[np.bool_]:
    """Return the mask (…, width) of packed bits."""
    return np.unpackbits(bits, axis=-1, count=width).view(np.bool_)


def packed_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the bits of an array."""
    return (*shape[:-1], -(-shape[-1] // 8))


def all_valid(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the bits of an array that is all data; not to be written to."""
    line = pack(np.ones(shape[-1], np.bool_))
    return np.broadcast_to(line, packed_shape(shape))
