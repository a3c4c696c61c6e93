"""Folders train, val and test above class folders and scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.ingest.scenes import ingest_scenes
from data_prep.ingest.split_folders import split_level, without_split
from data_prep.manifest import column
from data_prep.store import Store
from tests.data_prep.archives import noise, write_class_folders, write_scene, write_tif


def splits_of(store: Store) -> list[tuple[str, str]]:
    """Folder that a sample came from, and its split."""
    scenes, splits = (column(store.manifest, name) for name in ("scene", "split"))
    return sorted(
        {
            (part, str(split))
            for scene, split in zip(scenes, splits, strict=True)
            for part in Path(scene).parts
            if part.lower()[:2] in ("tr", "va", "te")
        }
    )


@pytest.mark.parametrize(
    "names",
    [("train", "test"), ("Training", "validation", "Testing"), ("train", "val")],
    ids=str,
)
def test_class_folders_keep_their_split(tmp_path: Path, names: tuple[str, ...]) -> None:
    for seed, name in enumerate(names):
        write_class_folders(tmp_path / "src" / name, classes=2, images=3, seed=1000 * seed)
    (tmp_path / "src" / "docs").mkdir()
    (tmp_path / "src" / "docs" / "read.me").write_text("")
    store = ingest_class_folders(tmp_path / "src", tmp_path / "store")
    assert store.classes == ["class-0", "class-1"]
    assert set(column(store.manifest, "folder")) == {""}
    expected = {"Training": "train", "validation": "val", "Testing": "test"}
    assert splits_of(store) == sorted((name, expected.get(name, name)) for name in names)
    assert store.meta.splits.method == "given"
    no_test = "the given split has no test images" in store.meta.splits.notes
    assert no_test == (len(names) == 2 and "val" in names)


def test_class_folders_of_sites_keep_their_splits(tmp_path: Path) -> None:
    for site in range(2):
        for j, name in enumerate(("train", "test")):
            folder = tmp_path / "src" / f"site-{site}" / name
            write_class_folders(folder, classes=2, images=2 - j, seed=5000 * site + 1000 * j)
    store = ingest_class_folders(tmp_path / "src", tmp_path / "store")
    assert set(column(store.manifest, "folder")) == {"site-0", "site-1"}
    assert splits_of(store) == [("test", "test"), ("train", "train")]


def test_classes_and_sites_that_are_named_like_splits_stay(tmp_path: Path) -> None:
    # two of three folders: the third is a class or a site like them
    for seed, name in enumerate(("train", "bus", "test")):
        write_class_folders(tmp_path / "src" / name, classes=2, images=5, seed=1000 * seed)
    store = ingest_class_folders(tmp_path / "src", tmp_path / "store")
    assert set(column(store.manifest, "folder")) == {"train", "bus", "test"}
    assert store.meta.splits.method == "stratified"
    for name in ("train", "test"):
        for i in range(5):
            values = noise((3, 8, 8), i + 50 * len(name), 0, 256, "uint8")
            write_tif(tmp_path / "classes" / name / f"{i}.tif", values, crs=None)
    assert ingest_class_folders(tmp_path / "classes", tmp_path / "b").classes == ["test", "train"]


def test_equal_images_in_both_folders_are_noted(tmp_path: Path) -> None:
    for name in ("train", "test"):
        write_class_folders(tmp_path / "src" / name, classes=1, images=2)
    store = ingest_class_folders(tmp_path / "src", tmp_path / "store")
    assert "2 images are in train and in test alike" in store.meta.splits.notes[0]


def test_scenes_keep_their_split_unless_another_is_asked_for(tmp_path: Path) -> None:
    for i, name in enumerate(("train/a", "train/b", "test/c")):
        place = {"left": 500_000 + 5_000 * i}
        write_scene(tmp_path / "src" / name, seed=i, size=32, bands=2, **place)
    store = ingest_scenes(tmp_path / "src", tmp_path / "store", chip_px=8)
    assert splits_of(store) == [("test", "test"), ("train", "train")]
    assert {scene.folder for scene in store.meta.scenes} == {""}
    assert store.meta.splits.method == "given"
    other = ingest_scenes(tmp_path / "src", tmp_path / "b", chip_px=8, split_by="blocks")
    assert ("train", "test") in splits_of(other)


def test_scenes_that_overlap_lose_train_chips_to_a_given_test(tmp_path: Path) -> None:
    for i, name in enumerate(("train/a", "test/b")):
        write_scene(tmp_path / "src" / name, seed=i, size=32, bands=2, left=500_000 + 160 * i)
    store = ingest_scenes(tmp_path / "src", tmp_path / "store", chip_px=8, buffer_px=0)
    split = column(store.manifest, "split")
    assert np.unique(split, return_counts=True)[1].tolist() == [8, 16, 8]


def test_levels() -> None:
    assert split_level([("train", "a"), ("test", "a")]) == 0
    assert split_level([("x", "train", "a"), ("y", "val", "a")]) == 1
    assert split_level([("train", "a"), ("train", "b")]) is None
    assert split_level([("train",), ("test",)]) is None
    assert without_split(("x", "Train", "a"), 1) == (("x", "a"), "train")


@pytest.mark.parametrize(
    ("folders", "other"),
    [
        (("train", "test", "extra"), "extra"),
        (("site-0/train", "site-0/test", "site-1/more"), "more"),
    ],
)
def test_split_folders_beside_others_are_noted(
    tmp_path: Path, folders: tuple[str, ...], other: str
) -> None:
    note = f"are not the split, because {other} lies beside them"
    for seed, folder in enumerate(folders):
        write_class_folders(tmp_path / "images" / folder, classes=2, images=3, seed=1000 * seed)
        place = {"size": 32, "bands": 2, "seed": seed, "left": 500_000 + 5000 * seed}
        write_scene(tmp_path / "scenes" / folder / "a", **place)
    stores = [
        ingest_scenes(tmp_path / "scenes", tmp_path / "of-scenes", chip_px=8),
        ingest_scenes(tmp_path / "scenes", tmp_path / "of-pixels", patch_px=3),
    ]
    if "/" not in folders[0]:  # else they are too deep for class folders
        stores += [ingest_class_folders(tmp_path / "images", tmp_path / "of-images")]
    for store in stores:
        assert any(note in text for text in store.meta.notes), store.path
    asked = ingest_scenes(tmp_path / "scenes", tmp_path / "asked", chip_px=8, split_by="scene")
    assert not any(note in text for text in asked.meta.notes)
    # the remedy
    (tmp_path / "scenes" / folders[2]).rename(tmp_path / "elsewhere")
    store = ingest_scenes(tmp_path / "scenes", tmp_path / "given", chip_px=8)
    assert store.meta.splits.method == "given"
