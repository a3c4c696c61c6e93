"""The value codings that work layer by layer: float32, float16, int8, ternary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsdgc.arrays import Float32, chunks, max_magnitude
from rsdgc.codec.values import VALUE_CODINGS, Buffer, LayerCoding
from rsdgc.errors import WireError

_FLOAT16_MAX = 65504.0
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@VALUE_CODINGS.register("float32")
class Float32Coding(LayerCoding):
    """The values as they are."""

    code = 0
    bits_per_value = 32
    for_whole_layers = True

    def encode(self, values: Float32) -> Sequence[Buffer]:
        """Return the values' own memory."""
        # A copy is made on big-endian machines only.
        return [_as_bytes(values.astype("<f4", copy=False))]

    def decode(self, buffer: memoryview, count: int) -> Float32:
        """Return a view of the buffer."""
        return np.frombuffer(buffer, dtype="<f4").astype(np.float32, copy=False)


@VALUE_CODINGS.register("float16")
class Float16Coding(LayerCoding):
    """Half precision, saturating at ±65504; error feedback keeps the rest."""

    code = 1
    bits_per_value = 16
    for_whole_layers = True

    def encode(self, values: Float32) -> Sequence[Buffer]:
        """Round to half precision."""
        out = np.empty(values.size, dtype="<f2")
        # In chunks, so that clipping needs no second array of the layer's size.
        for part in chunks(values.size):
            out[part] = np.clip(values[part], -_FLOAT16_MAX, _FLOAT16_MAX)
        return [_as_bytes(out)]

    def decode(self, buffer: memoryview, count: int) -> Float32:
        """Widen to float32."""
        return np.frombuffer(buffer, dtype="<f2").astype(np.float32)


@VALUE_CODINGS.register("int8")
class Int8Coding(LayerCoding):
    """A float32 scale ``s = max|v| / 127``, then ``q = round(v / s)`` in -127 to 127.

    A value decodes to ``s · q`` in float32. That is one IEEE multiplication, so every machine gets
    the same bits.
    """

    code = 2
    bits_per_value = 8
    overhead_bytes = 4
    for_whole_layers = True
    always_finite = True

    def encode(self, values: Float32) -> Sequence[Buffer]:
        """Write the scale, then the rounded quotients."""
        scale = np.float32(max_magnitude(values) / 127)
        if float(scale) * 127 > _FLOAT32_MAX:  # rounded up beyond what the decoder accepts
            scale = np.nextafter(scale, np.float32(0))
        out = np.zeros(values.size, dtype=np.int8)
        if scale > 0:  # it is 0 if all magnitudes are below 127 of the smallest float32
            for part in chunks(values.size):
                levels = values[part] / scale
                np.clip(np.rint(levels, out=levels), -127, 127, out=levels)
                out[part] = levels
        return [scale.astype("<f4").tobytes(), _as_bytes(out)]

    def decode(self, buffer: memoryview, count: int) -> Float32:
        """Multiply by the scale; the checks make every product finite."""
        scale = _read_scale(buffer, "int8", 127)
        levels = np.frombuffer(buffer[4:], dtype=np.int8)
        if levels.min() < -127:
            msg = "the upload holds the int8 value -128, which no encoder writes"
            raise WireError(msg)
        values = levels.astype(np.float32)
        values *= scale
        return values


@VALUE_CODINGS.register("ternary")
class TernaryCoding(LayerCoding):
    """A float32 scale ``s = mean|v|``, then a sign bit for each value: ``-s`` where it is 1.

    Values that are not sent are the third level, zero.
    """

    code = 3
    bits_per_value = 1
    overhead_bytes = 4
    always_finite = True

    def encode(self, values: Float32) -> Sequence[Buffer]:
        """Write the scale, then the signs."""
        scale = np.float32(np.abs(values).mean(dtype=np.float64))
        return [scale.astype("<f4").tobytes(), np.packbits(np.signbit(values)).data]

    def decode(self, buffer: memoryview, count: int) -> Float32:
        """Give the scale the signs."""
        scale = _read_scale(buffer, "ternary", 1)
        bits = np.unpackbits(np.frombuffer(buffer[4:], dtype=np.uint8))
        if bits[count:].any():
            raise WireError("the upload's signs end in padding bits that are not zero")
        values = np.full(count, scale, dtype=np.float32)
        return np.negative(values, out=values, where=bits[:count].view(np.bool_))


def _as_bytes(array: NDArray[Any]) -> memoryview:
    return array.view(np.uint8).data


def _read_scale(buffer: memoryview, coding: str, largest: int) -> np.float32:
    scale = np.float32(np.frombuffer(buffer[:4], dtype="<f4")[0])
    if not 0 <= float(scale) * largest <= _FLOAT32_MAX:
        raise WireError(f"the upload's {coding} scale is {scale}: it must be finite, 0 or more")
    return scale
