"""The data commands as a person types them, from files to pages."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from data_prep.store import Store
from fl_app.cli_data import read_crs, read_nodata
from tests.command import rsdgc
from tests.data_prep.archives import (
    LEFT,
    TOP,
    UTM,
    noise,
    stripes,
    write_class_folders,
    write_polygons,
    write_scene,
    write_tif,
)
from tests.modalities import make_data


def test_a_sentinel_folder_with_polygons(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for pixel, bands in ((10, ("B02", "B03")), (20, ("B05", "B11"))):
        for i, band in enumerate(bands):
            side = 2560 // pixel
            path = tmp_path / "S2_FOLDER" / f"T33UUP_20220702T100611_{band}.jp2"
            path.parent.mkdir(exist_ok=True)
            with rasterio.open(
                path,
                "w",
                driver="JP2OpenJPEG",
                count=1,
                height=side,
                width=side,
                dtype="uint16",
                crs=UTM,
                transform=Affine(pixel, 0, LEFT, 0, -pixel, TOP),
                QUALITY=100,
                REVERSIBLE="YES",
            ) as target:
                target.write(noise((side, side), 7 * pixel + i), 1)
    boxes = [((0, 0, 128, 256), "farm"), ((128, 0, 256, 256), "forest")]
    write_polygons(tmp_path / "landuse.gpkg", boxes, crs="EPSG:4326", column="fclass")
    monkeypatch.chdir(tmp_path)
    words = "--layout scenes --labels landuse.gpkg --label-column fclass --chip 32 --stride 32"
    assert rsdgc(monkeypatch, "ingest", "S2_FOLDER", *words.split(), "--out", "store/") == 0
    store = Store.open("store")
    assert store.classes == ["farm", "forest"]
    assert [m.factor for m in store.meta.modalities] == [1, 2]
    assert [a.shape for a in store.take([0])] == [(1, 2, 32, 32), (1, 2, 16, 16)]


def test_a_description_within_an_area(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_scene(tmp_path / "data", size=96)
    (tmp_path / "data" / "scenes.toml").write_text(
        '[[scene]]\nname = "one"\nlabels = "labels.tif"\nlayers = {optical = "optical.tif"}\n'
    )
    write_polygons(tmp_path / "park.gpkg", [((0, 0, 96, 48), "park")])
    words = ["--aoi", tmp_path / "park.gpkg", "--chip", "8", "--out", tmp_path / "store"]
    assert rsdgc(monkeypatch, "ingest", tmp_path / "data" / "scenes.toml", *words) == 0
    assert len(Store.open(tmp_path / "store")) == 6 * 12


def test_dry_runs_write_nothing_and_pages_are_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    src = write_scene(tmp_path / "src")
    (src / "labels.tif").rename(src / "nlcd.tif")
    words = ["ingest", src, "--layout", "scenes", "--labels", "nlcd.tif", "--chip", "8"]
    assert rsdgc(monkeypatch, *words, "--dry-run") == 0
    assert "at most 144 samples" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["src"]
    assert rsdgc(monkeypatch, *words) == 2
    assert "no --out" in capsys.readouterr().err
    store = tmp_path / "store"
    assert rsdgc(monkeypatch, *words, "--out", store) == 0
    assert rsdgc(monkeypatch, *words, "--out", store) == 0
    assert rsdgc(monkeypatch, *words, "--seed", "1", "--out", store) == 2
    assert "exists already" in capsys.readouterr().err
    assert rsdgc(monkeypatch, *words, "--seed", "1", "--out", store, "--force") == 0
    assert rsdgc(monkeypatch, "inspect", store, "--html", tmp_path / "store.html") == 0
    assert (tmp_path / "store.html").read_text().startswith("<!doctype html>")


def test_options_reach_the_ingestion(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_tif(src / "optical.tif", noise((2, 60, 60)))
    write_tif(src / "dem.tif", noise((60, 60), 3))
    clouds = np.zeros((60, 60), "uint8")
    clouds[:, :8] = 9
    write_tif(src / "SCL.tif", clouds)
    write_tif(src / "labels.tif", stripes(60, 60, 8, (1, 2, 3)))
    (tmp_path / "classes.json").write_text('{"1": "a", "2": "b"}')
    words = "--chip 8 --edge shift --mask SCL=8,9 --unknown ignore --block 16 --buffer 4 --val 0.1"
    more = ["--classes", tmp_path / "classes.json", "--nodata", "dem=5", "--nodata", "optical=3"]
    # --layer is the former name of --modality
    more += ["--modality", "optical=opt*", "--layer", "dem=dem*", "--label-format", "raster"]
    out = ["--out", tmp_path / "store", "--min-label", "0.4", "--processes", "1"]
    assert rsdgc(monkeypatch, "ingest", src, *words.split(), *more, *out) == 0
    meta = Store.open(tmp_path / "store").meta
    assert {m.name: m.nodata for m in meta.modalities} == {"optical": 3, "dem": 5}
    assert meta.classes == ["a", "b"]
    assert (meta.splits.block_px, meta.splits.buffer_px, meta.splits.val_share) == (16, 4, 0.1)
    assert meta.left_out["no_data"] == 8


def test_values_of_labels_are_named_on_the_command_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_tif(tmp_path / "src" / "optical.tif", noise((2, 32, 32)))
    labels = stripes(32, 32, 8, (11, 12, 255, 21)).astype("int16")
    labels[:, 24:28] = -1
    write_tif(tmp_path / "src" / "labels.tif", labels)
    words = "--chip 8 --test 0 --remap water=11,12 --remap roof=21 --label-nodata 255 --nodata"
    out = ["labels=-1", "--out", tmp_path / "store"]
    assert rsdgc(monkeypatch, "ingest", tmp_path / "src", *words.split(), *out) == 0
    meta = Store.open(tmp_path / "store").meta
    assert meta.classes == ["water", "roof"]
    assert meta.splits.class_counts["train"] == [8, 4]


def test_class_partitions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_class_folders(tmp_path / "src", classes=4)
    words = ["--layout", "class-folders", "--out", tmp_path / "store"]
    assert rsdgc(monkeypatch, "ingest", tmp_path / "src", *words, "--dry-run") == 0
    assert rsdgc(monkeypatch, "ingest", tmp_path / "src", *words) == 0
    words = ["--scheme", "classes", "--classes-per-site", "2", "--sites", "4"]
    assert (
        rsdgc(monkeypatch, "partition", tmp_path / "store", *words, "--out", tmp_path / "data") == 0
    )


def test_a_partition_without_a_modality_at_a_site(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data(tmp_path)
    words = ["partition", tmp_path / "store", "--scheme", "iid", "--sites", "2", "--out", "data2"]
    monkeypatch.chdir(tmp_path)
    assert rsdgc(monkeypatch, *words, "--without", "site-01=elevation") == 0
    assert "site-01 without elevation" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert rsdgc(monkeypatch, "inspect", "data2", "--html", page) == 0
    assert "site-01 lacks elevation" in " ".join(page.read_text().split())
    words[-1] = "data3"
    assert rsdgc(monkeypatch, *words, "--without", "elevation") != 0
    assert "--without 'elevation' is not SITE=MODALITY" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodata", "x"], "--nodata 'x' is not a number"),
        (["--nodata", "1", "--nodata", "dem=2"], "for all modalities and for one"),
        (["--complex", "phase"], "choose amp or db"),
        (["--mask", "SCL"], "is not GLOB=VALUES"),
        (["--layout", "class-folders", "--nodata", "a=1"], "images have one modality"),
        (
            ["--layout", "class-folders", "--remap", "a=1"],
            "--remap does not apply to class folders",
        ),
        (
            ["--layout", "class-folders", "--crs", "EPSG:4326"],
            "--crs does not apply to class folders",
        ),
        (
            ["--layout", "class-folders", "--buffer", "0"],
            "--buffer does not apply to class folders",
        ),
        (["--layout", "class-folders", "--layer", "a=*"], "--modality does not apply to class"),
        (["--remap", "water"], "is neither a file nor CLASS=VALUES"),
        (
            ["--crs", "EPSG:4326", "--crs", "EPSG:3857"],
            "--crs is given twice (EPSG:4326 and EPSG:3857)",
        ),
        (["--crs", "dem=EPSG:0"], "'EPSG:0' is not a CRS"),
        (["--crs", "dem=EPSG:4326"], "--crs for dem: choose from the modalities, optical"),
        (["--label-year", "19"], "--label-year is 19: write four digits"),
    ],
)
def test_mistakes_are_one_line(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    write_scene(tmp_path / "src", size=16)
    assert rsdgc(monkeypatch, "ingest", tmp_path / "src", *words, "--out", tmp_path / "store") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


def test_nodata_values_are_exact() -> None:
    values = [read_nodata([text]) for text in ("0", "-9999.5", str(2**63 - 1), f"a={2**53 + 1}")]
    assert values == [0.0, -9999.5, 2**63 - 1, {"a": 2**53 + 1}]
    assert [type(value) for value in values[:3]] == [float, float, int]


def test_a_crs_is_given_to_all_images_or_to_a_modality() -> None:
    utm = "+proj=utm +zone=33 +datum=WGS84"
    assert read_crs([]) is None
    assert read_crs([utm]) == utm
    assert read_crs(["proj=utm zone=33"]) == "proj=utm zone=33"
    assert read_crs(["EPSG:1", f"dem={utm}"]) == {"": "EPSG:1", "dem": utm}
    assert read_crs(["s2_10m=EPSG:1"]) == {"s2_10m": "EPSG:1"}
