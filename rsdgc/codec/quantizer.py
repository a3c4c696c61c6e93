"""The dead-zone quantizer: one step for a whole update, reconstruction at the centroids.

A value v has the level ``sign(v) · rint(|v| / step)``: values within half a step of zero fall into
the dead zone. A level of magnitude m stands for ``step · (m + offset)``, where the offset moves it
to the mean of the values that have it; levels of 3 and more share an offset. Offsets are whole
256ths, and the product is rounded to float32 once, so every machine decodes the same bits. It
saturates at the largest float32.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from rsdgc.arrays import Bools, Float32, Float64, Int64, UInt16, chunks, expand
from rsdgc.codec.bit_planes import MAX_LEVEL, PLANES, Levels
from rsdgc.errors import SettingError, WireError

FINEST_STEP = float(np.finfo(np.float32).tiny)
"""Smallest step. Some machines round smaller (subnormal) numbers to zero and would differ."""
COARSEST_STEP = float(np.finfo(np.float32).max)
"""Largest step, and largest magnitude that a level stands for."""
OFFSET_UNITS = 256
"""Offsets are stored in 256ths of a step, in a signed byte: up to half a step either way."""

_HALF = np.float32(0.5)
_LAYOUT = struct.Struct(f"<f{PLANES}b")


@dataclass(frozen=True)
class Quantizer:
    """A step and the offsets of its levels; both travel in the table of the coding."""

    NUM_BYTES: ClassVar[int] = _LAYOUT.size

    step: float  #: :data:`FINEST_STEP` to :data:`COARSEST_STEP`; rounded to float32
    #: 256ths of a step to add to levels 1, 2, and 3 and more; -128 to 127
    offsets: tuple[int, ...] = (0,) * PLANES

    def __post_init__(self) -> None:
        if not FINEST_STEP <= self.step <= COARSEST_STEP:
            msg = f"the quantizer's step is {self.step}: choose {FINEST_STEP} to {COARSEST_STEP}"
            raise SettingError(msg)
        # Encoder and decoder must divide and multiply by the same number, the one on the wire.
        object.__setattr__(self, "step", float(np.float32(self.step)))

    def pack(self) -> bytes:
        """Return step (float32) and offsets (a signed byte each), little-endian."""
        return _LAYOUT.pack(self.step, *self.offsets)

    @classmethod
    def unpack(cls, buffer: memoryview) -> Quantizer:
        """Return the quantizer that a peer packed; :class:`WireError` if its step is not valid."""
        step, *offsets = _LAYOUT.unpack(buffer)
        try:
            return cls(step, tuple(offsets))
        except SettingError as error:
            raise WireError(str(error)) from None

    @classmethod
    def fit(cls, step: float, magnitudes: Float32, weights: Float64) -> Quantizer:
        """Return a quantizer whose offsets are the centroids of a sample's magnitudes.

        The weights say how many values each of them stands for.
        """
        # Kind k collects the values of level k, and the last kind those of all larger levels.
        scaled = np.minimum(magnitudes / np.float32(cls(step).step), MAX_LEVEL)
        nearest = np.rint(scaled)
        kinds = np.minimum(nearest, PLANES).astype(np.int64)
        count = np.bincount(kinds, weights, PLANES + 1)
        total = np.bincount(kinds, weights * (scaled - nearest), PLANES + 1)
        # The tiny divisor gives a level without values the offset 0.
        units = np.rint(OFFSET_UNITS * total / np.maximum(count, np.finfo(np.float64).tiny))
        return cls(step, tuple(int(unit) for unit in np.clip(units, -128, 127)[1:]))

    def is_outside(self, values: Float32) -> Bools:
        """Return which finite values lie outside the dead zone; bool [n] of float32 [n]."""
        with np.errstate(over="ignore"):
            outside: Bools = np.abs(values / np.float32(self.step)) > _HALF
        return outside

    def quantize(self, pieces: Iterable[Float32], size: int) -> Levels:
        """Return the levels of ``size`` finite values that come in pieces."""
        outside = np.empty(size, dtype=np.bool_)

        def split() -> Iterator[tuple[UInt16, Bools]]:
            filled = 0
            for values in pieces:
                flags, _, scaled = self._split(values)
                outside[filled : filled + flags.size] = flags
                filled += flags.size
                yield _magnitudes(scaled), np.signbit(scaled)

        return Levels.from_magnitudes(outside, split())

    def dequantize(self, levels: Levels) -> Float32:
        """Return the values of levels, float32 [n]: 0 in the dead zone, always finite."""
        # From the innermost plane outwards: each plane places the values of the one above it.
        out = self._values_of(levels.large, PLANES)
        for level in range(PLANES - 1, -1, -1):
            flags, above = levels.flags[level], out
            if level == 0:
                for part in chunks(above.size):
                    # Setting the sign bit itself needs no array of factors.
                    sign = levels.negative[part].astype(np.uint32) << 31
                    above.view(np.uint32)[part] ^= sign
            out = expand(above, flags, self._values_of(np.array([level]), level)[0])
        return out

    def reconstruct(self, pieces: Iterable[Float32], out: Float32) -> Float32:
        """Write what a decoder makes of pieces of finite values to the start of ``out``.

        The bits are those of :meth:`dequantize` of :meth:`quantize`, but no array of that size is
        allocated: each piece is read completely before its result is written, so ``out`` may be
        the memory that they come from. Returns the part of it that was written.
        """
        # Values have few distinct levels, so looking the results up is faster than computing them,
        # and it returns the bits of dequantize. The table grows when a larger level appears.
        filled, table = 0, self._table(PLANES)
        for values in pieces:
            _, where, scaled = self._split(values)
            magnitudes = _magnitudes(scaled)
            if (largest := int(magnitudes.max(initial=0))) >= table.size:
                table = self._table(largest)
            part = out[filled : filled + values.size]
            part[:] = 0.0
            part[where] = np.copysign(table.take(magnitudes), scaled)
            filled += values.size
        return out[:filled]

    def _split(self, values: Float32) -> tuple[Bools, Int64, Float32]:
        """Return flags of the values outside the dead zone, their indices, and ``value / step``."""
        with np.errstate(over="ignore"):
            scaled = values / np.float32(self.step)
        flags = np.abs(scaled) > _HALF
        where = np.flatnonzero(flags)
        return flags, where, scaled.take(where)

    def _table(self, largest: int) -> Float32:
        """Return the values of the magnitudes from 0 to the largest."""
        small = [self._values_of(np.array([m]), m) for m in range(PLANES)]
        large = np.arange(PLANES, largest + 1)
        return np.concatenate([*small, self._values_of(large, PLANES)])

    def _values_of(self, magnitudes: NDArray[np.int64], kind: int) -> Float32:
        if kind == 0:
            return np.zeros(magnitudes.size, dtype=np.float32)
        exact = self.step * (magnitudes + self.offsets[kind - 1] / OFFSET_UNITS)
        np.minimum(exact, COARSEST_STEP, out=exact)
        return exact.astype(np.float32)  # the only rounding: everything before is exact in float64


def _magnitudes(scaled: Float32) -> UInt16:
    """Return the magnitudes of the levels of values divided by the step."""
    levels = np.rint(np.abs(scaled))
    return np.minimum(levels, np.float32(MAX_LEVEL), out=levels).astype(np.uint16)
