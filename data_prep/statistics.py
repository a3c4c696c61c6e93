"""Per-band statistics as sums that can be merged, over batches and over sites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass
class BandSums:
    """Count, mean, sum of squared deviations, least and greatest value of each band.

    Two of them merge exactly as if their pixels had been seen together (Chan, Golub and LeVeque
    1983), so that batches, processes and sites can be added up in any grouping.

    Attributes
    ----------
    count, mean, m2, low, high : float64 [C]
    """

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def empty(cls, bands: int) -> BandSums:
        """Return sums over no pixels."""
        zero = np.zeros(bands)
        return cls(
            zero.copy(), zero.copy(), zero.copy(), np.full(bands, np.inf), np.full(bands, -np.inf)
        )

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
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        gap = other.mean - self.mean
        return BandSums(
            count,
            self.mean + gap * share,
            self.m2 + other.m2 + gap**2 * self.count * share,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    def std(self) -> NDArray[np.float64]:
        """Return the population standard deviation [C]; 0 for a band without pixels."""
        return np.sqrt(self.m2 / np.maximum(self.count, 1))

    def as_meta(self) -> dict[str, list[float] | list[int]]:
        """Fields of :class:`data_prep.schema.ModalityMeta`; bands without pixels are all 0."""
        seen = self.count > 0
        return {
            "mean": self.mean.tolist(),
            "std": self.std().tolist(),
            "min": np.where(seen, self.low, 0.0).tolist(),
            "max": np.where(seen, self.high, 0.0).tolist(),
            "count": self.count.astype(np.int64).tolist(),
        }


def valid_mask(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Mark the usable values: finite, and not ``nodata`` (which the type must be able to hold)."""
    mask = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, np.bool_)
    if nodata is not None:
        mask &= values != values.dtype.type(nodata)
    return mask
