from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.dataset import open_data
from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.manifest import column
from data_prep.partition import NO_SITE, assign_blocks, partition
from data_prep.store import Store
from rsdgc.errors import DataError, SettingError
from tests.data_prep.archives import write_class_folders
from tests.modalities import make_data

PLANS: list[dict[str, Any]] = [
    {"scheme": "iid", "sites": 5},
    {"scheme": "dirichlet", "sites": 4, "alpha": 0.5},
    {"scheme": "classes", "sites": 4, "classes_per_site": 2},
    {"scheme": "scene"},
    {"scheme": "scene", "sites": 3},
    {"scheme": "block", "sites": 5},
    {"scheme": "folder"},
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_partitions_are_disjoint_complete_and_repeatable(
    scenes_store: Store, tmp_path: Path, plan: dict[str, Any]
) -> None:
    data = partition(scenes_store.path, tmp_path / "a", **plan)
    again = partition(scenes_store.path, tmp_path / "b", **plan)
    split = column(scenes_store.manifest, "split")
    label = column(scenes_store.manifest, "label")
    keeps_buffer = plan["scheme"] in ("scene", "block", "folder")
    for name in ("train", "val", "test", "buffer"):
        taken = []
        for site in data.sites:
            chips, labels = data.site(site).split(name)
            np.testing.assert_array_equal(labels, label[chips])
            np.testing.assert_array_equal(chips, again.site(site).split(name)[0])
            taken.append(chips)
        together = np.sort(np.concatenate(taken))
        expected = np.flatnonzero(split == name)
        if name == "buffer" and not keeps_buffer:
            expected = expected[:0]
        np.testing.assert_array_equal(together, expected)


def test_iid_and_block_sites_are_nearly_equal(scenes_store: Store, tmp_path: Path) -> None:
    iid = partition(scenes_store.path, tmp_path / "iid", scheme="iid", sites=5)
    sizes = [iid.site(s).manifest.num_rows for s in iid.sites]
    assert max(sizes) - min(sizes) <= 1
    block = partition(scenes_store.path, tmp_path / "block", scheme="block", sites=5)
    sizes = [sum(len(block.site(s).split(n)[0]) for n in ("train", "test")) for s in block.sites]
    assert max(sizes) < 1.3 * min(sizes)


def test_folders_become_sites(scenes_store: Store, tmp_path: Path) -> None:
    data = partition(scenes_store.path, tmp_path / "data", scheme="folder")
    assert data.sites == ["agency-0", "agency-1"]
    assert set(data.site("agency-1").manifest.column("folder").to_pylist()) == {"agency-1"}
    with pytest.raises(SettingError, match="agency-0, agency-1"):
        partition(scenes_store.path, tmp_path / "no", scheme="folder", sites=3)


def test_dirichlet_skews_train_and_test_alike(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "archive", classes=2, images=100)
    store = ingest_class_folders(tmp_path / "archive", tmp_path / "store", test_share=0.5)
    data = partition(store.path, tmp_path / "data", scheme="dirichlet", sites=3, alpha=0.5)
    train, test = (
        np.array([np.bincount(data.site(s).split(n)[1], minlength=2) for s in data.sites])
        for n in ("train", "test")
    )
    assert np.abs(train - test).max() <= 1
    assert train.std() > 5
    assert train.sum(axis=1).min() >= 10


def test_infeasible_skew_names_a_feasible_alpha(images_store: Store, tmp_path: Path) -> None:
    plan: dict[str, Any] = {"scheme": "dirichlet", "sites": 6, "min_train": 3}
    with pytest.raises(DataError, match=r"alpha 0.01 leaves") as caught:
        partition(images_store.path, tmp_path / "data", alpha=0.01, **plan)
    assert not (tmp_path / "data").exists()
    alpha = float(str(caught.value).split("choose --alpha ")[1].split(" ")[0])
    partition(images_store.path, tmp_path / "data", alpha=alpha, **plan)
    with pytest.raises(DataError, match="9 sites need 10 train samples each"):
        partition(images_store.path, tmp_path / "no", scheme="dirichlet", sites=9)
    with pytest.raises(SettingError, match="alpha is 0"):
        partition(images_store.path, tmp_path / "no", scheme="dirichlet", sites=2, alpha=0.0)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"scheme": "iid", "sites": 0}, "sites is 0"),
        ({"scheme": "iid"}, "needs a number of sites"),
        ({"scheme": "random", "sites": 2}, "scheme is 'random': choose iid"),
    ],
)
def test_wrong_settings_are_refused(
    images_store: Store, tmp_path: Path, plan: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        partition(images_store.path, tmp_path / "data", **plan)


def test_sites_without_samples_are_named(
    images_store: Store, scenes_store: Store, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="site-24 has no train samples"):
        partition(images_store.path, tmp_path / "data", scheme="iid", sites=30)
    with pytest.raises(DataError, match=r"9 sites but only 4 scene"):
        partition(scenes_store.path, tmp_path / "data", scheme="scene", sites=9)
    with pytest.raises(DataError, match="outside site folders"):
        partition(images_store.path, tmp_path / "data", scheme="folder")
    assert list(tmp_path.iterdir()) == []


def test_a_partition_notices_another_store(scenes_store: Store, tmp_path: Path) -> None:
    shutil.copytree(scenes_store.path, tmp_path / "store")
    data = partition(tmp_path / "store", tmp_path / "deep" / "data", scheme="iid", sites=2)
    assert data.partition is not None
    assert data.partition.store == "../../store"
    shutil.move(tmp_path / "store", tmp_path / "elsewhere")
    with pytest.raises(DataError, match="which is not there: put it there"):
        open_data(tmp_path / "deep" / "data")
    write_class_folders(tmp_path / "archive", images=3)
    ingest_class_folders(tmp_path / "archive", tmp_path / "store")
    with pytest.raises(DataError, match="older store"):
        open_data(tmp_path / "deep" / "data")


def test_blocks_are_compact_and_straight() -> None:
    rows, cols = np.mgrid[:12, :12].reshape(2, -1)
    columns = {
        "split": np.full(144, "train", dtype=object),
        "crs": np.full(144, "", dtype=object),
        "scene": np.full(144, "s", dtype=object),
        "row": rows,
        "col": cols,
        "x": np.full(144, np.nan),
        "y": np.full(144, np.nan),
    }
    site_of = assign_blocks(columns, 4)
    assert NO_SITE not in site_of
    for site in range(4):
        members = site_of == site
        assert members.sum() == 36
        assert np.ptp(rows[members]) == np.ptp(cols[members]) == 5


@pytest.mark.parametrize(("sites", "per_site"), [(3, 1), (2, 2), (5, 2), (4, 3), (7, 1)])
def test_pathological_sites_have_exactly_so_many_classes(
    scenes_store: Store, tmp_path: Path, sites: int, per_site: int
) -> None:
    how = {"scheme": "classes", "sites": sites, "classes_per_site": per_site}
    data = partition(scenes_store.path, tmp_path / "data", **how)
    held = []
    for name in data.sites:
        train, test = (set(data.site(name).split(part)[1].tolist()) for part in ("train", "test"))
        assert len(train) == per_site
        assert test <= train
        held += train
    counts = np.bincount(held, minlength=3)
    assert counts.min() >= 1
    assert counts.max() - counts.min() <= 1
    assert data.partition is not None
    assert data.partition.classes_per_site == per_site


@pytest.mark.parametrize(
    ("sites", "per_site", "message"),
    [(3, 4, "choose from 1 to the 3 classes"), (2, 1, "choose --classes-per-site 2 or more")],
)
def test_pathological_sites_that_cannot_be_are_named(
    scenes_store: Store, tmp_path: Path, sites: int, per_site: int, message: str
) -> None:
    how = {"scheme": "classes", "sites": sites, "classes_per_site": per_site}
    with pytest.raises(SettingError, match=message):
        partition(scenes_store.path, tmp_path / "data", **how)


def test_a_site_may_lack_a_modality(tmp_path: Path) -> None:
    data = open_data(make_data(tmp_path, sites=2, lacking={"site-01": ["elevation"]}))
    names = {site: [m.name for m in data.site(site).store.meta.modalities] for site in data.sites}
    assert names == {"site-00": ["optical", "elevation"], "site-01": ["optical"]}
    chips, _ = data.site("site-01").split("train")
    (optical,) = data.site("site-01").store.take(chips[:2])
    np.testing.assert_array_equal(optical, data.store.take(chips[:2])[0])
    store = tmp_path / "store"
    for lacking, message in (
        ({"site-07": ["elevation"]}, "names site site-07: the sites are site-00, site-01"),
        ({"site-01": ["sar"]}, "names modality sar: the store has optical, elevation"),
        ({"site-01": ["optical", "elevation"]}, "leaves site-01 no modality"),
    ):
        with pytest.raises(SettingError, match=message):
            partition(store, tmp_path / "other", sites=2, lacking=lacking)


def test_a_negative_seed_is_refused(scenes_store: Store, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="--seed is -1: choose 0 or more"):
        partition(scenes_store.path, tmp_path / "data", sites=2, seed=-1)
