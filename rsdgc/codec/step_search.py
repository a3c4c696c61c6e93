"""Find the step at which a dead-zone coded update takes a given number of bits.

Coding an update to learn its size costs a pass over all its values. So the search works on an
*expected* size, from samples of every layer's kept values and of their neighborhoods' peaks: a
trial costs the same for a model of any size. The expectation counts what
:mod:`rsdgc.codec.dead_zone` writes: ids of the neighborhoods that have a value outside the dead
zone, planes of flags, large levels, signs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rsdgc.arrays import Float32, Float64
from rsdgc.codec.bit_planes import MAX_LEVEL, PLANES
from rsdgc.codec.golomb_rice import expected_id_bits
from rsdgc.codec.indices import RAW_ID_BITS
from rsdgc.codec.quantizer import COARSEST_STEP, FINEST_STEP, Quantizer

SAMPLE_VALUES = 1 << 17
"""Size of a sample over all layers; its error in the size is far below the 1 % that is allowed."""
_RICE_LIMIT = 16  # a level has 16 bits, so no parameter from here on can pay
# The steps span a factor of 2^18: 40 halvings of its logarithm exhaust float64.
_MAX_BISECTIONS = 40
_TOLERANCE = 1e-3  # a tenth of what the real size may miss the budget by


class StepSearch:
    """Expected bits of a dead-zone coded update as a function of the step.

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
        self._sizes = np.array([layer.size for layer in values], dtype=np.float64)
        self._kept = np.array([layer.size for layer in peaks], dtype=np.float64)
        self._counts = np.array(counts, dtype=np.float64)
        self._raw_ids = raw_ids
        self._values = _Sample(values)
        self._peaks = _Sample(peaks)
        self._largest = max((float(layer.max()) for layer in peaks), default=0.0)

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
            # The coder sends a plane as it is, a bit for each flag, where codes would take more.
            total += float(np.minimum(_flag_bits(above, size), size).sum())
            total += float(above.sum()) if plane == 0 else 0.0  # signs
            size = above
        return total + self._large_level_bits(step)

    def step(self, bits: float) -> float:
        """Return the smallest step at which no more than the given bits are expected.

        It keeps the largest level within range even if that takes more, and leaves something
        outside the dead zone.
        """
        low = max(self._largest / MAX_LEVEL, FINEST_STEP)
        # At twice the largest magnitude all is inside the dead zone; the rest is for rounding.
        high = min(max(2.1 * self._largest, low), COARSEST_STEP)
        if self.bits(low) <= bits:
            return low
        # The bits fall as the step grows, over many orders of magnitude: bisect its logarithm.
        for _ in range(_MAX_BISECTIONS):
            middle = math.sqrt(low * high)
            expected = self.bits(middle)
            if expected > bits:
                low = middle
            else:
                high = middle
                if expected > (1 - _TOLERANCE) * bits:
                    break
        return high

    def quantizer(self, step: float) -> Quantizer:
        """Return the quantizer of a step, with the centroids of the sample."""
        return Quantizer.fit(step, self._values.magnitudes, self._values.weights)

    def _large_level_bits(self, step: float) -> float:
        large = self._values.magnitudes > min((PLANES - 0.5) * step, COARSEST_STEP)
        numbers = np.rint(self._values.magnitudes[large] / step) - PLANES
        weights = self._values.weights[large]
        fewest = math.inf
        for rice in range(_RICE_LIMIT):
            bits = float(weights @ (np.floor(numbers / 2**rice) + rice + 1))
            if bits >= fewest:  # the cost is convex in the parameter
                break
            fewest = bits
        return fewest


class _Sample:
    """Magnitudes of a sample of every layer, with the number of values that each stands for.

    Every layer gets an equal share of the sample, and small ones are taken completely: their
    numbers vary most, and together they take a good part of the bytes.
    """

    def __init__(self, layers: Sequence[Float32]) -> None:
        share = max(1, SAMPLE_VALUES // max(1, len(layers)))
        # A fixed seed: the same update encodes to the same bytes.
        rng = np.random.default_rng(len(layers))
        samples = [
            layer if layer.size <= share else layer[rng.integers(layer.size, size=share)]
            for layer in layers
        ]
        sizes = np.array([sample.size for sample in samples], dtype=np.int64)
        self.magnitudes: Float32 = np.abs(np.concatenate(samples))
        self._layer_weights = np.array([layer.size for layer in layers]) / sizes
        self.weights: Float64 = np.repeat(self._layer_weights, sizes)
        # Sorted by layer, then by magnitude: the bits of floats from 0 on are in the floats' order.
        self._layers = np.arange(len(layers), dtype=np.uint64) << np.uint64(32)
        keys = np.repeat(self._layers, sizes) | self.magnitudes.view(np.uint32)
        self._sorted = np.sort(keys)
        self._ends = np.cumsum(sizes)

    def num_above(self, limit: float) -> Float64:
        """Return the expected number of each layer's values above a limit, 0 or more."""
        if limit > COARSEST_STEP:  # beyond float32, in which the comparison is made
            return np.zeros(self._layer_weights.size)
        keys = self._layers | np.float32(limit).view(np.uint32)
        counts = self._ends - np.searchsorted(self._sorted, keys, side="right")
        expected: Float64 = counts * self._layer_weights
        return expected


def _flag_bits(ones: Float64, size: Float64) -> Float64:
    """Return the expected bits of flags as coded gaps of the fewer, ones or zeros."""
    with np.errstate(invalid="ignore", divide="ignore"):
        density = np.clip(np.nan_to_num(ones / size), 0.0, 1.0)
    bits: Float64 = size * np.minimum(_bits_per_flag(density), _bits_per_flag(1 - density))
    return bits


def _bits_per_flag(density: Float64) -> Float64:
    """Return the expected bits per flag as coded gaps of ones of a density from 0 to 1."""
    bits, some = np.zeros_like(density), density > 0
    bits[some] = density[some] * expected_id_bits(np.maximum(density[some], 1e-12))
    return bits
