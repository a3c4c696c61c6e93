"""Units of bands, from the files to the pages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from typer.testing import CliRunner

from data_prep.data_page import write_data_page
from data_prep.dataset import open_data
from data_prep.ingest.scenes import ingest_scenes
from data_prep.pictures.modality_picture import picture
from data_prep.pictures.scene_grid import lay_out, samples_by_scene
from data_prep.rasters import read_header
from fl_app.cli import app
from rsdgc.errors import DataError
from tests.data_prep.archives import LEFT, noise, write_scene, write_tif


def declare(path: Path, *units: str) -> Path:
    with rasterio.open(path, "r+") as file:
        for number, unit in enumerate(units, start=1):
            file.set_band_unit(number, unit)
    return path


def write_scenes(src: Path, *units: str) -> Path:
    """Write a scene for each unit of elevation."""
    for i, unit in enumerate(units):
        scene, left = src / f"scene-{i}", LEFT + 5000 * i
        write_scene(scene, seed=i, left=left)
        write_tif(scene / "dem.tif", noise((96, 96), i + 9), left=left)
        declare(scene / "dem.tif", unit)
    return src


@pytest.mark.parametrize(
    ("declared", "unit"),
    [
        ("m", "m"),
        ("metre", "m"),
        ("Meters", "m"),
        ("FEET", "ft"),
        ("dB", "dB"),
        ("µW/cm²", "µW/cm²"),
    ],
)
def test_units_are_read_in_one_spelling(tmp_path: Path, declared: str, unit: str) -> None:
    path = declare(write_tif(tmp_path / "dem.tif", np.ones((2, 4, 4), np.float32)), "", declared)
    assert read_header(path).units == ("", unit)


def test_a_file_without_units_declares_none(tmp_path: Path) -> None:
    assert read_header(write_tif(tmp_path / "a.tif", np.ones((4, 4), np.uint8))).units == ()


def test_the_unit_of_elevation_is_on_the_pages(tmp_path: Path) -> None:
    store = ingest_scenes(
        write_scenes(tmp_path / "src", "metre", "m"), tmp_path / "store", chip_px=8
    )
    by_name = {meta.name: meta for meta in store.meta.modalities}
    assert by_name["dem"].units == ["m"]
    others = set(by_name) - {"dem"}
    written = json.loads((store.path / "meta.json").read_text())["modalities"]
    assert all("units" not in meta for meta in written if meta["name"] in others)
    again = open_data(store.path).store
    number = [meta.name for meta in again.meta.modalities].index("dem")
    scene, samples = next(iter(samples_by_scene(again).items()))
    bar = picture(again, lay_out(again, scene, samples), number, 64).bar
    assert bar is not None
    assert bar.unit == "m"
    page = write_data_page(store.path, tmp_path / "data.html").read_text()
    assert "<td>m</td>" in page
    assert "unit not recorded" not in page
    shown = CliRunner().invoke(app, ["inspect", str(store.path), "--json"])
    units = {band["band"]: band["unit"] for band in json.loads(shown.stdout)["bands"]}
    assert units.pop("dem") == "m"
    assert set(units.values()) == {""}


def test_a_store_without_units_reads_as_before(tmp_path: Path) -> None:
    store = ingest_scenes(write_scenes(tmp_path / "src", "", ""), tmp_path / "store", chip_px=8)
    assert '"units"' not in (store.path / "meta.json").read_text()
    assert all(meta.units == [] for meta in open_data(store.path).store.meta.modalities)


def test_scenes_of_different_units_are_refused(tmp_path: Path) -> None:
    src = write_scenes(tmp_path / "src", "m", "ft")
    with pytest.raises(DataError, match=r"modality dem of scene scene-1 has units \['ft'\] but"):
        ingest_scenes(src, tmp_path / "store", chip_px=8)
    declare(src / "scene-1" / "dem.tif", "")  # not declared: it may be the same
    assert ingest_scenes(src, tmp_path / "store", chip_px=8).meta.modalities


def test_a_damaged_list_of_units_is_refused(tmp_path: Path) -> None:
    store = ingest_scenes(write_scenes(tmp_path / "src", "m"), tmp_path / "store", chip_px=8)
    meta = json.loads((store.path / "meta.json").read_text())
    meta["modalities"][0]["units"] = ["m"] * 99
    (store.path / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(DataError, match="99 values for"):
        assert open_data(store.path).store
