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
from rsdgc.errors import SettingError, WireError
from rsdgc.levels import MAX_LEVEL, PLANES, Levels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsdgc.arrays import Float32, Float64

FINEST_STEP = float(np.finfo(np.float32).tiny)
"""Smallest step: no denormals, which not every machine multiplies alike."""
COARSEST_STEP = float(np.finfo(np.float32).max)
"""Largest step, and largest magnitude that a level stands for."""
OFFSET_UNITS = 256
"""Offsets are stored as whole parts of this, in a signed byte: within half a step."""

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
    def fitted(cls, step: float, magnitudes: Float32, weights: Float64) -> Quantizer:
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

    def magnitudes(self, values: Float32) -> NDArray[np.uint16]:
        """Return the magnitudes of the levels of finite values; uint16 [n] of float32 [n]."""
        found = np.empty(values.size, dtype=np.uint16)
        for part in chunks(values.size):
            scaled = np.abs(values[part])
            with np.errstate(over="ignore"):
                scaled /= np.float32(self.step)
            np.minimum(np.rint(scaled, out=scaled), np.float32(MAX_LEVEL), out=scaled)
            found[part] = scaled
        return found

    def values(self, levels: Levels) -> Float32:
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

    def round(self, values: Float32) -> None:
        """Replace values, float32 [n] and finite, by what their levels stand for, in place.

        The same bits as :meth:`values` of their levels, without arrays of their size.
        """
        table = np.array([self._values_of(np.array([m]), m)[0] for m in range(PLANES)])
        table = np.append(table, np.float32(0))
        for part in chunks(values.size):
            magnitudes = self.magnitudes(values[part])
            exact = table.take(np.minimum(magnitudes, PLANES))
            large = np.flatnonzero(magnitudes >= PLANES)
            exact[large] = self._values_of(magnitudes[large].astype(np.int64), PLANES)
            np.copysign(exact, values[part], out=values[part])
            values[part] += np.float32(0)  # no negative zeros: in the dead zone there is no sign

    def _values_of(self, magnitudes: NDArray[np.int64], kind: int) -> Float32:
        if kind == 0:
            return np.zeros(magnitudes.size, dtype=np.float32)
        exact = self.step * (magnitudes + self.offsets[kind - 1] / OFFSET_UNITS)
        np.minimum(exact, COARSEST_STEP, out=exact)
        return exact.astype(np.float32)  # float64 until here: rounded once
