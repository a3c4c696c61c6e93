"""Dividing a store over simulated sites: the manifest is divided, the pixels stay."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from data_prep import partition_schemes
from data_prep.dataset import SITES_FOLDER, Dataset, open_data
from data_prep.manifest import column
from data_prep.schema import PARTITION_FILE, PartitionMeta, write_record
from data_prep.staging import check_free, staged_folder
from data_prep.store import Store
from rsdgc.errors import DataError, SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

SCHEMES = ("iid", "dirichlet", "classes", "scene", "block", "folder")
#: Least train samples of a site under label skew.
MIN_TRAIN = 10
COLUMNS = ("label", "split", "scene", "folder", "row", "col", "x", "y", "crs")


def partition(
    store: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    sites: int | None = None,
    scheme: str = "iid",
    alpha: float = 0.5,
    classes_per_site: int = 2,
    seed: int = 0,
    min_train: int = MIN_TRAIN,
    overwrite: bool = False,
) -> Dataset:
    """Divide a store over sites.

    The same arguments give the same partition. Every sample of a split goes to exactly one site.
    Samples of the buffer go with their ground under ``scene``, ``block`` and ``folder``, so that
    maps have no holes, and to nobody otherwise.

    Parameters
    ----------
    store, out
        The store, and the folder to make; ``partition.json`` in it points to the store. The
        folder appears whole at the end, or not at all.
    sites
        Number of sites. May be left out for ``folder`` (one a folder) and ``scene`` (one a
        scene).
    scheme
        ``iid``: at random. ``dirichlet``: label skew, the stronger the smaller ``alpha``.
        ``classes``: each site has ``classes_per_site`` of the classes and no other.
        ``scene``: whole scenes. ``block``: compact areas with about as many samples each.
        ``folder``: the archive's own top-level folders.
    alpha, min_train
        For ``dirichlet``: its concentration, and the least train samples a site must have.
    classes_per_site
        For ``classes``.
    seed
        For ``iid``, ``dirichlet`` and ``classes``.
    overwrite
        Replace an existing partition at ``out``.

    Raises
    ------
    SettingError
        An unknown scheme, no sites, or a number that contradicts the folders.
    DataError
        A site would have no train samples; the label skew cannot be had.
    """
    _check(scheme, sites)
    check_free(Path(out).absolute(), overwrite=overwrite)
    opened = Store.open(store)
    columns = {name: column(opened.manifest, name) for name in COLUMNS}
    if scheme == "classes" and sites is not None:
        site_of = partition_schemes.deal_classes(columns, sites, seed, classes_per_site)
        names = [f"site-{index:02d}" for index in range(sites)]
    else:
        site_of, names = _deal(columns, scheme, sites, alpha, seed, min_train)
    _check_sites(site_of, names, columns["split"])
    record = PartitionMeta(
        scheme=scheme,
        sites=names,
        seed=seed,
        alpha=alpha if scheme == "dirichlet" else None,
        classes_per_site=classes_per_site if scheme == "classes" else None,
        store=os.path.relpath(Path(store).resolve(), Path(out).resolve()),
        store_id=opened.meta.id,
        name=opened.meta.name,
        classes=opened.classes,
        dropped=int((site_of == partition_schemes.NOBODY).sum()),
    )
    with staged_folder(out, overwrite=overwrite) as folder:
        (folder / SITES_FOLDER).mkdir()
        for index, name in enumerate(names):
            rows = opened.manifest.take(np.flatnonzero(site_of == index))
            pq.write_table(rows, folder / SITES_FOLDER / f"{name}.parquet", compression="zstd")
        write_record(folder / PARTITION_FILE, record)
    return open_data(out)


def _check(scheme: str, sites: int | None) -> None:
    if scheme not in SCHEMES:
        raise SettingError(f"scheme {scheme!r} is not one of {', '.join(SCHEMES)}")
    if sites is None and scheme not in ("folder", "scene"):
        raise SettingError(f"scheme {scheme} needs a number of sites")
    if sites is not None and sites < 1:
        raise SettingError(f"sites is {sites}: choose at least 1")


def _deal(
    columns: Mapping[str, NDArray[Any]],
    scheme: str,
    sites: int | None,
    alpha: float,
    seed: int,
    min_train: int,
) -> tuple[partition_schemes.Sites, list[str]]:
    """Deal samples by a scheme: site numbers, and the sites' names."""
    if scheme == "folder":
        site_of, names = partition_schemes.deal_folders(columns)
        if sites not in (None, len(names)):
            raise SettingError(
                f"sites is {sites} but the archive has the folders {', '.join(names)}: leave "
                "sites out, or choose another scheme"
            )
        return site_of, names
    count = len(np.unique(columns["scene"].astype(str))) if sites is None else sites
    if scheme == "iid":
        site_of = partition_schemes.deal_iid(columns, count, seed)
    elif scheme == "dirichlet":
        site_of = partition_schemes.deal_dirichlet(columns, count, seed, alpha, min_train)
    elif scheme == "scene":
        site_of = partition_schemes.deal_scenes(columns, count)
    else:
        site_of = partition_schemes.deal_blocks(columns, count)
    return site_of, [f"site-{index:02d}" for index in range(count)]


def _check_sites(site_of: partition_schemes.Sites, names: list[str], splits: NDArray[Any]) -> None:
    train = (splits == "train") & (site_of != partition_schemes.NOBODY)
    counts = np.bincount(site_of[train], minlength=len(names))
    for name, count in zip(names, counts, strict=True):
        if count == 0:
            raise DataError(
                f"{name} has no train samples: choose fewer sites, another scheme, or a smaller "
                "test share at ingestion"
            )
