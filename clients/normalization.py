"""From native pixels, as stored, to normalized float32 on the device.

Chips stay on the device in their stored type (for most sensors two bytes per pixel and band) and
become float32 one batch at a time: a GPU holds twice as many, and half the bytes cross the bus.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # the name everyone knows it by
from numpy.typing import NDArray
from torch import Tensor

from rsdgc.errors import DataError

# PyTorch can neither index nor convert uint16 and uint32 on every device. Their bytes are carried
# as the signed type of the same size; masking in a wider type restores the unsigned values.
_CARRIERS: dict[str, str] = {"uint16": "int16", "uint32": "int32", "bool": "uint8"}
_WIDER_TYPES_AND_MASKS = {"uint16": (torch.int32, 0xFFFF), "uint32": (torch.int64, 0xFFFFFFFF)}


@dataclass(frozen=True, eq=False)
class Normalization:
    """How one modality's pixels become values around zero, band by band.

    ``(pixel * scale + offset − mean) / std``, after the cast to float32.
    """

    #: mean, std, float32 [C]: mean and standard deviation in physical units. A band with std 0
    #: (constant) becomes 0.
    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    #: the stored value of pixels without data, or None. They, and pixels that are not finite,
    #: become 0, the mean.
    nodata: float | int | None = None
    #: scale, offset, float [C]: convert stored to physical values; None for 1 and 0
    scale: NDArray[np.float64] | None = None
    offset: NDArray[np.float64] | None = None


def to_native(array: NDArray[Any]) -> Tensor:
    """Return chips as a CPU tensor, bytes unchanged (uint16 and uint32 as signed, bool as uint8).

    uint64, which PyTorch lacks, becomes float64. Raises :class:`DataError` for complex and text.
    """
    if array.dtype == np.uint64:
        array = array.astype(np.float64)
    dtype = array.dtype
    if dtype.kind not in "iufb" or dtype.name == "longdouble":
        raise DataError(f"pixels of type {dtype.name} cannot be trained on: ingest them as float32")
    array = np.require(array, dtype.newbyteorder("="), ["C", "W"])
    carrier = _CARRIERS.get(dtype.name)
    return torch.from_numpy(array.view(carrier) if carrier is not None else array)


class ModalityNormalizer:
    """Turns chips of one modality, stored as ``dtype`` and on the device, into normalized ones.

    Raises :class:`DataError` if mean, standard deviation, scale or offset are not finite, or not
    one value per band.
    """

    def __init__(
        self, dtype: np.dtype[Any], normalization: Normalization, device: torch.device
    ) -> None:
        mean = np.asarray(normalization.mean, np.float32)
        std = np.asarray(normalization.std, np.float32)
        if mean.shape != std.shape or mean.ndim != 1 or not np.isfinite(mean + std).all():
            raise DataError(
                f"mean {mean.tolist()} and std {std.tolist()} cannot normalize: "
                "they must be finite, one value per band"
            )
        self.bands = mean.size
        self._widened = _WIDER_TYPES_AND_MASKS.get(dtype.name)
        self._may_be_invalid = dtype.kind == "f"  # spares integers a pass over the pixels
        self._nodata = _comparable(normalization.nodata, dtype)
        # Scaling and normalization in one: (x·scale + offset − mean) / std
        #   = (x − (mean − offset) / scale) · (scale / std).
        scale = _per_band(normalization.scale, 1.0, mean.size)
        offset = _per_band(normalization.offset, 0.0, mean.size)
        center = ((mean - offset) / scale).astype(np.float32)
        slope = np.where(std > 0, scale / np.where(std > 0, std, 1), 0).astype(np.float32)
        self._center = torch.from_numpy(center).to(device).view(1, -1, 1, 1)
        self._slope = torch.from_numpy(slope).to(device).view(1, -1, 1, 1)

    def normalize(self, native: Tensor, validity: Tensor | None = None) -> Tensor:
        """Map native (B, C, H, W) to new float32 (B, C, H, W), invalid pixels 0.

        ``validity``, uint8 (B, C, H, ⌈W / 8⌉), marks valid pixels by bits, as
        :meth:`clients.loader.ChipSource.take_validity` returns it.
        """
        if self._widened is not None:
            wider, mask = self._widened
            native = native.to(wider).bitwise_and_(mask)
        # Always a copy: `native` may be a view of the cache, and what follows works in place.
        x = native.to(torch.float32, copy=True, memory_format=torch.channels_last)
        # Before normalization, for nodata is a stored value.
        invalid = ~torch.isfinite(x) if self._may_be_invalid else None
        if self._nodata is not None:
            # Of integers as they are: large ones that differ are one float32.
            is_nodata = (x if self._may_be_invalid else native) == self._nodata
            invalid = is_nodata if invalid is None else invalid | is_nodata
        if validity is not None:
            is_unset = ~_unpack(validity, x.shape[-1])
            invalid = is_unset if invalid is None else invalid | is_unset
        x.sub_(self._center).mul_(self._slope)
        return x if invalid is None else x.masked_fill_(invalid, 0)


def _comparable(nodata: float | None, dtype: np.dtype[Any]) -> float | int | None:
    """Return a nodata value as pixels of a type are compared with it; None if none is equal."""
    if nodata is None or not np.isfinite(nodata):
        return None
    if dtype.kind not in "iu" or dtype == np.uint64:
        with np.errstate(over="ignore"):  # a double's lowest value is a float's -inf: not finite
            held = float(np.float32(nodata))
        return held if np.isfinite(held) else None
    limits = np.iinfo(dtype)
    return int(nodata) if limits.min <= nodata <= limits.max and nodata == int(nodata) else None


def _unpack(bits: Tensor, width: int) -> Tensor:
    """Return the mask (…, width) of bits (…, ⌈width / 8⌉), the first in the highest bit."""
    places = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=bits.device)
    return (bits.unsqueeze(-1) & places).bool().flatten(-2)[..., :width]


def _per_band(
    values: NDArray[np.float64] | None, default: float, bands: int
) -> NDArray[np.float64]:
    """Return one value per band; only a scale has a default other than 0, and must not be 0."""
    array = np.full(bands, default) if values is None else np.asarray(values, np.float64)
    if array.shape != (bands,) or not np.isfinite(array).all() or (default and not array.all()):
        raise DataError(
            f"scale or offset {array.tolist()} cannot be applied to {bands} bands: they must be "
            "finite, one value per band, and no scale may be 0"
        )
    return array


def stack_modalities(modalities: Sequence[Tensor]) -> Tensor:
    """Join normalized modalities, float32 (B, C_m, H_m, W_m), along bands.

    Coarser ones are resampled (bilinear) to the size of the finest: float32 (B, ΣC_m, H, W).
    """
    if len(modalities) == 1:
        return modalities[0]
    size = max((x.shape[-2:] for x in modalities), key=lambda shape: shape[0])
    resampled = [
        x if x.shape[-2:] == size else F.interpolate(x, size, mode="bilinear", align_corners=False)
        for x in modalities
    ]
    return torch.cat(resampled, dim=1)
