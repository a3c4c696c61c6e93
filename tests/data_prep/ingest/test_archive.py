"""Zip files as other systems write them, and files of several layers."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely

from data_prep.ingest.archive import open_archive
from data_prep.ingest.scenes import ingest_scenes
from rsdgc.errors import DataError
from tests.data_prep.archives import LEFT, TOP, UTM, noise, write_scene, write_tif


@pytest.mark.parametrize("inside", ["", "!data"])
def test_entries_with_backslashes_are_read(tmp_path: Path, inside: str) -> None:
    scene = write_scene(tmp_path / "scene", size=32, bands=2)
    path = tmp_path / "windows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("optical.tif", "labels.tif"):
            archive.write(scene / name, f"data/north/{name}")
        archive.writestr("data/archive.json", '{"synthetic": true}')
    # Python writes slashes whatever it is told
    path.write_bytes(path.read_bytes().replace(b"data/", b"data\\").replace(b"north/", b"north\\"))
    store = ingest_scenes(f"zip://{path}{inside}", tmp_path / "store", chip_px=8)
    assert len(store) == 16
    assert store.meta.synthetic == bool(inside)
    assert open_archive(path).files["data/north"] == [
        "data/north/labels.tif",
        "data/north/optical.tif",
    ]


def test_a_layer_may_be_named_with_its_file(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_tif(src / "image.tif", noise((2, 32, 32)))
    box = np.array([shapely.to_wkb(shapely.box(LEFT, TOP - 320, LEFT + 320, TOP))])
    for layer in ("roads", "soil"):
        path = src / "labels.gpkg"
        field = {
            "field_data": [np.array([layer], object)],
            "fields": ["name"],
            "geometry_type": "Polygon",
        }
        pyogrio.raw.write(path, box, layer=layer, crs=UTM, append=path.exists(), **field)
    options = {"chip_px": 8, "label_column": "name"}
    with pytest.raises(DataError, match="has the layers roads, soil: choose one with --label-lay"):
        ingest_scenes(src, tmp_path / "store", **options)
    for number, labels in enumerate(("labels.gpkg:soil", f"{src}/labels.gpkg:soil")):
        store = ingest_scenes(src, tmp_path / f"store-{number}", labels=labels, **options)
        assert store.classes == ["soil"]
    named = ingest_scenes(src, tmp_path / "named", label_layer="roads", **options)
    assert named.classes == ["roads"]
