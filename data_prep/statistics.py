"""Statistics of bands as sums that merge, over batches, chips and processes.

Sums are (count, mean, m2), where m2 is the sum of squared deviations from the mean. They merge
exactly as if all pixels had been seen together, in any grouping, and without the cancellation of
plain sums of squares (Chan, Golub and LeVeque 1983, "Algorithms for computing the sample
variance", The American Statistician 37, eq. 2.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Bytes of chips that are added up at once: they stay in a core's second-level cache.
CACHED_BYTES = 2**19
#: One pixel of so many estimates the value that the others are taken as differences from.
PIXELS_PER_SAMPLE = 64


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and squared deviations of the valid pixels of each band, float64 [C]."""

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]

    @property
    def std(self) -> NDArray[np.float64]:
        """Population standard deviation [C]; 0 for a band without pixels."""
        return np.sqrt(self.m2 / np.maximum(self.count, 1))

    def merged(
        self, other: Moments
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return count, mean and m2 over the pixels of both."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        gap = other.mean - self.mean
        return count, self.mean + gap * share, self.m2 + other.m2 + gap**2 * self.count * share


@dataclass(frozen=True, eq=False)
class BandSums(Moments):
    """Moments with the least and greatest value of each band; +inf and -inf without pixels."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def empty(cls, bands: int) -> BandSums:
        """Return sums over no pixels."""
        zero = np.zeros(bands)
        return cls(zero, zero, zero, np.full(bands, np.inf), np.full(bands, -np.inf))

    @classmethod
    def of(cls, values: NDArray[Any], valid: NDArray[np.bool_]) -> BandSums:
        """Add up the valid pixels of an array (n, C, …) with a mask of the same shape."""
        bands = values.shape[1]
        by_band = np.moveaxis(values, 1, 0).reshape(bands, -1).astype(np.float64)
        mask = np.moveaxis(valid, 1, 0).reshape(bands, -1)
        count = mask.sum(axis=1, dtype=np.float64)
        clean = np.where(mask, by_band, 0.0)
        mean = clean.sum(axis=1) / np.maximum(count, 1)
        deviation = np.where(mask, clean - mean[:, None], 0.0)
        m2 = np.einsum("bi,bi->b", deviation, deviation)
        low = np.where(mask, by_band, np.inf).min(axis=1, initial=np.inf)
        high = np.where(mask, by_band, -np.inf).max(axis=1, initial=-np.inf)
        return cls(count, mean, m2, low, high)

    def merge(self, other: BandSums) -> BandSums:
        """Return the sums over the pixels of both."""
        low, high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)
        return BandSums(*self.merged(other), low, high)

    def as_meta(self) -> dict[str, list[float] | list[int]]:
        """Return fields of :class:`data_prep.schema.ModalityMeta`; 0 for bands without pixels."""
        seen = self.count > 0
        return {
            "mean": self.mean.tolist(),
            "std": self.std.tolist(),
            "min": np.where(seen, self.low, 0.0).tolist(),
            "max": np.where(seen, self.high, 0.0).tolist(),
            "count": self.count.astype(np.int64).tolist(),
        }


@dataclass(frozen=True)
class ChipSums:
    """Sums chip by chip, so that the train split can be added up once it is known."""

    packed: NDArray[np.float64]  #: count, mean, m2, least and greatest value: [5, n, C]

    @classmethod
    def of(cls, chips: NDArray[Any], valid: NDArray[np.bool_] | None) -> ChipSums:
        """Add up chips (n, C, h, w); ``valid`` has the same shape, or is None: all are valid."""
        flat = chips.reshape(*chips.shape[:2], int(np.prod(chips.shape[2:])))
        mask = None if valid is None or valid.all() else valid.reshape(flat.shape)
        packed = np.zeros((5, *flat.shape[:2]))
        step = max(1, CACHED_BYTES // max(1, flat[:1].nbytes))
        for start in range(0, len(flat), step):
            batch = slice(start, start + step)
            packed[:, batch] = _chip_sums(flat[batch], None if mask is None else mask[batch])
        return cls(packed)

    @classmethod
    def join(cls, parts: Sequence[ChipSums]) -> ChipSums:
        """Concatenate over chips."""
        return cls(np.concatenate([part.packed for part in parts], axis=1))

    def total(self, chips: NDArray[np.int64]) -> BandSums:
        """Add up some chips."""
        count, mean, m2, low, high = self.packed[:, chips]
        total = count.sum(axis=0)
        total_mean = (count * mean).sum(axis=0) / np.maximum(total, 1)
        total_m2 = m2.sum(axis=0) + (count * (mean - total_mean) ** 2).sum(axis=0)
        least, greatest = low.min(axis=0, initial=np.inf), high.max(axis=0, initial=-np.inf)
        return BandSums(total, total_mean, total_m2, least, greatest)


def _chip_sums(flat: NDArray[Any], mask: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Return the sums [5, n, C] of values (n, C, pixels)."""
    # float32 holds integers of 16 bits exactly, and their differences from the mean in half the
    # memory traffic of float64
    small = flat.dtype.kind in "iu" and flat.dtype.itemsize <= 2
    work: NDArray[np.floating[Any]] = flat.astype(np.float32 if small else np.float64)
    # Sums are of differences from a rough mean: small numbers, which lose little to rounding.
    if mask is None:
        count = np.full(flat.shape[:2], float(flat.shape[2]))
        low, high = flat.min(axis=2), flat.max(axis=2)
        rough_mean = work[..., ::PIXELS_PER_SAMPLE].mean(axis=2)
    else:
        count = mask.sum(axis=2, dtype=np.float64)
        work[~mask] = 0
        low = np.where(mask, work, np.inf).min(axis=2)
        high = np.where(mask, work, -np.inf).max(axis=2)
        rough_mean = (work.sum(axis=2) / np.maximum(count, 1)).astype(work.dtype)
    work -= rough_mean[..., None]
    if mask is not None:
        work[~mask] = 0
    divisor = np.maximum(count, 1)
    rest = np.einsum("ncp->nc", work).astype(np.float64)
    squares = np.einsum("ncp,ncp->nc", work, work).astype(np.float64)
    m2 = np.maximum(squares - rest**2 / divisor, 0)
    return np.stack([count, rough_mean + rest / divisor, m2, low, high])


def valid_mask(values: NDArray[Any], nodata: float | int | None) -> NDArray[np.bool_]:
    """Mark the usable values: finite, and not ``nodata`` (which the type must be able to hold)."""
    mask = np.isfinite(values) if values.dtype.kind in "fc" else np.ones(values.shape, np.bool_)
    if nodata is not None:
        mask &= values != values.dtype.type(nodata)
    return mask
