"""Ways to deal samples to sites: iid, by label skew or classes, by scene, by folder, by area.

Every scheme returns the number of each sample's site, int64 [n], with :data:`NOBODY` for the
samples that no site gets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rsdgc.errors import DataError, SettingError

if TYPE_CHECKING:
    from collections.abc import Mapping

NOBODY = -1
#: Draws of Dirichlet proportions before a setting counts as infeasible.
DRAWS = 50

Sites = NDArray[np.int64]


def deal_iid(columns: Mapping[str, NDArray[Any]], sites: int, seed: int) -> Sites:
    """Deal each split at random, in equal parts; the buffer goes to nobody."""
    rng = np.random.default_rng(seed)
    out = np.full(len(columns["split"]), NOBODY)
    start = 0
    for name in ("train", "val", "test"):
        members = rng.permutation(np.flatnonzero(columns["split"] == name))
        # go on where the last split ended, so that no site is short in all of them
        out[members] = (start + np.arange(len(members))) % sites
        start += len(members)
    return out


def deal_dirichlet(
    columns: Mapping[str, NDArray[Any]], sites: int, seed: int, alpha: float, min_train: int
) -> Sites:
    """Deal each class by proportions drawn from a Dirichlet distribution (label skew).

    A class has the same proportions in all splits, so that a site is tested on what it trains on.
    Draws that leave a site under ``min_train`` train samples are repeated. The buffer goes to
    nobody.

    Raises
    ------
    DataError
        No draw is feasible; the text names an alpha that is.
    """
    if not alpha > 0:
        raise SettingError(f"alpha is {alpha}: choose a number above 0")
    total = int((columns["split"] == "train").sum())
    if total < sites * min_train:
        raise DataError(
            f"{sites} sites need {min_train} train samples each, there are {total}: "
            "choose fewer sites"
        )
    dealt = _draw_dirichlet(columns, sites, seed, alpha, min_train)
    if dealt is None:
        feasible = _feasible_alpha(columns, sites, seed, alpha, min_train)
        raise DataError(
            f"alpha {alpha} leaves some of {sites} sites under {min_train} train samples: "
            f"choose alpha {feasible:.3g} or more, or fewer sites"
        )
    return dealt


def _feasible_alpha(
    columns: Mapping[str, NDArray[Any]], sites: int, seed: int, alpha: float, min_train: int
) -> float:
    for _ in range(40):
        # two digits: the number that is tried is the number that is named
        alpha = float(f"{alpha * 1.5:.2g}")
        if _draw_dirichlet(columns, sites, seed, alpha, min_train) is not None:
            return alpha
    raise DataError(f"no alpha gives each of {sites} sites {min_train} train samples: use iid")


def _draw_dirichlet(
    columns: Mapping[str, NDArray[Any]], sites: int, seed: int, alpha: float, min_train: int
) -> Sites | None:
    rng = np.random.default_rng(seed)
    train = columns["split"] == "train"
    members = _shuffled_members(columns, rng)
    classes = sorted({label for label, _ in members})
    for _ in range(DRAWS):
        shares = {label: rng.dirichlet(np.full(sites, alpha)) for label in classes}
        out = np.full(len(train), NOBODY)
        for (label, _split), chips in members.items():
            cuts = np.floor(np.cumsum(shares[label])[:-1] * len(chips) + 0.5).astype(np.int64)
            for site, part in enumerate(np.split(chips, cuts)):
                out[part] = site
        if np.bincount(out[train], minlength=sites).min() >= min_train:
            return out
    return None


def _shuffled_members(
    columns: Mapping[str, NDArray[Any]], rng: np.random.Generator
) -> dict[tuple[int, str], NDArray[np.int64]]:
    """List the samples of each class and split, in random order."""
    members = {}
    for label in np.unique(columns["label"]):
        for name in ("train", "val", "test"):
            here = (columns["label"] == label) & (columns["split"] == name)
            members[int(label), name] = rng.permutation(np.flatnonzero(here))
    return members


def deal_classes(
    columns: Mapping[str, NDArray[Any]], sites: int, seed: int, per_site: int
) -> Sites:
    """Give each site a few classes and no other (pathological skew); the buffer goes to nobody.

    Classes are dealt round the sites in random order, so that each is at about equally many; the
    sites of a class share its samples equally.

    Raises
    ------
    SettingError
        More classes a site than there are, or so few that some class would be at no site.
    """
    classes = np.unique(columns["label"])
    if not 1 <= per_site <= len(classes):
        raise SettingError(
            f"classes_per_site is {per_site}: choose from 1 to the {len(classes)} classes"
        )
    if sites * per_site < len(classes):
        least = -(-len(classes) // sites)
        raise SettingError(
            f"{sites} sites of {per_site} classes leave some of {len(classes)} classes out: choose "
            f"{least} classes a site or more, or more sites"
        )
    rng = np.random.default_rng(seed)
    dealt: list[list[int]] = [[] for _ in range(sites)]
    while any(len(own) < per_site for own in dealt):
        for label in rng.permutation(classes).tolist():
            free = [own for own in dealt if len(own) < per_site and label not in own]
            if free:
                min(free, key=len).append(label)
    out = np.full(len(columns["split"]), NOBODY)
    for (label, _split), chips in _shuffled_members(columns, rng).items():
        holders = [site for site, own in enumerate(dealt) if label in own]
        out[chips] = np.array(holders)[np.arange(len(chips)) % len(holders)]
    return out


def deal_scenes(columns: Mapping[str, NDArray[Any]], sites: int) -> Sites:
    """Give whole scenes to sites, the largest first, each to the site that has least.

    Raises
    ------
    DataError
        There are fewer scenes than sites.
    """
    names, scene_of = np.unique(columns["scene"].astype(str), return_inverse=True)
    if len(names) < sites:
        raise DataError(
            f"{sites} sites but only {len(names)} scene(s): choose {len(names)} sites or fewer, "
            "or scheme block"
        )
    counted = columns["split"] != "buffer"
    sizes = np.bincount(scene_of[counted], minlength=len(names))
    filled = np.zeros(sites, np.int64)
    site_of_scene = np.zeros(len(names), np.int64)
    for scene in np.argsort(-sizes, kind="stable"):
        site = int(np.argmin(filled))
        site_of_scene[scene] = site
        # an empty scene counts as one sample, so that no site stays without a scene
        filled[site] += max(1, sizes[scene])
    dealt: Sites = site_of_scene[scene_of]
    return dealt


def deal_folders(columns: Mapping[str, NDArray[Any]]) -> tuple[Sites, list[str]]:
    """Make each top-level folder of the archive a site; also return the sites' names.

    Raises
    ------
    DataError
        The archive has no folders above its scenes.
    """
    names, folder_of = np.unique(columns["folder"].astype(str), return_inverse=True)
    if "" in names:
        raise DataError(
            "the archive has scenes outside site folders (SRC/folder/scene/): choose scheme "
            "scene or block"
        )
    return folder_of.astype(np.int64), [str(name) for name in names]


def deal_blocks(columns: Mapping[str, NDArray[Any]], sites: int) -> Sites:
    """Cut the ground in compact areas with nearly equal numbers of samples.

    Recursive bisection across the longer side. Planes (a CRS, or a scene without one) lie side by
    side. Samples of the buffer are not counted but go with their neighbors.
    """
    places = _places(columns)
    counted = columns["split"] != "buffer"
    out = np.zeros(len(counted), np.int64)
    _bisect(np.arange(len(counted)), sites, 0, places, counted, out)
    return out


def _places(columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Coordinates [n, 2] of samples, in one plane for all."""
    has_crs = columns["crs"] != ""
    places = np.stack([columns["x"], columns["y"]], axis=1).astype(np.float64)
    pixels = np.stack([columns["col"], -columns["row"].astype(np.int64)], axis=1)
    places[~has_crs] = pixels[~has_crs]
    plane = np.where(has_crs, columns["crs"], "scene " + columns["scene"]).astype(str)
    edge = 0.0
    for name in np.unique(plane):
        here = plane == name
        low = places[here].min(axis=0)
        places[here] -= low
        places[here, 0] += edge
        edge = places[here, 0].max() * 1.1 + 1
    return places


def _bisect(
    members: NDArray[np.int64],
    sites: int,
    first: int,
    places: NDArray[np.float64],
    counted: NDArray[np.bool_],
    out: Sites,
) -> None:
    """Give ``members`` to sites ``first`` … ``first + sites − 1``."""
    if sites == 1 or not len(members):
        out[members] = first
        return
    axis = int(np.argmax(np.ptp(places[members], axis=0)))
    order = members[np.lexsort((members, places[members, 1 - axis], places[members, axis]))]
    filled = np.cumsum(counted[order], dtype=np.int64)
    half = sites // 2
    cut = int(np.searchsorted(filled, filled[-1] * half / sites)) + 1
    cut = _straight_cut(places[order, axis], filled, cut, sites)
    _bisect(order[:cut], half, first, places, counted, out)
    _bisect(order[cut:], sites - half, first + half, places, counted, out)


def _straight_cut(
    along: NDArray[np.float64], filled: NDArray[np.int64], cut: int, sites: int
) -> int:
    """Move a cut to the nearest place between two coordinates if that costs few samples."""
    steps = np.flatnonzero(np.diff(along) > 0) + 1
    if not len(steps):
        return cut
    nearest = int(steps[np.argmin(np.abs(steps - cut))])
    moved = abs(int(filled[nearest - 1]) - int(filled[cut - 1]))
    return nearest if moved <= 0.1 * filled[-1] / sites else cut
