"""The sites that a node hosts, and what the server is told of their data.

In a deployment the node's own configuration names the data (``data-dir``) and the site
(``site-name``). In a simulation all nodes use the run's data, and the sites are distributed over
the nodes, so that all sites take part however many nodes there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.dataset import Dataset, open_data
from data_prep.store import Store
from fl_app.settings import Settings
from rsdgc.errors import DataError
from strategies.sites import DataInfo, ModalityInfo, SiteInfo


@dataclass(frozen=True)
class NodeData:
    """The data behind a node: a store, or a store partitioned over sites.

    ``sites`` are those that this node hosts: from the name that the server knows to the name in the
    data.
    """

    dataset: Dataset
    sites: Mapping[str, str]


def node_data(node_config: Mapping[str, Any], settings: Settings) -> NodeData:
    """Find the data and the sites of a node.

    Raises :class:`DataError` if the node has neither its own data nor a number in a simulation, or
    if its site is not in its data.
    """
    data_dir = node_config.get("data-dir")
    modalities = settings.modality_names
    if data_dir:
        site_name = str(node_config.get("site-name") or "")
        return own_data(Path(str(data_dir)), site_name, modalities)
    # Flower's simulation numbers its nodes by these two keys.
    number, num_nodes = node_config.get("partition-id"), node_config.get("num-partitions")
    if number is None or num_nodes is None:
        raise DataError(
            'this node has no data-dir: start it with --node-config \'data-dir="/path" '
            'site-name="name"\''
        )
    if settings.data_dir:
        dataset = open_data(settings.data_dir, modalities)
    else:
        # Imported only here: a process that handles one message must not load the generator of
        # the built-in archive if the site has data.
        from fl_app.default_data import default_data  # noqa: PLC0415

        dataset = open_data(default_data(), modalities)
    names = dataset.sites[int(number) :: int(num_nodes)]
    return NodeData(dataset, {name: name for name in names})


def own_data(path: Path, site_name: str, modalities: Sequence[str] = ()) -> NodeData:
    """Return the data of a machine that hosts one site.

    The data are a store, which is one site of any name, or a partition that has a site of this
    name. An empty name stands for the name in the data. Raises :class:`DataError` if the data
    cannot be used, or have neither the site nor any of the modalities.
    """
    dataset = open_data(path, modalities)
    if len(dataset.sites) == 1:
        return NodeData(dataset, {site_name or dataset.sites[0]: dataset.sites[0]})
    if site_name not in dataset.sites:
        raise DataError(
            f"site-name '{site_name}' is not among the sites of {path}: {', '.join(dataset.sites)}"
        )
    return NodeData(dataset, {site_name: site_name})


def check_trainable(dataset: Dataset, sites: Mapping[str, str]) -> None:
    """Raise :class:`DataError` if one of a node's sites (:class:`NodeData`) cannot train."""
    for name, local_name in sites.items():
        chips, _ = dataset.site(local_name).split("train")
        if len(chips) == 0:
            raise DataError(f"site {name} has no training samples: partition the data again")


def modality_infos(store: Store) -> tuple[ModalityInfo, ...]:
    """Return what a model must know of a store's modalities, in the store's order."""
    return tuple(
        ModalityInfo(modality.name, tuple(modality.bands), store.chip_px // modality.factor)
        for modality in store.meta.modalities
    )


def describe_sites(node: NodeData) -> tuple[DataInfo, list[SiteInfo]]:
    """Return what the roll call tells of a node's data, and of each of its sites.

    Flower's number of the node is not known here, and 0 stands for it.
    """
    dataset, store = node.dataset, node.dataset.store
    sites = []
    for name, local_name in node.sites.items():
        view = dataset.site(local_name)
        num_train, num_test, num_val = (
            len(view.split(split)[0]) for split in ("train", "test", "val")
        )
        own = tuple(modality.name for modality in view.store.meta.modalities)
        sites.append(SiteInfo(name, 0, num_train, num_test, own, num_val))
    data = DataInfo(dataset.name, store.meta.synthetic, tuple(store.classes), modality_infos(store))
    return data, sites
