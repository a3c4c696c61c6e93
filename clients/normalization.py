"""Native pixels, as stored, to normalised float32 on the device.

Chips wait on the device in the type they are stored in (two bytes a pixel and band for most
sensors) and become float32 a batch at a time: a GPU holds twice as many, and the bus carries half.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # the name everyone knows it by

from rsdgc.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

# torch indexes and computes with few unsigned types: their bytes travel as signed ones, and the
# sign is masked away in a wider type.
_CARRIER: dict[str, np.dtype[Any]] = {
    "uint16": np.dtype(np.int16),
    "uint32": np.dtype(np.int32),
    "bool": np.dtype(np.uint8),
}
_WIDENED = {"uint16": (torch.int32, 0xFFFF), "uint32": (torch.int64, 0xFFFFFFFF)}


@dataclass(frozen=True, eq=False)
class Normalization:
    """How one modality's pixels become numbers around zero, band by band.

    ``(pixel * scale + offset − mean) / std``, after the cast to float32.

    Parameters
    ----------
    mean, std : float32 [C]
        In physical units. A band with std 0 (constant) becomes 0.
    nodata : float or None
        The value of pixels without data as they are stored, or None. They, and those not finite,
        become 0: the mean.
    scale, offset : float [C] or None
        From stored to physical values; None for 1 and 0.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    nodata: float | None = None
    scale: NDArray[np.float64] | None = None
    offset: NDArray[np.float64] | None = None


def to_native(array: NDArray[Any], device: torch.device) -> Tensor:
    """Copy chips to the device, bytes unchanged (uint16 and uint32 as signed, bool as uint8).

    Raises
    ------
    DataError
        torch has no such type (complex, 64-bit unsigned, text).
    """
    dtype = array.dtype
    if dtype.kind not in "iufb" or dtype.name in ("uint64", "longdouble"):
        raise DataError(f"pixels of type {dtype.name} cannot be trained on: ingest them as float32")
    array = np.require(array, dtype.newbyteorder("="), ["C", "W"])
    carrier = _CARRIER.get(dtype.name)
    tensor = torch.from_numpy(array.view(carrier) if carrier is not None else array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


class ModalityNormalizer:
    """Turns native chips of one modality into normalised ones.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the stored pixels.
    normalization : Normalization
        Of this modality.
    device : torch.device
        Where the chips are.

    Raises
    ------
    DataError
        Mean or standard deviation are not finite, or not of one length.
    """

    def __init__(
        self, dtype: np.dtype[Any], normalization: Normalization, device: torch.device
    ) -> None:
        mean = np.asarray(normalization.mean, np.float32)
        std = np.asarray(normalization.std, np.float32)
        if mean.shape != std.shape or mean.ndim != 1 or not np.isfinite(mean + std).all():
            raise DataError(
                f"mean {mean.tolist()} and std {std.tolist()} cannot normalise: "
                "they must be finite, one value a band"
            )
        self.bands = mean.size
        self._widened = _WIDENED.get(dtype.name)
        self._may_be_invalid = dtype.kind == "f"
        with np.errstate(over="ignore"):  # a double's lowest value is a float's -inf: not finite
            nodata = np.float32(np.nan if normalization.nodata is None else normalization.nodata)
        self._nodata = float(nodata) if np.isfinite(nodata) else None
        # of the stored values: one subtraction and one multiplication, whatever the scaling
        gain = _per_band(normalization.scale, 1.0, mean.size)
        shift = _per_band(normalization.offset, 0.0, mean.size)
        center = ((mean - shift) / gain).astype(np.float32)
        slope = np.where(std > 0, gain / np.where(std > 0, std, 1), 0).astype(np.float32)
        self._mean = torch.from_numpy(center).to(device).view(1, -1, 1, 1)
        self._scale = torch.from_numpy(slope).to(device).view(1, -1, 1, 1)

    def normalise(self, native: Tensor) -> Tensor:
        """Map native (B, C, H, W) to new float32 (B, C, H, W), invalid pixels 0."""
        if self._widened is not None:
            wider, mask = self._widened
            native = native.to(wider).bitwise_and_(mask)
        # A copy always: `native` may be a view of the cache.
        x = native.to(torch.float32, copy=True, memory_format=torch.channels_last)
        invalid = self._invalid(x)
        x.sub_(self._mean).mul_(self._scale)
        return x if invalid is None else x.masked_fill_(invalid, 0)

    def _invalid(self, x: Tensor) -> Tensor | None:
        invalid = ~torch.isfinite(x) if self._may_be_invalid else None
        if self._nodata is not None:
            tagged = x == self._nodata
            invalid = tagged if invalid is None else invalid | tagged
        return invalid


def _per_band(given: NDArray[np.float64] | None, default: float, bands: int) -> NDArray[np.float64]:
    values = np.full(bands, default) if given is None else np.asarray(given, np.float64)
    if values.shape != (bands,) or not np.isfinite(values).all() or (default and not values.all()):
        raise DataError(
            f"scale or offset {values.tolist()} cannot be applied to {bands} bands: they must be "
            "finite, one value a band, and no scale 0"
        )
    return values


def stack_modalities(parts: Sequence[Tensor]) -> Tensor:
    """Join modalities along bands; those of another size are resampled to the first's (bilinear).

    Parameters
    ----------
    parts : sequence of torch.Tensor
        Normalised float32 (B, C_m, H_m, W_m), one a modality.

    Returns
    -------
    torch.Tensor
        float32 (B, ΣC_m, H_0, W_0).
    """
    if len(parts) == 1:
        return parts[0]
    size = parts[0].shape[-2:]
    same = [
        part
        if part.shape[-2:] == size
        else F.interpolate(part, size, mode="bilinear", align_corners=False)
        for part in parts
    ]
    return torch.cat(same, dim=1)
