"""What a site's pixels are normalised by: its store's own statistics, or those of all sites.

The common ones come from the sums that sites have told (:mod:`data_prep.common`). They travel as
means and standard deviations in float32, exactly as they are used, so that every site computes
with the same bits.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.common import scaling
from rsdgc.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from data_prep.common import SiteSums
    from data_prep.schema import ModalityMeta

_SIGNATURE = struct.Struct("<I")


@dataclass(frozen=True, eq=False)
class LayerStatistics:
    """A layer's bands and, of each, mean and standard deviation in physical units, float32 [C]."""

    bands: tuple[str, ...]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class CommonStatistics:
    """What all sites of a run normalise by: layers by name, in the order of the stores.

    ::

        common = CommonStatistics.of(merge_sites(told))
        CommonStatistics.unpack(common.pack(), store.meta.modalities)    # the same, at a site
    """

    layers: Mapping[str, LayerStatistics]

    @classmethod
    def of(cls, sums: SiteSums) -> CommonStatistics:
        """Return the statistics of the pixels that were added up; infinite beyond float32."""
        with np.errstate(over="ignore"):
            return cls(
                {
                    name: LayerStatistics(
                        layer.bands, layer.mean.astype(np.float32), layer.std.astype(np.float32)
                    )
                    for name, layer in sums.layers.items()
                }
            )

    def pack(self) -> bytes:
        """Pack for the wire, little-endian: 4 bytes for layers' and bands' names, then float32.

        Means, then standard deviations, layer by layer: 4 + 8 C bytes for C bands.
        """
        numbers = [part for layer in self.layers.values() for part in (layer.mean, layer.std)]
        described = [(name, list(layer.bands)) for name, layer in self.layers.items()]
        packed = np.concatenate([np.zeros(0, np.float32), *numbers]).astype("<f4")
        return _SIGNATURE.pack(_signature(described)) + packed.tobytes()

    @classmethod
    def unpack(cls, packed: bytes, modalities: Sequence[ModalityMeta]) -> CommonStatistics:
        """Unpack what :meth:`pack` gave, for a store of these modalities.

        Raises
        ------
        DataError
            It is of other layers or bands, damaged, or not finite.
        """
        described = [(m.name, list(m.bands)) for m in modalities]
        total = sum(len(bands) for _, bands in described)
        size = _SIGNATURE.size
        if len(packed) != size + 8 * total or packed[:size] != _SIGNATURE.pack(
            _signature(described)
        ):
            here = "; ".join(f"{name}: {', '.join(bands)}" for name, bands in described)
            raise DataError(
                f"the run's common statistics are of other layers or bands than this site's "
                f"({here}): ingest all sites alike, or train with normalization=site"
            )
        numbers = np.frombuffer(packed, "<f4", offset=size).astype(np.float32)
        layers, at = {}, 0
        for name, bands in described:
            mean, std = numbers[at : at + 2 * len(bands)].reshape(2, -1)
            layers[name] = LayerStatistics(tuple(bands), mean, std)
            at += 2 * len(bands)
        common = cls(layers)
        if not common.finite:
            raise DataError(f"the run's common statistics {numbers.tolist()} are not finite")
        return common

    @property
    def finite(self) -> bool:
        """Whether every mean and standard deviation is a number."""
        parts = [part for layer in self.layers.values() for part in (layer.mean, layer.std)]
        return all(bool(np.isfinite(part).all()) for part in parts)

    def to_json(self) -> str:
        """Return JSON text: bands, means and standard deviations by layer, exact."""
        layers = {
            name: {
                "bands": list(layer.bands),
                "mean": layer.mean.tolist(),
                "std": layer.std.tolist(),
            }
            for name, layer in self.layers.items()
        }
        return json.dumps(layers, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> CommonStatistics:
        """Read what :meth:`to_json` gave.

        Raises
        ------
        DataError
            It is something else.
        """
        try:
            return cls(
                {
                    name: LayerStatistics(
                        tuple(str(band) for band in layer["bands"]),
                        *_numbers(layer, len(layer["bands"])),
                    )
                    for name, layer in json.loads(text).items()
                }
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"these are no common statistics: {error}") from error


def normalizing_statistics(
    modality: ModalityMeta, common: CommonStatistics | None = None
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """Mean and standard deviation [C] in physical units: the store's own, or the common ones.

    Raises
    ------
    DataError
        The common statistics do not have the layer, or it has other bands.
    """
    if common is None:
        scale, offset = scaling(modality)
        return np.array(modality.mean) * scale + offset, np.array(modality.std) * np.abs(scale)
    layer = common.layers.get(modality.name)
    if layer is None or list(layer.bands) != modality.bands:
        raise DataError(
            f"the common statistics do not have layer {modality.name} with the bands "
            f"{', '.join(modality.bands)}: ingest all sites alike"
        )
    return layer.mean, layer.std


def _signature(described: Sequence[tuple[str, list[str]]]) -> int:
    return zlib.crc32(json.dumps(described).encode())


def _numbers(layer: Mapping[str, Any], bands: int) -> list[NDArray[np.float32]]:
    numbers = [np.asarray(layer[key], np.float32) for key in ("mean", "std")]
    for values in numbers:
        if values.shape != (bands,) or not np.isfinite(values).all():
            raise ValueError(f"{values.tolist()} for {bands} bands")
    return numbers
