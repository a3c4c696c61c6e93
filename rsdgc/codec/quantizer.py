"""The dead-zone quantiser: one step for a whole update, reconstruction at the centroids.

A value v has the level ``sign(v) · rint(|v| / step)``: what lies within half a step of zero falls
in the dead zone. A level of magnitude m stands for ``step · (m + offset)``, where the offset
brings it to the mean of the values that have it; levels of 3 and more share one. Offsets are
whole 256ths, and the product is rounded to float32 once, so every machine decodes the same bits;
it saturates at the largest float32.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from rsdgc.arrays import chunks, place
from rsdgc.codec.bit_planes import MAX_LEVEL, PLANES, Levels
from rsdgc.errors import SettingError, WireError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from rsdgc.arrays import Bools, Float32, Float64, Int64, UInt16

FINEST_STEP = float(np.finfo(np.float32).tiny)
"""Smallest step: no denormals, which not every machine multiplies alike."""
COARSEST_STEP = float(np.finfo(np.float32).max)
"""Largest step, and largest magnitude that a level stands for."""
OFFSET_UNITS = 256
"""Offsets are stored as whole parts of this, in a signed byte: within half a step."""

_HALF = np.float32(0.5)
_LAYOUT = struct.Struct(f"<f{PLANES}b")


@dataclass(frozen=True)
class Quantizer:
    """A step and the offsets of its levels; the wire header carries both.

    Parameters
    ----------
    step : float
        :data:`FINEST_STEP` to :data:`COARSEST_STEP`; rounded to float32.
    offsets : tuple of int
        256ths of a step to add to levels 1, 2, and 3 and more; -128 to 127.

    Raises
    ------
    SettingError
        If the step is out of range.
    """

    NUM_BYTES: ClassVar[int] = _LAYOUT.size

    step: float
    offsets: tuple[int, ...] = (0,) * PLANES

    def __post_init__(self) -> None:
        if not FINEST_STEP <= self.step <= COARSEST_STEP:
            msg = f"the quantiser's step is {self.step}: choose {FINEST_STEP} to {COARSEST_STEP}"
            raise SettingError(msg)
        object.__setattr__(self, "step", float(np.float32(self.step)))

    def pack(self) -> bytes:
        """Return step (float32) and offsets (a signed byte each), little-endian."""
        return _LAYOUT.pack(self.step, *self.offsets)

    @classmethod
    def unpack(cls, buffer: memoryview) -> Quantizer:
        """Return the quantiser that a peer packed; :class:`WireError` if its step is not valid."""
        step, *offsets = _LAYOUT.unpack(buffer)
        try:
            return cls(step, tuple(offsets))
        except SettingError as error:
            raise WireError(str(error)) from None

    @classmethod
    def fit(cls, step: float, magnitudes: Float32, weights: Float64) -> Quantizer:
        """Return a quantiser with the centroids of weighted magnitudes.

        Parameters
        ----------
        step : float
            As in the constructor.
        magnitudes : float32 [n]
            A sample of those outside and inside the dead zone.
        weights : float64 [n]
            How many values each stands for.
        """
        scaled = np.minimum(magnitudes / np.float32(cls(step).step), MAX_LEVEL)
        nearest = np.rint(scaled)
        kinds = np.minimum(nearest, PLANES).astype(np.int64)
        count = np.bincount(kinds, weights, PLANES + 1)
        total = np.bincount(kinds, weights * (scaled - nearest), PLANES + 1)
        units = np.rint(OFFSET_UNITS * total / np.maximum(count, np.finfo(np.float64).tiny))
        return cls(step, tuple(int(unit) for unit in np.clip(units, -128, 127)[1:]))

    def is_outside(self, values: Float32) -> Bools:
        """Return which finite values lie outside the dead zone; bool [n] of float32 [n]."""
        with np.errstate(over="ignore"):
            found: Bools = np.abs(values / np.float32(self.step)) > _HALF
        return found

    def quantize(self, pieces: Iterable[Float32], size: int) -> Levels:
        """Return the levels of ``size`` finite values that come in pieces."""
        outside, filled = np.empty(size, dtype=np.bool_), 0
        magnitudes = [np.empty(0, dtype=np.uint16)]
        negative = [np.empty(0, dtype=np.bool_)]
        for values in pieces:
            flags, _, scaled = self._outside(values)
            outside[filled : filled + flags.size] = flags
            magnitudes.append(_magnitudes(scaled))
            negative.append(np.signbit(scaled))
            filled += flags.size
        return Levels.from_magnitudes(outside, np.concatenate(magnitudes), np.concatenate(negative))

    def dequantize(self, levels: Levels) -> Float32:
        """Return what the levels stand for, float32 [n]: 0 in the dead zone, finite always."""
        out = self._values_of(levels.large, PLANES)
        for level in range(PLANES - 1, -1, -1):
            flags, above = levels.flags[level], out
            out = np.full(flags.size, self._values_of(np.array([level]), level)[0])
            if level == 0:
                for part in chunks(above.size):
                    sign = levels.negative[part].astype(np.uint32) << 31
                    above.view(np.uint32)[part] ^= sign
            place(out, flags, above)
        return out

    def reconstruct(self, pieces: Iterable[Float32], out: Float32) -> Float32:
        """Write what the levels of pieces of finite values stand for, one behind the other.

        The same bits as :meth:`values` of their levels, without arrays of their size.

        Parameters
        ----------
        pieces : iterable of float32 [n]
            Taken one by one, each before what it becomes is written.
        out : float32
            Where to write, from its start; it may be the memory that the pieces come from.

        Returns
        -------
        float32
            The part of ``out`` that was written.
        """
        filled, table = 0, self._table(PLANES)
        for values in pieces:
            _, where, scaled = self._outside(values)
            magnitudes = _magnitudes(scaled)
            if (largest := int(magnitudes.max(initial=0))) >= table.size:
                table = self._table(largest)
            part = out[filled : filled + values.size]
            part[:] = 0.0
            part[where] = np.copysign(table.take(magnitudes), scaled)
            filled += values.size
        return out[:filled]

    def _outside(self, values: Float32) -> tuple[Bools, Int64, Float32]:
        """Return which values lie outside the dead zone, their places, and they over the step."""
        with np.errstate(over="ignore"):
            scaled = values / np.float32(self.step)
        flags = np.abs(scaled) > _HALF
        where = np.flatnonzero(flags)
        return flags, where, scaled.take(where)

    def _table(self, largest: int) -> Float32:
        """Return what magnitudes from 0 to the largest stand for."""
        table = [self._values_of(np.array([m]), m) for m in range(PLANES)]
        large = np.arange(PLANES, largest + 1)
        return np.concatenate([*table, self._values_of(large, PLANES)])

    def _values_of(self, magnitudes: NDArray[np.int64], kind: int) -> Float32:
        if kind == 0:
            return np.zeros(magnitudes.size, dtype=np.float32)
        exact = self.step * (magnitudes + self.offsets[kind - 1] / OFFSET_UNITS)
        np.minimum(exact, COARSEST_STEP, out=exact)
        return exact.astype(np.float32)  # float64 until here: rounded once


def _magnitudes(scaled: Float32) -> UInt16:
    """Return the magnitudes of the levels of values over the step."""
    found = np.rint(np.abs(scaled))
    return np.minimum(found, np.float32(MAX_LEVEL), out=found).astype(np.uint16)
