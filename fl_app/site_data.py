"""Which sites a node hosts, and their chips as the training code takes them.

In a deployment the node's own configuration names the data (``data-dir``) and the site
(``site-name``). In a simulation the nodes share the run's data: the sites are dealt out over the
nodes, so that all take part however many nodes there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clients.loader import Normalization, SplitLoader
from data_prep.common_statistics import CommonStatistics, normalization_of
from data_prep.dataset import Dataset, open_data
from data_prep.schema import ModalityMeta
from fl_app.settings import Settings
from rsdgc.errors import DataError


@dataclass(frozen=True)
class NodeData:
    """The data behind a node.

    Attributes
    ----------
    dataset : Dataset
        A store, or a store shared out over sites.
    sites : dict of str to str
        The sites that this node hosts: the name that the server knows, and the name in the data.
    """

    dataset: Dataset
    sites: Mapping[str, str]


def node_data(node_config: Mapping[str, Any], settings: Settings) -> NodeData:
    """Find the data and the sites of a node.

    Raises
    ------
    DataError
        If the node has neither data of its own nor a part in a simulation, or its site is not in
        its data.
    """
    own = node_config.get("data-dir")
    if own:
        return own_data(Path(str(own)), str(node_config.get("site-name") or ""))
    part, parts = node_config.get("partition-id"), node_config.get("num-partitions")
    if part is None or parts is None:
        raise DataError(
            'this node has no data-dir: start it with --node-config \'data-dir="/path" '
            'site-name="name"\''
        )
    dataset = open_data(Path(settings.data_dir) if settings.data_dir else _built_in())
    names = dataset.sites[int(part) :: int(parts)]
    return NodeData(dataset, {name: name for name in names})


def _built_in() -> Path:
    # A site that has data must not load what makes some, for every message anew.
    from fl_app.default_data import default_data  # noqa: PLC0415

    return default_data()


def own_data(path: Path, site_name: str) -> NodeData:
    """Return the data of a machine that hosts one site.

    Parameters
    ----------
    path : Path
        A store, or a partition that has the site.
    site_name : str
        As the server knows the site; empty: as the data has it.

    Raises
    ------
    DataError
        The data cannot be used, or have no such site.
    """
    dataset = open_data(path)
    if len(dataset.sites) == 1:
        return NodeData(dataset, {site_name or dataset.sites[0]: dataset.sites[0]})
    if site_name not in dataset.sites:
        raise DataError(
            f"site-name '{site_name}' is not among the sites of {path}: {', '.join(dataset.sites)}"
        )
    return NodeData(dataset, {site_name: site_name})


def check_trainable(dataset: Dataset, sites: Mapping[str, str]) -> None:
    """Raise :class:`DataError` if a site, by the name the server knows, has nothing to train on."""
    for name, local in sites.items():
        chips, _ = dataset.site(local).split("train")
        if len(chips) == 0:
            raise DataError(f"site {name} has no training samples; partition the data anew")


def load_split(
    dataset: Dataset,
    site: str,
    name: str,
    device: torch.device,
    common: CommonStatistics | None = None,
) -> SplitLoader | None:
    """Return a split of a site on the device, or None if it has no samples.

    With the ``common`` statistics of all sites, pixels are normalised by them, else by the store's
    own.

    Raises
    ------
    DataError
        The common statistics are of other layers or bands.
    """
    chips, labels = dataset.site(site).split(name)
    if len(chips) == 0:
        return None
    normalization = normalizations(dataset.store.meta.modalities, common)
    return SplitLoader(dataset.store, chips, labels, normalization, device)


def normalizations(
    modalities: Sequence[ModalityMeta], common: CommonStatistics | None = None
) -> list[Normalization]:
    """Return how each modality of a store is normalised: by its own statistics or the common ones.

    Raises
    ------
    DataError
        The common statistics are of other layers or bands.
    """
    return [_normalization(modality, common) for modality in modalities]


def _normalization(modality: ModalityMeta, common: CommonStatistics | None) -> Normalization:
    mean, std = normalization_of(modality, common)
    return Normalization(
        mean=np.asarray(mean, dtype=np.float32),
        std=np.asarray(std, dtype=np.float32),
        nodata=modality.nodata,
        scale=np.asarray(modality.scale) if modality.scale else None,
        offset=np.asarray(modality.offset) if modality.offset else None,
    )
