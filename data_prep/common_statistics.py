"""Statistics that sites can share and add up, without sharing a pixel.

Each site adds up its own train pixels (:func:`site_sums`): counts, means and squared deviations of
every band in physical units, and samples of each class. The sums of several sites add up to what
one would get from all pixels together (:func:`merge_sites`), whatever the grouping; from them each
site can normalise alike (:mod:`data_prep.common_statistics`). Of a site's imagery nothing else is
told: no extremes, no histogram of values, no place. Of very few samples the sums still tell much.

What a site's pixels are normalised by: its store's own statistics, or those of all sites.

The common ones come from the sums that sites have told (:mod:`data_prep.common_statistics`). They
travel as
means and standard deviations in float32, exactly as they are used, so that every site computes
with the same bits.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.statistics import BandSums
from rsdgc.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from data_prep.dataset import Dataset
    from data_prep.schema import ModalityMeta


@dataclass(frozen=True)
class ModalitySums:
    """A layer's bands and, of each, count, mean and squared deviations, float64 [C]."""

    bands: tuple[str, ...]
    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]

    @property
    def std(self) -> NDArray[np.float64]:
        """Population standard deviation [C]; 0 for a band without pixels."""
        return np.sqrt(self.m2 / np.maximum(self.count, 1))

    def merge(self, other: ModalitySums) -> ModalitySums:
        """Return the sums over the pixels of both."""
        ours, theirs = (
            BandSums(s.count, s.mean, s.m2, np.zeros_like(s.mean), np.zeros_like(s.mean))
            for s in (self, other)
        )
        both = ours.merge(theirs)
        return ModalitySums(self.bands, both.count, both.mean, both.m2)


@dataclass(frozen=True)
class SiteSums:
    """What one site, or several together, tell: layers by name, and train samples by class."""

    layers: Mapping[str, ModalitySums]
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]

    @property
    def described(self) -> str:
        """Layers and their bands, both in their order, which is that of the model's input."""
        layers = self.layers.items()
        return "; ".join(f"{name} ({', '.join(layer.bands)})" for name, layer in layers)

    def to_mapping(self) -> dict[str, list[float] | list[int] | list[str]]:
        """Return plain lists by name, as a Flower ConfigRecord takes them."""
        out: dict[str, Any] = {
            "layers": list(self.layers),
            "classes": list(self.classes),
            "class-counts": list(self.class_counts),
        }
        for name, layer in self.layers.items():
            out[f"{name} bands"] = list(layer.bands)
            for key, values in (("count", layer.count), ("mean", layer.mean), ("m2", layer.m2)):
                out[f"{name} {key}"] = values.tolist()
        return out

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> SiteSums:
        """Read what :meth:`to_mapping` gave, from a peer.

        Raises
        ------
        DataError
            Something is missing, of another length, or not a usable number.
        """
        try:
            layers = {str(name): _layer(values, str(name)) for name in values["layers"]}
            counts = tuple(int(count) for count in values["class-counts"])
            classes = tuple(str(name) for name in values["classes"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"a site's statistics cannot be read ({error}): use one version"
            ) from error
        if len(counts) != len(classes) or min(counts, default=0) < 0:
            raise DataError(
                f"{len(classes)} classes have the counts {list(counts)}: use one version"
            )
        return cls(layers, classes, counts)


def _layer(values: Mapping[str, Any], name: str) -> ModalitySums:
    bands = tuple(str(band) for band in values[f"{name} bands"])
    count, mean, m2 = (
        np.asarray(values[f"{name} {key}"], np.float64) for key in ("count", "mean", "m2")
    )
    for sums in (count, mean, m2):
        if sums.shape != (len(bands),) or not np.isfinite(sums).all():
            raise ValueError(f"layer {name} has {sums.tolist()} for {len(bands)} bands")
    if (count < 0).any() or (m2 < 0).any() or m2[count == 0].any():
        raise ValueError(f"layer {name} has negative counts or squares, or squares of no pixels")
    return ModalitySums(bands, count, mean, m2)


def site_sums(dataset: Dataset, site: int | str) -> SiteSums:
    """Add up a site's train samples.

    Parameters
    ----------
    dataset
        A store or a partition.
    site
        Number or name of the site.

    Returns
    -------
    SiteSums
        In physical units: scale and offset of the bands are applied.

    Notes
    -----
    A store that is a site as a whole knows its statistics from its ingestion; the samples of a
    partition's site are read.
    """
    store = dataset.store
    chips, labels = dataset.site(site).split("train")
    known = [_known_sums(modality) for modality in store.meta.modalities]
    counted = [sums for sums in known if sums is not None]
    if dataset.partition is not None or len(counted) < len(known):
        counted = store.band_sums(chips)
    layers = {}
    for modality, sums in zip(store.meta.modalities, counted, strict=True):
        scale, offset = scaling(modality)
        layers[modality.name] = ModalitySums(
            tuple(modality.bands), sums.count, sums.mean * scale + offset, sums.m2 * scale**2
        )
    counts = np.bincount(labels, minlength=len(store.classes)).tolist()
    return SiteSums(layers, tuple(store.classes), tuple(counts))


def _known_sums(modality: ModalityMeta) -> BandSums | None:
    if not modality.count:
        return None
    count, std = np.array(modality.count, np.float64), np.array(modality.std)
    low, high = np.array(modality.min), np.array(modality.max)
    return BandSums(count, np.array(modality.mean), count * std**2, low, high)


def merge_sites(sites: Sequence[SiteSums]) -> SiteSums:
    """Add up the sums of several sites; the order changes the last digits only.

    Raises
    ------
    DataError
        There is none, or they differ in layers, bands or classes.
    """
    if not sites:
        raise DataError("no site has sent statistics: nothing can be agreed on")
    first = sites[0]
    layers = dict(first.layers)
    counts = np.array(first.class_counts, np.int64)
    for site in sites[1:]:
        if site.described != first.described:
            raise DataError(
                f"sites differ in layers or bands: {site.described} and {first.described}; "
                "ingest them alike"
            )
        if site.classes != first.classes:
            raise DataError(
                f"sites differ in classes: {', '.join(site.classes)} and "
                f"{', '.join(first.classes)}; ingest with one class list"
            )
        layers = {name: layer.merge(site.layers[name]) for name, layer in layers.items()}
        counts = counts + np.array(site.class_counts)
    return SiteSums(layers, first.classes, tuple(counts.tolist()))


def scaling(modality: ModalityMeta) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and offset [C] from stored to physical values; 1 and 0 where none are declared."""
    bands = len(modality.bands)
    scale = np.array(modality.scale) if modality.scale else np.ones(bands)
    offset = np.array(modality.offset) if modality.offset else np.zeros(bands)
    return scale, offset


_SIGNATURE = struct.Struct("<I")


@dataclass(frozen=True, eq=False)
class ModalityStatistics:
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

    layers: Mapping[str, ModalityStatistics]

    @classmethod
    def of(cls, sums: SiteSums) -> CommonStatistics:
        """Return the statistics of the pixels that were added up; infinite beyond float32."""
        with np.errstate(over="ignore"):
            return cls(
                {
                    name: ModalityStatistics(
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
            layers[name] = ModalityStatistics(tuple(bands), mean, std)
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
                    name: ModalityStatistics(
                        tuple(str(band) for band in layer["bands"]),
                        *_numbers(layer, len(layer["bands"])),
                    )
                    for name, layer in json.loads(text).items()
                }
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"these are no common statistics: {error}") from error


def normalization_of(
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
