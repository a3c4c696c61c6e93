"""Folders of images beside a folder of labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_prep.ingest.scenes import ingest_scenes
from data_prep.manifest import column
from data_prep.store import Store
from rsdgc.errors import DataError
from tests.data_prep.archives import LEFT, noise, stripes, write_polygons, write_tif


def ingest(src: Path, **options: Any) -> Store:
    defaults = {"chip_px": 8, "buffer_px": 0, "overwrite": True}
    return ingest_scenes(src, src.parent / "store", **(defaults | options))


def write_pair(image: Path, labels: Path, seed: int, bands: int = 3, **place: Any) -> None:
    shape = (bands, 32, 32) if bands else (32, 32)
    write_tif(image, noise(shape, seed, 0, 256, "uint8"), photometric="minisblack", **place)
    driver = {"driver": "PNG"} if labels.suffix == ".png" else {}
    write_tif(labels, stripes(32, 32, 8, (1, 2)), **place, **driver)


@pytest.mark.parametrize("folders", [("images", "masks"), ("img", "labels"), ("rgb", "gt_png")])
def test_files_of_one_stem_are_a_scene(tmp_path: Path, folders: tuple[str, str]) -> None:
    src = tmp_path / "src"
    for i in range(3):
        image, labels = src / folders[0] / f"tile_{i}.tif", src / folders[1] / f"tile_{i}_mask.png"
        write_pair(image, labels, i, left=LEFT + 1000 * i)
    store = ingest(src)
    assert {scene.name for scene in store.meta.scenes} == {f"tile_{i}" for i in range(3)}
    assert [m.name for m in store.meta.modalities] == ["rgb" if folders[0] == "rgb" else "image"]
    assert (len(store), store.meta.skipped) == (48, [])


def test_sites_modalities_and_polygons(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for i, site in enumerate(("north", "south")):
        place = {"left": LEFT + 1000 * i}
        write_pair(src / site / "images" / "a.tif", src / "spare.tif", i, **place)
        write_tif(src / site / "dem" / "a.tif", noise((32, 32), i + 9, dtype="float32"), **place)
        folder = src / site / "annotations"
        write_polygons(folder / "a.geojson", [((100 * i, 0, 100 * i + 32, 32), "wood")])
    (src / "spare.tif").unlink()
    store = ingest(src, label_column="name")
    assert {m.name: m.bands for m in store.meta.modalities} == {
        "image": ["band1", "band2", "band3"],
        "dem": ["dem"],
    }
    assert set(column(store.manifest, "folder")) == {"north", "south"}
    only = ingest(src, label_column="name", modalities=["height=dem/*.tif"])
    assert [m.name for m in only.meta.modalities] == ["height"]


def test_folders_may_be_the_other_way_round(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for i, part in enumerate(("train", "val")):
        write_pair(
            src / "img_dir" / part / f"{i}.tif",
            src / "ann_dir" / part / f"{i}.png",
            i,
            bands=0,
            left=LEFT + 1000 * i,
        )
    store = ingest(src)
    assert {scene.name for scene in store.meta.scenes} == {"train/0", "val/1"}
    assert store.meta.modalities[0].bands == ["image"]


def test_what_has_no_partner_is_listed(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for i in range(2):
        write_pair(src / "images" / f"{i}.tif", src / "masks" / f"{i}.tif", i)
    (src / "masks" / "0.tif").rename(src / "masks" / "7.tif")
    store = ingest(src)
    skipped = {item.path: (item.reason, item.refused) for item in store.meta.skipped}
    assert skipped == {
        "0": ("no file of its name in masks: add its labels", True),
        "masks/7.tif": ("labels without an image of their name", False),
    }
    with pytest.raises(DataError, match="0: no file of its name in masks"):
        ingest(src, strict=True)


def test_a_folder_of_labels_is_chosen_by_name_or_year(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_pair(src / "images" / "a.tif", src / "labels_2018" / "a.tif", 0)
    write_tif(src / "labels_2019" / "a.tif", stripes(32, 32, 8, (5, 6)))
    with pytest.raises(DataError, match=r"has labels in labels_2018 and in labels_2019: choose"):
        ingest(src)
    assert ingest(src, label_year=2019).meta.class_codes == [5, 6]
    assert ingest(src, labels="labels_2018").meta.class_codes == [1, 2]


def test_folders_are_given_a_crs_as_scenes_are(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for i in range(2):
        place = {"left": LEFT + 1000 * i, "crs": "EPSG:32632"}
        write_pair(src / "images" / f"{i}.tif", src / "masks" / f"{i}.tif", i, **place)
        write_tif(src / "dem" / f"{i}.tif", noise((32, 32), i), **place | {"crs": "EPSG:3857"})
    crs = {"": "EPSG:32633", "dem": "EPSG:32633"}
    store = ingest(src, crs=crs, label_crs="EPSG:32633")
    assert set(column(store.manifest, "crs")) == {"EPSG:32633"}
    assert not store.meta.notes
