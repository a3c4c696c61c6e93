"""Statistics that sites can share and add up, without sharing a pixel.

Each site adds up its own train pixels (:func:`site_sums`): counts, means and squared deviations of
every band in physical units, and samples of each class. The sums of several sites add up to what
one would get from all pixels together (:func:`merge_sites`), whatever the grouping; from them each
site can normalise alike (:mod:`data_prep.normalizing`). Of a site's imagery nothing else is told:
no extremes, no histogram of values, no place. Of very few samples the sums still tell much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.statistics import BandSums
from rsdgc.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_prep.dataset import Dataset
    from data_prep.schema import ModalityMeta


@dataclass(frozen=True)
class LayerSums:
    """A layer's bands and, of each, count, mean and squared deviations, float64 [C]."""

    bands: tuple[str, ...]
    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]

    @property
    def std(self) -> NDArray[np.float64]:
        """Population standard deviation [C]; 0 for a band without pixels."""
        return np.sqrt(self.m2 / np.maximum(self.count, 1))

    def merge(self, other: LayerSums) -> LayerSums:
        """Return the sums over the pixels of both."""
        ours, theirs = (
            BandSums(s.count, s.mean, s.m2, np.zeros_like(s.mean), np.zeros_like(s.mean))
            for s in (self, other)
        )
        both = ours.merge(theirs)
        return LayerSums(self.bands, both.count, both.mean, both.m2)


@dataclass(frozen=True)
class SiteSums:
    """What one site, or several together, tell: layers by name, and train samples by class."""

    layers: Mapping[str, LayerSums]
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


def _layer(values: Mapping[str, Any], name: str) -> LayerSums:
    bands = tuple(str(band) for band in values[f"{name} bands"])
    count, mean, m2 = (
        np.asarray(values[f"{name} {key}"], np.float64) for key in ("count", "mean", "m2")
    )
    for sums in (count, mean, m2):
        if sums.shape != (len(bands),) or not np.isfinite(sums).all():
            raise ValueError(f"layer {name} has {sums.tolist()} for {len(bands)} bands")
    if (count < 0).any() or (m2 < 0).any() or m2[count == 0].any():
        raise ValueError(f"layer {name} has negative counts or squares, or squares of no pixels")
    return LayerSums(bands, count, mean, m2)


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
        layers[modality.name] = LayerSums(
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
