"""Division of a store over simulated sites: the manifest is divided, the pixels stay.

Each scheme is a function that returns the number of every sample's site, int64 [n], with
:data:`NO_SITE` for the samples that no site gets. :func:`partition` documents them all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_prep.choices import PartitionScheme
from data_prep.dataset import SITES_FOLDER, Dataset, open_data
from data_prep.manifest import Columns, column
from data_prep.number_format import plural
from data_prep.schema import MAX_NAME_BYTES, PARTITION_FILE, PartitionMeta, write_record
from data_prep.staging import PARTITION, check_free, staged_folder
from data_prep.store import Store
from rsdgc.documents import shorten
from rsdgc.errors import DataError, SettingError
from rsdgc.plain_text import MAX_NAME, is_plain

#: Least train samples of a site under label skew.
MIN_TRAIN = 10
#: Draws of Dirichlet proportions before a setting counts as infeasible.
DIRICHLET_DRAWS = 50
NO_SITE = -1

SiteNumbers = NDArray[np.int64]

_COLUMNS = ("label", "split", "scene", "folder", "row", "col", "x", "y", "crs")


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
    lacking: Mapping[str, Sequence[str]] | None = None,
    overwrite: bool = False,
) -> Dataset:
    """Divide a store over sites.

    The same arguments give the same partition. Every sample of a split goes to exactly one site.
    Samples of the buffer go with their ground under ``scene``, ``block`` and ``folder``, so that
    maps have no holes, and to no site otherwise.

    Parameters
    ----------
    store, out
        The store, and the folder to make; ``partition.json`` in it points to the store.
    sites
        Number of sites; may be left out for ``folder`` and ``scene``, which then make one of each.
    scheme
        ``iid``: at random, in equal parts. ``dirichlet``: label skew, the stronger the smaller
        ``alpha``. ``classes``: each site has ``classes_per_site`` of the classes and no other.
        ``scene``: whole scenes. ``block``: compact areas with about as many samples each.
        ``folder``: the archive's own top-level folders, whose names the sites get.
    alpha, min_train
        For ``dirichlet``: its concentration, and the least train samples a site must have.
    classes_per_site
        For ``classes``.
    seed
        For ``iid``, ``dirichlet`` and ``classes``.
    lacking
        Names of modalities that a site lacks, by the site's name.
    overwrite
        Replace an existing partition at ``out``.

    Raises
    ------
    SettingError
        An unknown scheme, no sites, a number that contradicts the folders, or ``lacking`` names
        an unknown site or modality, or all of a site's modalities.
    DataError
        A site would have no train samples, or the label skew is infeasible.
    """
    _check_options(scheme, sites, seed)
    check_free(Path(out).absolute(), overwrite=overwrite, kind=PARTITION)
    opened = Store.open(store)
    columns = {name: column(opened.manifest, name) for name in _COLUMNS}
    count = len(np.unique(columns["scene"].astype(str))) if sites is None else sites
    names = [f"site-{index:02d}" for index in range(count)]
    match scheme:
        case "iid":
            site_of = assign_iid(columns, count, seed)
        case "dirichlet":
            site_of = assign_dirichlet(columns, count, seed, alpha, min_train)
        case "classes":
            site_of = assign_classes(columns, count, seed, classes_per_site)
        case "scene":
            site_of = assign_scenes(columns, count)
        case "block":
            site_of = assign_blocks(columns, count)
        case _:
            site_of, names = assign_folders(columns, sites)
    _check_trainable(site_of, names, columns["split"])
    lacking = {name: sorted(set(modalities)) for name, modalities in (lacking or {}).items()}
    _check_lacking(lacking, names, [modality.name for modality in opened.meta.modalities])
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
        dropped=int((site_of == NO_SITE).sum()),
        lacking=lacking,
    )
    with staged_folder(out, overwrite=overwrite, kind=PARTITION) as folder:
        (folder / SITES_FOLDER).mkdir()
        for index, name in enumerate(names):
            rows = opened.manifest.take(np.flatnonzero(site_of == index))
            pq.write_table(rows, folder / SITES_FOLDER / f"{name}.parquet", compression="zstd")
        write_record(folder / PARTITION_FILE, record)
    return open_data(out)


def _check_options(scheme: str, sites: int | None, seed: int) -> None:
    schemes = list(PartitionScheme)
    if scheme not in schemes:
        raise SettingError(f"--scheme is {scheme!r}: choose {', '.join(schemes)}")
    if sites is None and scheme not in ("folder", "scene"):
        raise SettingError(f"--scheme {scheme} needs a number of sites: set --sites")
    if sites is not None and sites < 1:
        raise SettingError(f"--sites is {sites}: choose 1 or more")
    if seed < 0:
        raise SettingError(f"--seed is {seed}: choose 0 or more")


def _check_trainable(site_of: SiteNumbers, names: list[str], splits: NDArray[Any]) -> None:
    trained = set(site_of[splits == "train"].tolist())
    for site, name in enumerate(names):
        if site not in trained:
            raise DataError(
                f"{name} has no train samples: choose a smaller --sites, another --scheme, or "
                "ingest with a smaller --test"
            )


def _check_lacking(
    lacking: Mapping[str, Sequence[str]], sites: list[str], modalities: list[str]
) -> None:
    for site, names in lacking.items():
        if site not in sites:
            raise SettingError(f"--without names site {site}: the sites are {', '.join(sites)}")
        for name in names:
            if name not in modalities:
                raise SettingError(
                    f"--without names modality {name}: the store has {', '.join(modalities)}"
                )
        if len(names) == len(modalities):
            raise SettingError(f"--without leaves {site} no modality: name fewer of them")


def assign_iid(columns: Columns, sites: int, seed: int) -> SiteNumbers:
    """Assign each split at random, in equal parts."""
    rng = np.random.default_rng(seed)
    site_of = np.full(len(columns["split"]), NO_SITE)
    start = 0
    for name in ("train", "val", "test"):
        members = rng.permutation(np.flatnonzero(columns["split"] == name))
        # start where the last split ended, so that no site is short in all of them
        site_of[members] = (start + np.arange(len(members))) % sites
        start += len(members)
    return site_of


def assign_dirichlet(
    columns: Columns, sites: int, seed: int, alpha: float, min_train: int
) -> SiteNumbers:
    """Assign each class by proportions drawn from a Dirichlet distribution (label skew).

    A class has the same proportions in all splits, so that a site is tested on what it trains on.
    Draws that leave a site under ``min_train`` train samples are repeated; if none is feasible, the
    error names an alpha that is.
    """
    if not alpha > 0:
        raise SettingError(f"--alpha is {alpha}: choose a number above 0")
    total = int((columns["split"] == "train").sum())
    if total < sites * min_train:
        raise DataError(
            f"{sites} sites need {min_train} train samples each, there are {total}: "
            "choose a smaller --sites"
        )
    site_of = _draw_dirichlet(columns, sites, seed, alpha, min_train)
    if site_of is not None:
        return site_of
    feasible = alpha
    # 40 steps of a half more each: a factor of ten million, beyond which the skew has long gone
    for _ in range(40):
        # two digits, so that the number that is tried is the number that the message names
        feasible = float(f"{feasible * 1.5:.2g}")
        if _draw_dirichlet(columns, sites, seed, feasible, min_train) is not None:
            raise DataError(
                f"--alpha {alpha} leaves some of {sites} sites under {min_train} train samples: "
                f"choose --alpha {feasible:.3g} or more, or a smaller --sites"
            )
    raise DataError(
        f"no --alpha gives each of {sites} sites {min_train} train samples: use --scheme iid"
    )


def _draw_dirichlet(
    columns: Columns, sites: int, seed: int, alpha: float, min_train: int
) -> SiteNumbers | None:
    rng = np.random.default_rng(seed)
    train = columns["split"] == "train"
    members = _shuffled_members(columns, rng)
    classes = sorted({label for label, _ in members})
    for _ in range(DIRICHLET_DRAWS):
        shares = {label: rng.dirichlet(np.full(sites, alpha)) for label in classes}
        site_of = np.full(len(train), NO_SITE)
        for (label, _split), samples in members.items():
            cuts = np.floor(np.cumsum(shares[label])[:-1] * len(samples) + 0.5).astype(np.int64)
            for site, part in enumerate(np.split(samples, cuts)):
                site_of[part] = site
        if np.bincount(site_of[train], minlength=sites).min() >= min_train:
            return site_of
    return None


def _shuffled_members(
    columns: Columns, rng: np.random.Generator
) -> dict[tuple[int, str], NDArray[np.int64]]:
    """List the samples of each class and split, in random order."""
    members = {}
    for label in np.unique(columns["label"]):
        for name in ("train", "val", "test"):
            inside = (columns["label"] == label) & (columns["split"] == name)
            members[int(label), name] = rng.permutation(np.flatnonzero(inside))
    return members


def assign_classes(columns: Columns, sites: int, seed: int, per_site: int) -> SiteNumbers:
    """Give each site a few classes and no other (pathological skew).

    Classes go round the sites in random order, so that each is at about equally many sites; the
    sites of a class share its samples equally.
    """
    classes = np.unique(columns["label"])
    if not 1 <= per_site <= len(classes):
        raise SettingError(
            f"--classes-per-site is {per_site}: choose from 1 to the {len(classes)} classes"
        )
    if sites * per_site < len(classes):
        least = -(-len(classes) // sites)
        raise SettingError(
            f"{sites} sites of {per_site} classes leave out some of the {len(classes)} classes: "
            f"choose --classes-per-site {least} or more, or a larger --sites"
        )
    rng = np.random.default_rng(seed)
    classes_of: list[list[int]] = [[] for _ in range(sites)]
    while any(len(own) < per_site for own in classes_of):
        for label in rng.permutation(classes).tolist():
            free = [own for own in classes_of if len(own) < per_site and label not in own]
            if free:
                min(free, key=len).append(label)
    site_of = np.full(len(columns["split"]), NO_SITE)
    for (label, _split), samples in _shuffled_members(columns, rng).items():
        holders = [site for site, own in enumerate(classes_of) if label in own]
        site_of[samples] = np.array(holders)[np.arange(len(samples)) % len(holders)]
    return site_of


def assign_scenes(columns: Columns, sites: int) -> SiteNumbers:
    """Give whole scenes to sites, the largest first, each to the site that has least."""
    names, scene_of = np.unique(columns["scene"].astype(str), return_inverse=True)
    if len(names) < sites:
        raise DataError(
            f"{sites} sites but only {plural(len(names), 'scene')}: choose --sites {len(names)} or "
            "less, or --scheme block"
        )
    counted = columns["split"] != "buffer"
    sizes = np.bincount(scene_of[counted], minlength=len(names))
    filled = np.zeros(sites, np.int64)
    site_of_scene = np.zeros(len(names), np.int64)
    for scene in np.argsort(-sizes, kind="stable"):
        site = int(np.argmin(filled))
        site_of_scene[scene] = site
        # an empty scene counts as one sample, so that every site gets a scene
        filled[site] += max(1, sizes[scene])
    site_of: SiteNumbers = site_of_scene[scene_of]
    return site_of


def assign_folders(columns: Columns, sites: int | None) -> tuple[SiteNumbers, list[str]]:
    """Make each top-level folder of the archive a site; also return the sites' names."""
    unique, folder_of = np.unique(columns["folder"].astype(str), return_inverse=True)
    names: list[str] = unique.tolist()
    if "" in names:
        raise DataError(
            "the archive has scenes outside site folders (SRC/folder/scene/): choose --scheme "
            "scene or block"
        )
    for name in names:
        if not is_plain(name) or len(name.encode()) > MAX_NAME_BYTES:
            raise DataError(
                f"the folder {shorten(name)} cannot name a site: rename it, with at most "
                f"{MAX_NAME} plain characters, or choose --scheme scene or block"
            )
    if sites not in (None, len(names)):
        raise SettingError(
            f"--sites is {sites} but the archive has the folders {', '.join(names)}: leave out "
            "--sites, or choose another --scheme"
        )
    return folder_of.astype(np.int64), names


def assign_blocks(columns: Columns, sites: int) -> SiteNumbers:
    """Cut the ground into compact areas with nearly equal numbers of samples.

    The ground is bisected again and again across its longer side. Samples of the buffer are not
    counted but go with their neighbors.
    """
    positions = _positions(columns)
    counted = columns["split"] != "buffer"
    site_of = np.zeros(len(counted), np.int64)
    _bisect(np.arange(len(counted)), sites, 0, positions, counted, site_of)
    return site_of


def _positions(columns: Columns) -> NDArray[np.float64]:
    """Return coordinates [n, 2] of samples; planes (a CRS, or a scene without) lie side by side."""
    has_crs = columns["crs"] != ""
    positions = np.stack([columns["x"], columns["y"]], axis=1).astype(np.float64)
    pixels = np.stack([columns["col"], -columns["row"].astype(np.int64)], axis=1)
    positions[~has_crs] = pixels[~has_crs]
    plane = np.where(has_crs, columns["crs"], "scene " + columns["scene"]).astype(str)
    right = 0.0
    for name in np.unique(plane):
        members = plane == name
        positions[members] -= positions[members].min(axis=0)
        positions[members, 0] += right
        # a gap between planes, so that a cut along it costs no samples
        right = positions[members, 0].max() * 1.1 + 1
    return positions


def _bisect(
    members: NDArray[np.int64],
    sites: int,
    first: int,
    positions: NDArray[np.float64],
    counted: NDArray[np.bool_],
    site_of: SiteNumbers,
) -> None:
    """Give ``members`` to sites ``first`` … ``first + sites − 1``, in ``site_of``."""
    if sites == 1 or not len(members):
        site_of[members] = first
        return
    axis = int(np.argmax(np.ptp(positions[members], axis=0)))
    order = members[np.lexsort((members, positions[members, 1 - axis], positions[members, axis]))]
    filled = np.cumsum(counted[order], dtype=np.int64)
    half = sites // 2
    cut = int(np.searchsorted(filled, filled[-1] * half / sites)) + 1
    cut = _straighten(cut, positions[order, axis], filled, sites)
    _bisect(order[:cut], half, first, positions, counted, site_of)
    _bisect(order[cut:], sites - half, first + half, positions, counted, site_of)


def _straighten(cut: int, along: NDArray[np.float64], filled: NDArray[np.int64], sites: int) -> int:
    """Move a cut to the nearest step between two coordinates, so that the border is straight."""
    steps = np.flatnonzero(np.diff(along) > 0) + 1
    if not len(steps):
        return cut
    nearest = int(steps[np.argmin(np.abs(steps - cut))])
    # a straight border is worth a tenth of a site's samples, no more
    shifted = abs(int(filled[nearest - 1]) - int(filled[cut - 1]))
    return nearest if shifted <= 0.1 * filled[-1] / sites else cut
