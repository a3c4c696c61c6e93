"""Coding of values layer by layer: floats, or one float32 scale and int8 or signs.

All numbers are little-endian. int8 values are ``round(v / scale)`` in -127 to 127 with
``scale = max|v| / 127``, written before them; they decode to ``scale · q`` in float32, one IEEE
multiplication each, so every machine gets the same bits. Ternary values are a sign bit each (1 is
negative), and decode to plus or minus the scale, which is ``mean|v|``. float16 saturates at ±65504.

Levels of the dead-zone quantiser, one step for a whole update, are in :mod:`rsdgc.codec.dead_zone`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from rsdgc.arrays import check_finite, chunks, max_magnitude
from rsdgc.errors import WireError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsdgc.arrays import Float32
    from rsdgc.scheme import ValueKind

    Buffer = bytes | memoryview

ITEM_BITS: dict[ValueKind, int] = {"float32": 32, "float16": 16, "int8": 8, "ternary": 1}
SCALE_BYTES: dict[ValueKind, int] = {"float32": 0, "float16": 0, "int8": 4, "ternary": 4}
_FLOAT16_MAX = 65504.0
_FLOAT32_MAX = float(np.finfo(np.float32).max)


def value_bytes(count: int, kind: ValueKind) -> int:
    """Return the encoded size of ``count`` values of one layer; 0 for none."""
    return SCALE_BYTES[kind] + (count * ITEM_BITS[kind] + 7) // 8 if count else 0


def encode_values(values: Float32, kind: ValueKind) -> list[Buffer]:
    """Encode the values of one layer.

    Parameters
    ----------
    values : float32 [n]
        Finite, contiguous.
    kind : {"float32", "float16", "int8", "ternary"}
        The coding.

    Returns
    -------
    list of bytes-like
        To be joined: together ``value_bytes(n, kind)`` long. float32 shares ``values``' memory.

    Raises
    ------
    RsdgcError
        If a value is NaN or infinite.
    """
    largest = max_magnitude(values)
    check_finite(largest)
    if values.size == 0:
        return []
    if kind == "float32":
        return [_raw(values.astype("<f4", copy=False))]
    if kind == "float16":
        return [_raw(_halves(values))]
    if kind == "ternary":
        scale = np.float32(np.abs(values).mean(dtype=np.float64))
        return [scale.astype("<f4").tobytes(), np.packbits(np.signbit(values)).data]
    scale = _int8_scale(largest)
    return [scale.astype("<f4").tobytes(), _raw(_quantize(values, scale))]


def decode_values(buffer: memoryview, count: int, kind: ValueKind) -> Float32:
    """Decode values that a peer sent; the inverse of :func:`encode_values`.

    Parameters
    ----------
    buffer : memoryview of bytes
        Exactly ``value_bytes(count, kind)`` long.
    count : int
        Number of values.
    kind : {"float32", "float16", "int8", "ternary"}
        The coding.

    Returns
    -------
    float32 [count]
        Finite. May share the buffer's memory, read-only: copy before writing to it.

    Raises
    ------
    WireError
        If the length is another, or a value or the scale is not valid.
    """
    if len(buffer) != value_bytes(count, kind):
        msg = f"{count} {kind} values need {value_bytes(count, kind)} bytes, not {len(buffer)}"
        raise WireError(msg)
    if count == 0:
        return np.empty(0, dtype=np.float32)
    if kind == "int8":
        return _dequantize(buffer)
    if kind == "ternary":
        return _signed(buffer, count)
    raw = np.frombuffer(buffer, dtype="<f4" if kind == "float32" else "<f2")
    values: Float32 = raw.astype(np.float32, copy=False)
    if not math.isfinite(max_magnitude(values)):
        msg = f"the upload holds {kind} values that are NaN or infinite: refuse it"
        raise WireError(msg)
    return values


def _raw(array: NDArray[Any]) -> memoryview:
    return array.view(np.uint8).data


def _halves(values: Float32) -> NDArray[np.float16]:
    out = np.empty(values.size, dtype="<f2")
    for part in chunks(values.size):
        out[part] = np.clip(values[part], -_FLOAT16_MAX, _FLOAT16_MAX)
    return out


def _int8_scale(largest: float) -> np.float32:
    """Return ``largest / 127``, rounded down where 127 times it would pass float32's range."""
    scale = np.float32(largest / 127)
    if float(scale) * 127 > _FLOAT32_MAX:
        scale = np.nextafter(scale, np.float32(0))
    return scale


def _quantize(values: Float32, scale: np.float32) -> NDArray[np.int8]:
    out = np.zeros(values.size, dtype=np.int8)
    if scale == 0:  # the largest magnitude is below 127 of the smallest float32
        return out
    for part in chunks(values.size):
        levels = values[part] / scale
        np.clip(np.rint(levels, out=levels), -127, 127, out=levels)
        out[part] = levels
    return out


def _signed(buffer: memoryview, count: int) -> Float32:
    scale = np.float32(np.frombuffer(buffer[:4], dtype="<f4")[0])
    if not 0 <= float(scale) <= _FLOAT32_MAX:
        msg = f"the upload has a ternary scale of {scale}: it must be finite, 0 or more"
        raise WireError(msg)
    bits = np.unpackbits(np.frombuffer(buffer[4:], dtype=np.uint8))
    if bits[count:].any():
        msg = "the upload's signs end in padding bits that are not zero: refuse it"
        raise WireError(msg)
    values = np.full(count, scale, dtype=np.float32)
    return np.negative(values, out=values, where=bits[:count].view(np.bool_))


def _dequantize(buffer: memoryview) -> Float32:
    scale = np.float32(np.frombuffer(buffer[:4], dtype="<f4")[0])
    levels = np.frombuffer(buffer[4:], dtype=np.int8)
    if not 0 <= float(scale) * 127 <= _FLOAT32_MAX:
        msg = f"the upload has an int8 scale of {scale}: it must be finite, 0 or more"
        raise WireError(msg)
    if levels.min() < -127:
        msg = "the upload holds the int8 value -128, which no encoder writes: refuse it"
        raise WireError(msg)
    values = levels.astype(np.float32)
    values *= scale
    return values
