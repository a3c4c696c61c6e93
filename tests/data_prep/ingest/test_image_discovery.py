"""Images named in a CSV, and class folders of several sites."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.ingest.scenes import ingest_scenes
from data_prep.manifest import column
from data_prep.partition import partition
from rsdgc.errors import DataError
from tests.data_prep.archives import noise, write_class_folders, write_tif


def test_a_csv_of_files_and_labels(tmp_path: Path) -> None:
    lines = ["file,label,split"]
    for i in range(12):
        write_tif(tmp_path / "img" / f"{i}.tif", noise((3, 8, 8), i, 0, 256, "uint8"), crs=None)
        lines.append(f"img/{i}.tif,{'wood' if i % 3 else 'field'},{'test' if i > 8 else 'train'}")
    lines.append("img/gone.tif,wood,train")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    store = ingest_class_folders(tmp_path / "labels.csv", tmp_path / "store")
    assert store.classes == ["field", "wood"]
    assert store.meta.splits.method == "given"
    assert [item.path for item in store.meta.skipped] == ["img/gone.tif"]
    table = store.manifest.to_pydict()
    (values,) = store.take(np.arange(12))
    for chip, name, label, split in zip(
        values, table["scene"], table["label"], table["split"], strict=True
    ):
        i = int(Path(name).stem)
        np.testing.assert_array_equal(chip, noise((3, 8, 8), i, 0, 256, "uint8"))
        assert (label, split) == (int(i % 3 > 0), "test" if i > 8 else "train")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file\na.tif", "no column label"),
        ("file,label\na.tif,\n", "line 2: label is empty"),
        ("file,label,split\na.tif,x,tset\n", "line 2: split 'tset' is not one of"),
        ("file,label\n", "no class folders"),
    ],
)
def test_wrong_lists_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        ingest_class_folders(tmp_path / "labels.csv", tmp_path / "store")


def test_folders_of_clients_are_taken_as_they_are(tmp_path: Path) -> None:
    for client in range(3):
        write_class_folders(
            tmp_path / "src" / f"client_{client}", classes=2, images=6, seed=1000 * client
        )
    store = ingest_class_folders(tmp_path / "src", tmp_path / "store")
    assert store.classes == ["class-0", "class-1"]
    data = partition(tmp_path / "store", tmp_path / "data", scheme="folder")
    assert data.sites == ["client_0", "client_1", "client_2"]
    for name in data.sites:
        for split, count in (("train", 5), ("test", 1)):
            labels = data.site(name).split(split)[1]
            assert np.bincount(labels).tolist() == [count, count]


def test_one_class_list_for_all_sites(tmp_path: Path) -> None:
    src = write_class_folders(tmp_path / "src", classes=2, images=4)
    names = {1: "class-1", 2: "rare", 5: "class-0"}
    store = ingest_class_folders(src, tmp_path / "store", classes=names)
    assert (store.classes, store.meta.class_codes) == (["class-1", "rare", "class-0"], [1, 2, 5])
    assert np.bincount(column(store.manifest, "label")).tolist() == [4, 0, 4]
    with pytest.raises(DataError, match=r"has the class 'class-1', which is not in"):
        ingest_class_folders(src, tmp_path / "no", classes={0: "class-0"})
    ignoring = {"classes": {0: "class-0"}, "unknown": "ignore"}
    assert len(ingest_class_folders(src, tmp_path / "some", **ignoring)) == 4


def write_one_scene(folder: Path, names: tuple[str, ...], number: int) -> None:
    for i, name in enumerate(names):
        write_tif(folder / name, noise((1, 16, 16), 10 * number + i, 0, 3, "uint8"))


@pytest.mark.parametrize(
    ("folders", "evidence"),
    [
        (
            {"scene-0": ("optical.tif", "labels.tif"), "scene-1": ("optical.tif", "labels.tif")},
            "holds labels",
        ),
        ({"site/a": ("x.tif", "LABELS.TIF"), "site/b": ("y.tif", "labels.tif")}, "holds labels"),
        ({"only": ("x.tif", "labels.tif")}, "only holds labels"),
        (
            {"a": ("rgb.tif", "height.tif"), "b": ("rgb.tif", "height.tif")},
            "each folder holds height, rgb",
        ),
        ({"a": ("B02.tif", "B03.tif"), "b": ("B02.tif", "B03.tif")}, "each folder holds B02, B03"),
        (
            {
                f"LC08_L2SP_193026_2020040{i}_20200822_02_T1": tuple(
                    f"LC08_L2SP_193026_2020040{i}_20200822_02_T1_{band}.TIF"
                    for band in ("SR_B4", "SR_B5", "QA_PIXEL")
                )
                for i in (5, 7)
            },
            "holds the bands of a product",
        ),
        (
            {"p/R10m": ("x_B02_10m.tif",), "p/R20m": ("x_B05_20m.tif",)},
            "holds the bands of a product",
        ),
    ],
)
def test_scenes_are_not_taken_for_classes(
    tmp_path: Path, folders: dict[str, tuple[str, ...]], evidence: str
) -> None:
    for number, (folder, names) in enumerate(folders.items()):
        write_one_scene(tmp_path / "src" / folder, names, number)
    with pytest.raises(DataError, match=rf"{evidence}.*use --layout scenes.*CSV"):
        ingest_class_folders(tmp_path / "src", tmp_path / "store")


def test_a_list_takes_folders_that_look_like_scenes(tmp_path: Path) -> None:
    lines = ["file,label"]
    for number, folder in enumerate(("forest", "water")):
        write_one_scene(tmp_path / "src" / folder, ("rgb.tif", "near.tif"), number)
        lines += [f"src/{folder}/{name}.tif,{folder}" for name in ("rgb", "near")]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    assert len(ingest_class_folders(tmp_path / "list.csv", tmp_path / "store")) == 4


def test_classes_of_numbered_images_are_no_scenes(tmp_path: Path) -> None:
    for number, folder in enumerate(("forest", "water")):
        write_one_scene(tmp_path / "src" / folder, ("1.tif", "2.tif", "3.tif"), number)
    assert len(ingest_class_folders(tmp_path / "src", tmp_path / "store")) == 6


def test_class_folders_read_as_scenes_name_their_layout(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "src", classes=2, images=2)
    with pytest.raises(DataError, match="--layout class-folders"):
        ingest_scenes(tmp_path / "src", tmp_path / "store")
