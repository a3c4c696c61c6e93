"""Normalization by the statistics of all sites, which they share without sharing a pixel.

This is what the setting ``normalization=common`` means. Each site adds up its own train pixels
(:func:`site_sums`): counts, means and squared deviations of every band in physical units, and
samples of each class. The server adds the sums of all sites (:func:`merge_sites`), which gives
what all pixels together would have given, and returns means and standard deviations
(:class:`CommonStatistics`) by which every site normalizes (:func:`normalization_of`).

Nothing else about a site's imagery leaves it: no extremes, no histogram, no location. The sums of
very few samples still reveal much about each. The statistics travel in float32, exactly as they
are used, so that every site computes with the same bits.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from data_prep.dataset import Dataset
from data_prep.schema import ModalityMeta
from data_prep.statistics import Moments
from rsdgc.documents import parse_json, shorten
from rsdgc.errors import DataError

#: No measurement has a larger value: ingestion takes such pixels for fills.
MOST = 1e30
#: A site's values are at most so many times as large as those of the median site: sites measure in
#: the same physical units, so that larger factors are mistakes or attacks.
MOST_TIMES_MEDIAN = 1e4
#: Sites from which on a median says what is usual.
SITES_FOR_MEDIAN = 3
Item = TypeVar("Item", str, int)


@dataclass(frozen=True, eq=False)
class ModalitySums(Moments):
    """Moments in physical units, and the names of the bands."""

    bands: tuple[str, ...]

    def merge(self, other: ModalitySums) -> ModalitySums:
        """Return the sums over the pixels of both."""
        return ModalitySums(*self.merged(other), self.bands)


@dataclass(frozen=True)
class SiteSums:
    """Sums of one site, or of several together: modalities by name, and train samples by class."""

    modalities: Mapping[str, ModalitySums]
    classes: tuple[str, ...]
    class_counts: tuple[int, ...]

    def to_mapping(self) -> dict[str, list[float] | list[int] | list[str]]:
        """Return plain lists by name, as a Flower ConfigRecord takes them.

        The keys are part of the protocol (docs/protocol.md): there, modalities are "layers".
        """
        mapping: dict[str, Any] = {
            "layers": list(self.modalities),
            "classes": list(self.classes),
            "class-counts": list(self.class_counts),
        }
        for name, sums in self.modalities.items():
            mapping[f"{name} bands"] = list(sums.bands)
            for key in ("count", "mean", "m2"):
                mapping[f"{name} {key}"] = getattr(sums, key).tolist()
        return mapping

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> SiteSums:
        """Read a peer's :meth:`to_mapping`; DataError where it is missing, short or not finite."""
        try:
            names = _read_list(values, "layers", str)
            sums = cls(
                {name: _modality_sums(values, name) for name in names},
                tuple(_read_list(values, "classes", str)),
                tuple(_read_list(values, "class-counts", int)),
            )
            if len(sums.class_counts) != len(sums.classes) or min(sums.class_counts, default=0) < 0:
                raise ValueError("the counts are not those of the classes")
            if values.keys() != sums.to_mapping().keys() or len(names) != len(sums.modalities):
                raise ValueError("it has other fields, or a modality twice")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(
                f"a site's statistics are unreadable ({error}): use one version of rsdgc everywhere"
            ) from error
        return sums


def _modality_sums(values: Mapping[str, Any], name: str) -> ModalitySums:
    bands = tuple(_read_list(values, f"{name} bands", str))
    keys = (f"{name} count", f"{name} mean", f"{name} m2")
    count, mean, m2 = _read_numbers(values, keys, len(bands), np.float64)
    if (count < 0).any() or (m2 < 0).any() or m2[count == 0].any():
        raise ValueError(f"modality {name} has negative sums, or squares of no pixels")
    spread = np.sqrt(m2 / np.maximum(count, 1))
    if max(np.abs(mean).max(initial=0), spread.max(initial=0)) >= MOST:
        raise ValueError(f"modality {name} has a mean or a deviation beyond {MOST:g}")
    return ModalitySums(count, mean, m2, bands)


def _read_list(values: Mapping[str, Any], key: str, kind: type[Item]) -> list[Item]:
    """Return a list of a peer; ValueError unless all of it is of one kind."""
    items = values[key]
    if not isinstance(items, list) or any(type(item) is not kind for item in items):
        raise ValueError(f"{key} is not a list of {kind.__name__}")
    return items


def _read_numbers(
    values: Mapping[str, Any], keys: Sequence[str], bands: int, dtype: type[np.floating[Any]]
) -> list[NDArray[Any]]:
    """Return lists as arrays; ValueError unless each has a finite number for every band."""
    arrays = []
    for key in keys:
        items = values[key]
        if not isinstance(items, list) or any(type(item) not in (int, float) for item in items):
            raise ValueError(f"{key} is not a list of numbers")
        with np.errstate(over="ignore"):  # infinite, and refused
            arrays.append(np.asarray(items, dtype))
        if len(items) != bands or not np.isfinite(arrays[-1]).all():
            raise ValueError(f"{key} is not a finite number for each of {bands} bands")
    return arrays


def _bands_text(modalities: Iterable[tuple[str, Sequence[str]]]) -> str:
    return "; ".join(f"{name} ({', '.join(bands)})" for name, bands in modalities)


def site_sums(dataset: Dataset, site: int | str) -> SiteSums:
    """Add up the train samples of a site, given by number or name, in physical units."""
    view = dataset.site(site)
    store = view.store
    chips, labels = view.split("train")
    stored: Sequence[Moments]
    if dataset.partition is None and all(m.count for m in store.meta.modalities):
        # the whole store is one site, and its statistics stand in meta.json: nothing is read
        stored = [_recorded_moments(modality) for modality in store.meta.modalities]
    else:
        stored = store.band_sums(chips)
    modalities = {}
    for modality, sums in zip(store.meta.modalities, stored, strict=True):
        scale, offset = scaling(modality)
        modalities[modality.name] = ModalitySums(
            sums.count, sums.mean * scale + offset, sums.m2 * scale**2, tuple(modality.bands)
        )
    counts = np.bincount(labels, minlength=len(store.classes)).tolist()
    return SiteSums(modalities, tuple(store.classes), tuple(counts))


def _recorded_moments(modality: ModalityMeta) -> Moments:
    count = np.array(modality.count, np.float64)
    return Moments(count, np.array(modality.mean), count * np.array(modality.std) ** 2)


def merge_sites(sites: Sequence[SiteSums]) -> SiteSums:
    """Add up the sums of several sites; the order changes the last digits only.

    A modality's sums are those of the sites that have it.

    Raises
    ------
    DataError
        There are no sites, or they differ in bands or classes.
    """
    if not sites:
        raise DataError("no site has sent statistics: check that the sites are connected")
    first = sites[0]
    modalities = dict(first.modalities)
    counts = np.array(first.class_counts, np.int64)
    for site in sites[1:]:
        if site.classes != first.classes:
            raise DataError(
                f"sites differ in classes: {', '.join(site.classes)} and "
                f"{', '.join(first.classes)}; ingest with one list, --classes"
            )
        for name, sums in site.modalities.items():
            known = modalities.get(name)
            if known is not None and known.bands != sums.bands:
                raise DataError(
                    f"sites differ in the bands of modality {name}: {', '.join(sums.bands)} and "
                    f"{', '.join(known.bands)}: ingest them alike"
                )
            modalities[name] = sums if known is None else known.merge(sums)
        counts = counts + np.array(site.class_counts)
    return SiteSums(modalities, first.classes, tuple(counts.tolist()))


def outlying_sites(sites: Mapping[str, SiteSums]) -> dict[str, str]:
    """Return why sites' sums are far off all others', by the names of these sites.

    Of each band the magnitude (mean and deviation) is compared with that of the median site, where
    there are at least three.
    """
    reasons: dict[str, str] = {}
    names = {name for sums in sites.values() for name in sums.modalities}
    for modality in sorted(names):
        of_sites = {n: s.modalities[modality] for n, s in sites.items() if modality in s.modalities}
        if len(of_sites) < SITES_FOR_MEDIAN:
            continue
        size = {site: np.abs(sums.mean) + sums.std for site, sums in of_sites.items()}
        usual = np.median(list(size.values()), axis=0)
        for site, sums in of_sites.items():
            for band in np.flatnonzero((usual > 0) & (size[site] > MOST_TIMES_MEDIAN * usual)):
                reasons.setdefault(
                    site,
                    f"band {sums.bands[band]} of modality {modality} is of the size "
                    f"{size[site][band]:.3g}, at the median site {usual[band]:.3g}",
                )
    return reasons


def scaling(modality: ModalityMeta) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return scale and offset [C] from stored to physical values; 1 and 0 by default."""
    bands = len(modality.bands)
    scale = np.array(modality.scale) if modality.scale else np.ones(bands)
    offset = np.array(modality.offset) if modality.offset else np.zeros(bands)
    return scale, offset


class NamedBands(Protocol):
    """A modality, as a store or a run describes it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def bands(self) -> Sequence[str]:
        """Names of its bands, in order."""


@dataclass(frozen=True, eq=False)
class ModalityStatistics:
    """A modality's bands and, of each, mean and deviation in physical units, float32 [C]."""

    bands: tuple[str, ...]
    mean: NDArray[np.float32]
    std: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class CommonStatistics:
    """What all sites of a run normalize by: statistics by modality, in the order of the run.

    ::

        common = CommonStatistics.of(merge_sites(sums_of_sites))
        CommonStatistics.unpack(common.pack(), store.meta.modalities)    # the same, at a site
    """

    modalities: Mapping[str, ModalityStatistics]

    @classmethod
    def of(cls, sums: SiteSums) -> CommonStatistics:
        """Return the statistics of the pixels that were added up; infinite beyond float32."""
        modalities = {}
        with np.errstate(over="ignore"):
            for name, m in sums.modalities.items():
                mean, std = m.mean.astype(np.float32), m.std.astype(np.float32)
                modalities[name] = ModalityStatistics(m.bands, mean, std)
        return cls(modalities)

    @property
    def finite(self) -> bool:
        """Whether every mean and standard deviation is a number."""
        return all(bool(np.isfinite(numbers).all()) for numbers in self._numbers())

    def _numbers(self) -> list[NDArray[np.float32]]:
        return [part for m in self.modalities.values() for part in (m.mean, m.std)]

    def pack(self) -> bytes:
        """Pack for the wire, little-endian: a checksum of names (4 bytes), then float32.

        Means, then standard deviations, modality by modality: 4 + 8 C bytes for C bands.
        """
        packed = np.concatenate([np.zeros(0, np.float32), *self._numbers()]).astype("<f4")
        return _signature((n, m.bands) for n, m in self.modalities.items()) + packed.tobytes()

    @classmethod
    def unpack(cls, packed: bytes, modalities: Sequence[NamedBands]) -> CommonStatistics:
        """Unpack :meth:`pack` for a run of these modalities.

        Raises
        ------
        DataError
            The statistics are for other modalities or bands, damaged, or not finite.
        """
        bands_of = {modality.name: tuple(modality.bands) for modality in modalities}
        signature = _signature(bands_of.items())
        size = len(signature) + 8 * sum(map(len, bands_of.values()))
        if len(packed) != size or not packed.startswith(signature):
            raise DataError(
                "the run's common statistics are for other modalities or bands than this site's "
                f"({_bands_text(bands_of.items())}): ingest all sites alike, or train with "
                "normalization=site"
            )
        numbers = np.frombuffer(packed, "<f4", offset=len(signature)).astype(np.float32)
        statistics, start = {}, 0
        for name, bands in bands_of.items():
            stop = start + 2 * len(bands)
            statistics[name] = ModalityStatistics(bands, *numbers[start:stop].reshape(2, -1))
            start = stop
        common = cls(statistics)
        if not common.finite:
            raise DataError(
                f"the run's common statistics {numbers.tolist()} are not finite: train with "
                "normalization=site"
            )
        return common

    def to_json(self) -> str:
        """Return JSON text: bands, means and standard deviations by modality, exact."""
        values = {
            name: {"bands": list(m.bands), "mean": m.mean.tolist(), "std": m.std.tolist()}
            for name, m in self.modalities.items()
        }
        return json.dumps(values, indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> CommonStatistics:
        """Read :meth:`to_json`; DataError where the text is something else."""
        modalities = {}
        try:
            for name, values in parse_json(text).items():
                bands = tuple(str(band) for band in values["bands"])
                mean, std = _read_numbers(values, ("mean", "std"), len(bands), np.float32)
                if (std < 0).any():
                    raise ValueError(f"a standard deviation of modality {name} is negative")
                modalities[name] = ModalityStatistics(bands, mean, std)
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            reason = shorten(str(error), 200)
            raise DataError(
                f"these are not common statistics: {reason}: copy normalization.json of the run "
                "again"
            ) from error
        return cls(modalities)


def _signature(modalities: Iterable[tuple[str, Sequence[str]]]) -> bytes:
    """Return a checksum of the names of modalities and bands: 4 bytes."""
    names = [(name, list(bands)) for name, bands in modalities]
    return zlib.crc32(json.dumps(names).encode()).to_bytes(4, "little")


def normalization_of(
    modality: ModalityMeta, common: CommonStatistics | None = None
) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]]:
    """Return mean and deviation [C] in physical units: the store's own, or the common ones.

    Raises
    ------
    DataError
        The common statistics lack the modality, or it has other bands.
    """
    if common is None:
        scale, offset = scaling(modality)
        return np.array(modality.mean) * scale + offset, np.array(modality.std) * np.abs(scale)
    statistics = common.modalities.get(modality.name)
    if statistics is None or list(statistics.bands) != modality.bands:
        raise DataError(
            f"the common statistics do not have modality {modality.name} with the bands "
            f"{', '.join(modality.bands)}: ingest all sites alike"
        )
    return statistics.mean, statistics.std
