"""Per-band statistics as sums that can be merged, over batches and over sites."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

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


#: Bytes of chips that are added up at once: what a core's cache holds.
CACHED_BYTES = 2**19
#: One pixel of so many gives the value that others are taken as differences from.
PROBED = 64


@dataclass
class ChipSums:
    """The sums of :class:`BandSums`, chip by chip: any choice of chips can be added up later.

    Attributes
    ----------
    count, mean, m2, low, high : float64 [n, C]
    """

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def of(cls, chips: NDArray[Any], valid: NDArray[np.bool_] | None) -> ChipSums:
        """Add up chips (n, C, h, w); ``valid`` has the same shape, or is None: all are valid."""
        flat = chips.reshape(*chips.shape[:2], int(np.prod(chips.shape[2:])))
        mask = None if valid is None or valid.all() else valid.reshape(flat.shape)
        packed = np.zeros((5, *flat.shape[:2]))
        step = max(1, CACHED_BYTES // max(1, flat[:1].nbytes))
        for start in range(0, len(flat), step):
            some = slice(start, start + step)
            packed[:, some] = _sums(flat[some], None if mask is None else mask[some])
        return cls(*packed)

    @classmethod
    def join(cls, parts: Sequence[ChipSums]) -> ChipSums:
        """Concatenate over chips."""
        return cls(*np.concatenate([part.packed() for part in parts], axis=1))

    @classmethod
    def unpacked(cls, packed: NDArray[np.float64]) -> ChipSums:
        """Take what :meth:`packed` gave."""
        return cls(*packed)

    def packed(self) -> NDArray[np.float64]:
        """All sums in one array, float64 [5, n, C]."""
        return np.stack([self.count, self.mean, self.m2, self.low, self.high])

    def total(self, chips: NDArray[np.int64]) -> BandSums:
        """Add up some chips."""
        count, mean, m2, low, high = self.packed()[:, chips]
        total = count.sum(axis=0)
        center = (count * mean).sum(axis=0) / np.maximum(total, 1)
        spread = m2.sum(axis=0) + (count * (mean - center) ** 2).sum(axis=0)
        return BandSums(
            total,
            center,
            spread,
            low.min(axis=0, initial=np.inf),
            high.max(axis=0, initial=-np.inf),
        )


def _sums(flat: NDArray[Any], mask: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Count, mean, squared deviations, least and greatest value [5, n, C] of values (n, C, p)."""
    small = flat.dtype.kind in "iu" and flat.dtype.itemsize <= 2
    work: NDArray[np.floating[Any]] = flat.astype(np.float32 if small else np.float64)
    # the sums are of differences from about the mean: small numbers, which round little
    if mask is None:
        count = np.full(flat.shape[:2], float(flat.shape[2]))
        low, high = flat.min(axis=2), flat.max(axis=2)
        about = work[..., ::PROBED].mean(axis=2)
    else:
        count = mask.sum(axis=2, dtype=np.float64)
        work[~mask] = 0
        low = np.where(mask, work, np.inf).min(axis=2)
        high = np.where(mask, work, -np.inf).max(axis=2)
        about = (work.sum(axis=2) / np.maximum(count, 1)).astype(work.dtype)
    work -= about[..., None]
    if mask is not None:
        work[~mask] = 0
    per = np.maximum(count, 1)
    rest = np.einsum("ncp->nc", work).astype(np.float64)
    squares = np.einsum("ncp,ncp->nc", work, work).astype(np.float64)
    sums = np.empty((5, *flat.shape[:2]))
    sums[0], sums[1] = count, about + rest / per
    sums[2] = np.maximum(squares - rest**2 / per, 0)
    sums[3], sums[4] = low, high
    return sums


def valid_mask(values: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    """Mark the usable values: finite, and not ``nodata`` (which the type must be able to hold)."""
    mask = np.isfinite(values) if values.dtype.kind in "fc" else np.ones(values.shape, np.bool_)
    if nodata is not None:
        mask &= values != values.dtype.type(nodata)
    return mask
