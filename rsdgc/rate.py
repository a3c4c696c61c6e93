"""Find the step at which a quantised update takes the budgeted bits.

The expected size at a step comes from samples of every layer's kept values and of their
neighborhoods' peaks, so a trial costs no more for a large model. It counts what the wire format
(:mod:`rsdgc.quantized`) writes: ids of the neighborhoods that have a level outside the dead
zone, planes of flags, large levels, signs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from rsdgc.levels import MAX_LEVEL, PLANES
from rsdgc.quantizer import COARSEST_STEP, FINEST_STEP, Quantizer
from rsdgc.sizes import RAW_ID_BITS, rice_bits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsdgc.arrays import Float32, Float64

SAMPLE = 1 << 17
"""Most values looked at in all; as many of each layer, or all that it has."""
_LARGEST_RICE = 16
_TRIALS = 40
_CLOSE = 1e-3


class StepSearch:
    """Expected bits of a quantised update as a function of the step.

    Parameters
    ----------
    values : sequence of float32 [n]
        The kept values of each layer, none of them empty.
    peaks : sequence of float32 [k]
        The largest magnitude of each kept neighborhood, layer by layer.
    counts : sequence of int
        Neighborhoods of each layer, kept or not.
    raw_ids : bool
        Whether ids are plain integers.
    """

    def __init__(
        self,
        values: Sequence[Float32],
        peaks: Sequence[Float32],
        counts: Sequence[int],
        *,
        raw_ids: bool = False,
    ) -> None:
        self._sizes = np.array([part.size for part in values], dtype=np.float64)
        self._kept = np.array([part.size for part in peaks], dtype=np.float64)
        self._counts = np.array(counts, dtype=np.float64)
        self._raw_ids = raw_ids
        self._values = _Sample(values)
        self._peaks = _Sample(peaks)
        self._largest = max((float(part.max()) for part in peaks), default=0.0)

    def bits(self, step: float) -> float:
        """Return the expected bits of ids and levels at a step."""
        kept = self._peaks.num_above(0.5 * step)
        if self._raw_ids:
            total = float(RAW_ID_BITS * kept[kept < self._counts].sum())
        else:
            total = float(_flag_bits(kept, self._counts).sum())
        size = kept / self._kept * self._sizes
        for plane in range(PLANES):
            above = self._values.num_above((plane + 0.5) * step)
            total += float(np.minimum(_flag_bits(above, size), size).sum())
            total += float(above.sum()) if plane == 0 else 0.0  # signs
            size = above
        return total + self._large_bits(step)

    def step(self, bits: float) -> float:
        """Return the smallest step at which no more than the given bits are expected.

        At least what keeps the largest level within range, at most what leaves nothing outside
        the dead zone, and both within the range of steps.
        """
        low = max(self._largest / MAX_LEVEL, FINEST_STEP)
        high = min(max(2.1 * self._largest, low), COARSEST_STEP)
        if self.bits(low) <= bits:
            return low
        for _ in range(_TRIALS):
            middle = math.sqrt(low * high)
            expected = self.bits(middle)
            if expected > bits:
                low = middle
            else:
                high = middle
                if expected > (1 - _CLOSE) * bits:
                    break
        return high

    def quantizer(self, step: float) -> Quantizer:
        """Return the quantiser of a step, with the centroids of the sample."""
        return Quantizer.fitted(step, self._values.magnitudes, self._values.weights)

    def _large_bits(self, step: float) -> float:
        large = self._values.magnitudes > min((PLANES - 0.5) * step, COARSEST_STEP)
        numbers = np.rint(self._values.magnitudes[large] / step) - PLANES
        weights = self._values.weights[large]
        fewest = math.inf
        for rice in range(_LARGEST_RICE):
            bits = float(weights @ (np.floor(numbers / 2**rice) + rice + 1))
            if bits >= fewest:
                break
            fewest = bits
        return fewest


class _Sample:
    """Magnitudes of several layers, as many of each or all that it has, with their weights."""

    def __init__(self, layers: Sequence[Float32]) -> None:
        share = max(1, SAMPLE // max(1, len(layers)))
        rng = np.random.default_rng(len(layers))
        some = [
            part if part.size <= share else part[rng.integers(part.size, size=share)]
            for part in layers
        ]
        sizes = np.array([part.size for part in some], dtype=np.int64)
        self.magnitudes: Float32 = np.abs(np.concatenate(some))
        self._each = np.array([part.size for part in layers]) / sizes
        self.weights: Float64 = np.repeat(self._each, sizes)
        self._starts = np.cumsum(sizes) - sizes

    def num_above(self, limit: float) -> Float64:
        """Return the expected number of each layer's values above a limit."""
        if limit > COARSEST_STEP:
            return np.zeros(self._each.size)
        above = np.add.reduceat(self.magnitudes > limit, self._starts, dtype=np.int64)
        found: Float64 = above * self._each
        return found


def _flag_bits(ones: Float64, size: Float64) -> Float64:
    """Return the expected bits of flags as coded gaps of the fewer, ones or zeros."""
    with np.errstate(invalid="ignore", divide="ignore"):
        density = np.clip(np.nan_to_num(ones / size), 0.0, 1.0)
        both = [
            np.where(p > 0, p * rice_bits(np.maximum(p, 1e-12)), 0.0)
            for p in (density, 1 - density)
        ]
    bits: Float64 = size * np.minimum(*both)
    return bits
