"""Loaders of a site's chips, with the run's modalities in its order, normalized."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from clients.loader import SplitLoader
from clients.normalization import Normalization
from data_prep.common_statistics import CommonStatistics, normalization_of
from data_prep.dataset import Dataset
from data_prep.schema import ModalityMeta
from data_prep.store import Store


def load_split(
    dataset: Dataset,
    site: str,
    name: str,
    device: torch.device,
    common: CommonStatistics | None = None,
    *,
    modalities: Sequence[str] = (),
    stacked: bool = True,
    cache_bytes: int | None = None,
) -> SplitLoader | None:
    """Return a loader of a site's split on the device, or None if the split has no samples.

    Pixels are normalized as :func:`normalizations` says. ``modalities`` are those of the run, in
    its order; the site's own by default. See :class:`clients.loader.SplitLoader` for ``stacked``
    and ``cache_bytes``.
    """
    view = dataset.site(site)
    chips, labels = view.split(name)
    if len(chips) == 0:
        return None
    store, present = run_inputs(view.store, modalities)
    return SplitLoader(
        store,
        chips,
        labels,
        normalizations(store.meta.modalities, common),
        device,
        stacked=stacked,
        centered=store.meta.patch_px > 0,
        present=present,
        cache_bytes=cache_bytes,
    )


def run_inputs(store: Store, modalities: Sequence[str]) -> tuple[Store, list[bool]]:
    """Return a store in the order of a run's modalities, and which of them it has."""
    own = [modality.name for modality in store.meta.modalities]
    names = modalities or own
    present = [name in own for name in names]
    return store.with_modalities([name for name in names if name in own]), present


def normalizations(
    modalities: Sequence[ModalityMeta], common: CommonStatistics | None = None
) -> list[Normalization]:
    """Return how to normalize each modality: by the common statistics, or else by the store's own.

    Raises :class:`DataError` if the common statistics are of other modalities or bands.
    """
    result = []
    for modality in modalities:
        mean, std = normalization_of(modality, common)
        result.append(
            Normalization(
                mean=np.asarray(mean, dtype=np.float32),
                std=np.asarray(std, dtype=np.float32),
                nodata=modality.nodata,
                scale=np.asarray(modality.scale) if modality.scale else None,
                offset=np.asarray(modality.offset) if modality.offset else None,
            )
        )
    return result
