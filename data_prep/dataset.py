"""The sites of a data set (a store, or a partition of one) and their samples in batches."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_prep.manifest import column, read_manifest
from data_prep.schema import (
    PARTITION_FILE,
    SPLITS,
    STORE_FILE,
    PartitionMeta,
    path_within,
    read_record,
)
from data_prep.store import Store
from rsdgc.errors import DataError, SettingError

SITES_FOLDER = "sites"
#: Name of the only site of a store that is not partitioned.
WHOLE_SITE = "site-00"

#: One array (n, C, h, w) per modality, and the labels, int64 [n].
Batch = tuple[list[NDArray[Any]], NDArray[np.int64]]


@dataclass(frozen=True)
class SiteView:
    """One site's rows of the manifest, and the store with the modalities that the site has."""

    name: str
    manifest: pa.Table
    store: Store

    def split(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the chips (for :meth:`Store.take`) and labels of a split, both int64 [n].

        A split is ``train``, ``val``, ``test`` or ``buffer``. A site may lack samples of it.
        """
        if name not in SPLITS:
            raise SettingError(f"split {name!r} is not one of {', '.join(SPLITS)}")
        members = column(self.manifest, "split") == name
        chips = column(self.manifest, "chip")[members].astype(np.int64)
        return chips, column(self.manifest, "label")[members].astype(np.int64)


class Dataset:
    """A store and its sites; made by :func:`open_data`.

    With ``modalities`` only those count that they name, in their order. A site may lack some.
    """

    def __init__(
        self,
        path: Path,
        store: Store,
        partition: PartitionMeta | None,
        modalities: Sequence[str] = (),
    ) -> None:
        own = [modality.name for modality in store.meta.modalities]
        chosen = [name for name in modalities if name in own] if modalities else own
        if not chosen:
            raise DataError(
                f"{path} has none of the modalities {', '.join(modalities)}: name some of "
                f"{', '.join(own)} in modalities, or leave that setting out"
            )
        self.path = path
        self.store = store.with_modalities(chosen)
        self.partition = partition
        #: names, in order
        self.sites: list[str] = list(partition.sites) if partition else [WHOLE_SITE]
        self._views: dict[str, SiteView] = {}

    @property
    def name(self) -> str:
        """Name of the data in reports."""
        return self.store.meta.name

    def digest(self) -> str:
        """Return a digest of what a run trains on and scores: 16 hexadecimal digits.

        It covers the chips of the store, and which of them, with which labels, are in the splits of
        which site; not where the data are.
        """
        digest = hashlib.blake2b(self.store.meta.id.encode(), digest_size=8)
        for name in self.sites:
            view = self.site(name)
            parts = [name, *(self.partition.lacking.get(name, []) if self.partition else [])]
            for split in SPLITS:
                chips, labels = view.split(split)
                parts.append(f"{split} {len(chips)}")
                digest.update(chips.astype("<i8").tobytes() + labels.astype("<i8").tobytes())
            digest.update(repr(parts).encode())
        return digest.hexdigest()

    def site(self, which: int | str) -> SiteView:
        """Return a site by its number from 0, or by its name; DataError if there is no such.

        A site's manifest is read at the first call.
        """
        if isinstance(which, int) and 0 <= which < len(self.sites):
            which = self.sites[which]
        if which not in self.sites:
            raise DataError(f"{self.path} has no site {which}: choose from {', '.join(self.sites)}")
        name = str(which)
        if name not in self._views:
            self._views[name] = self._read_site(name)
        return self._views[name]

    def _read_site(self, name: str) -> SiteView:
        if self.partition is None:
            return SiteView(name, self.store.manifest, self.store)
        lacking = self.partition.lacking.get(name, [])
        own = [m.name for m in self.store.meta.modalities if m.name not in lacking]
        if not own:
            used = ", ".join(m.name for m in self.store.meta.modalities)
            raise DataError(
                f"site {name} has none of the modalities {used}: name one that it has in "
                "modalities, or leave the site out"
            )
        path = path_within(self.path, SITES_FOLDER, f"{name}.parquet")
        manifest = read_manifest(path, self.store.meta, len(self.store))
        return SiteView(name, manifest, self.store.with_modalities(own))


def open_data(path: str | os.PathLike[str], modalities: Sequence[str] = ()) -> Dataset:
    """Open a store (one site that holds everything) or a partition.

    Parameters
    ----------
    path
        The folder.
    modalities
        Names of the modalities to use, in the order to use them; none for all. Names that the
        store lacks are left out.

    Raises
    ------
    DataError
        The folder is neither, a partition is of a store that has moved or changed, or the store
        has none of the modalities.
    """
    path = Path(path)
    if not path.is_dir():
        raise DataError(f"{path} is not a folder: name a store or a partition")
    if not (path / PARTITION_FILE).is_file():
        if not (path / STORE_FILE).is_file():
            raise DataError(
                f"{path} has neither {STORE_FILE} nor {PARTITION_FILE}: ingest an archive first"
            )
        return Dataset(path, Store.open(path), None, modalities)
    partition = read_record(path_within(path, PARTITION_FILE), PartitionMeta)
    store_path = Path(os.path.normpath(path.resolve() / partition.store))
    if not (store_path / STORE_FILE).is_file():
        raise DataError(
            f"{path} divides the store {store_path}, which is not there: put it there, or "
            "partition again"
        )
    store = Store.open(store_path)
    if store.meta.id != partition.store_id:
        raise DataError(f"{path} divides an older store than {store_path} is now: partition again")
    if partition.classes != store.classes:
        raise DataError(f"{path} has other classes than {store_path}: partition again")
    return Dataset(path, store, partition, modalities)


class Samples:
    """Chips and labels, a batch at a time: a map-style data set for torch, without workers.

    ::

        samples = Samples(store, *data.site("site-00").split("train"))
        loader = DataLoader(samples, batch_size=256, shuffle=True, collate_fn=lambda batch: batch)

    PyTorch asks for a batch by ``__getitems__`` and passes the result to ``collate_fn``: nothing
    is cut into samples and joined again, and nothing goes from process to process.

    Parameters
    ----------
    store
        Where the chips are.
    chips, labels : int64 [n]
        As :meth:`SiteView.split` returns them.
    """

    def __init__(self, store: Store, chips: NDArray[np.int64], labels: NDArray[np.int64]) -> None:
        if len(chips) != len(labels):
            raise DataError(f"{len(chips)} chips have {len(labels)} labels: give one each")
        self.store = store
        self.chips = np.asarray(chips, np.int64)
        self.labels = np.asarray(labels, np.int64)

    def __len__(self) -> int:
        return len(self.chips)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Copy a batch out of the memory map, in native types."""
        rows = np.asarray(indices, np.int64)
        return self.store.take(self.chips[rows]), self.labels[rows]
