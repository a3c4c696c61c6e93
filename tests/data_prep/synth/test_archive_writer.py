from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.features import rasterize

from data_prep.synth import write_archive
from data_prep.synth.archive_writer import coarsen
from rsdgc.errors import DataError, SettingError

PX = 200
FILES = {"optical.tif", "elevation.tif", "labels.tif", "labels.gpkg"}


def digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "archive"
    scenes = write_archive(out, sites=2, seed=3, scenes_per_site=2, scene_px=PX)
    assert scenes == [out / f"site-0{i}" / f"scene-0{j}" for i in range(2) for j in range(2)]
    return out


def test_every_scene_is_complete_and_nothing_else_is_there(archive: Path) -> None:
    scenes = sorted(archive.glob("site-*/scene-*"))
    assert len(scenes) == 4
    assert all({path.name for path in scene.iterdir()} == FILES for scene in scenes)
    labeled = 0
    for scene in scenes:
        with rasterio.open(scene / "labels.tif") as source:
            labeled += int((source.read(1) > 0).sum())
    assert labeled > 0.8 * 4 * PX * PX
    assert [path.name for path in archive.parent.iterdir()] == ["archive"]


def test_json_says_synthetic_and_names_the_classes(archive: Path) -> None:
    about = json.loads((archive / "archive.json").read_text())
    assert about["synthetic"] is True
    assert about["seed"] == 3
    assert len({site["crs"] for site in about["sites"]}) == 2
    classes = json.loads((archive / "classes.json").read_text())
    assert classes["1"] == "water"
    assert list(classes) == [str(code) for code in range(1, 11)]
    assert list(classes.values()) == list(about["sites"][0]["mix"])


def test_rasters_carry_bands_grid_and_nodata(archive: Path) -> None:
    scene = archive / "site-01" / "scene-01"
    with (
        rasterio.open(scene / "optical.tif") as optical,
        rasterio.open(scene / "elevation.tif") as elevation,
        rasterio.open(scene / "labels.tif") as labels,
    ):
        assert optical.descriptions == ("blue", "green", "red", "near-infrared")
        assert (optical.dtypes[0], optical.nodata, optical.res) == ("uint16", 0, (10, 10))
        assert (elevation.dtypes[0], elevation.nodata) == ("float32", -9999)
        assert elevation.res == (30, 30)
        assert elevation.shape == (67, 67)
        assert (labels.dtypes[0], labels.nodata) == ("uint8", 0)
        assert labels.transform == optical.transform
        assert optical.crs == elevation.crs == labels.crs
        assert optical.crs.is_projected
        assert optical.profile["tiled"]
        assert optical.compression.name == "deflate"
        assert optical.tags()["synthetic"] == "true"
        np.testing.assert_array_equal(labels.read(1) == 0, optical.read(1) == 0)


def test_polygons_agree_with_the_label_raster(archive: Path) -> None:
    scene = archive / "site-00" / "scene-00"
    meta, _, shapes, (codes, names) = pyogrio.raw.read(scene / "labels.gpkg")
    classes = json.loads((archive / "classes.json").read_text())
    assert [classes[str(code)] for code in codes] == list(names)
    with rasterio.open(scene / "labels.tif") as source:
        labels, transform = source.read(1), source.transform
        assert meta["crs"] == source.crs.to_string()
    burnt = rasterize(
        zip(shapely.from_wkb(shapes), codes, strict=True),
        out_shape=labels.shape,
        transform=transform,
        dtype="uint8",
    )
    assert (burnt == labels).mean() > 0.95


def test_same_seed_same_bytes_and_no_dependence_on_the_number_of_sites(
    archive: Path, tmp_path: Path
) -> None:
    write_archive(tmp_path / "one", sites=1, seed=3, scenes_per_site=2, scene_px=PX)
    one, two = digests(tmp_path / "one"), digests(archive)
    shared = [name for name in one if name.startswith("site-00")]
    assert len(shared) == 8
    assert {name: one[name] for name in shared} == {name: two[name] for name in shared}


def test_another_seed_gives_other_scenes(archive: Path, tmp_path: Path) -> None:
    write_archive(tmp_path / "a", sites=1, seed=4, scenes_per_site=1, scene_px=PX)
    name = Path("site-00/scene-00/optical.tif")
    assert (tmp_path / "a" / name).read_bytes() != (archive / name).read_bytes()


@pytest.mark.parametrize(
    "wrong", [{"sites": 0}, {"seed": -1}, {"scenes_per_site": 0}, {"scene_px": 32}]
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, int], tmp_path: Path) -> None:
    (name,) = wrong
    with pytest.raises(SettingError, match=f"{name.replace('_', '-')} is {wrong[name]}: choose"):
        write_archive(tmp_path / "a", **wrong)
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(DataError, match="not empty"):
        write_archive(tmp_path)
    assert (tmp_path / "mine").read_text() == "keep"


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("stop")

    monkeypatch.setattr("data_prep.synth.archive_writer.write_polygons", fail)
    with pytest.raises(RuntimeError, match="stop"):
        write_archive(tmp_path / "a", sites=1, scenes_per_site=1, scene_px=96)
    assert not list(tmp_path.iterdir())


def test_coarsen_averages_blocks_and_repeats_the_edge() -> None:
    image = np.arange(16, dtype=np.float32).reshape(4, 4)
    coarse = coarsen(image, 3)
    assert coarse.shape == (2, 2)
    assert coarse[0, 0] == image[:3, :3].mean()
    assert coarse[1, 1] == image[3, 3]
