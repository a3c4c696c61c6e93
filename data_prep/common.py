"""Statistics that sites can share and add up, without sharing a pixel.

Each site adds up its own train pixels (:func:`site_sums`): counts, means and squared deviations of
every band in physical units, and samples of each class. The sums of several sites add up to what
one would get from all pixels together (:func:`merge_sites`), whatever the grouping; from them each
site normalises alike (:func:`normalizing_statistics`). Of a site's imagery nothing else is told: no
extremes, no histogram of values, no place.
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
    if (count < 0).any() or (m2 < 0).any():
        raise ValueError(f"layer {name} has negative counts or squares")
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
    """
    store = dataset.store
    chips, labels = dataset.site(site).split("train")
    layers = {}
    for modality, sums in zip(store.meta.modalities, store.band_sums(chips), strict=True):
        scale, offset = _scaling(modality)
        layers[modality.name] = LayerSums(
            tuple(modality.bands), sums.count, sums.mean * scale + offset, sums.m2 * scale**2
        )
    counts = np.bincount(labels, minlength=len(store.classes)).tolist()
    return SiteSums(layers, tuple(store.classes), tuple(counts))


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
        described = {name: layer.bands for name, layer in site.layers.items()}
        if described != {name: layer.bands for name, layer in layers.items()}:
            raise DataError(
                f"sites differ in layers or bands: {described} and "
                f"{ {name: layer.bands for name, layer in layers.items()} }; ingest them alike"
            )
        if site.classes != first.classes:
            raise DataError(
                f"sites differ in classes: {', '.join(site.classes)} and "
                f"{', '.join(first.classes)}; ingest with one class list"
            )
        layers = {name: layer.merge(site.layers[name]) for name, layer in layers.items()}
        counts = counts + np.array(site.class_counts)
    return SiteSums(layers, first.classes, tuple(counts.tolist()))


def normalizing_statistics(
    modality: ModalityMeta, common: SiteSums | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation [C] in physical units: the store's own, or the common ones.

    Raises
    ------
    DataError
        The common statistics do not have the layer, or it has other bands.
    """
    if common is None:
        scale, offset = _scaling(modality)
        return np.array(modality.mean) * scale + offset, np.array(modality.std) * np.abs(scale)
    layer = common.layers.get(modality.name)
    if layer is None or list(layer.bands) != modality.bands:
        raise DataError(
            f"the common statistics do not have layer {modality.name} with the bands "
            f"{', '.join(modality.bands)}: ingest all sites alike"
        )
    return layer.mean, layer.std


def _scaling(modality: ModalityMeta) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    bands = len(modality.bands)
    scale = np.array(modality.scale) if modality.scale else np.ones(bands)
    offset = np.array(modality.offset) if modality.offset else np.zeros(bands)
    return scale, offset
