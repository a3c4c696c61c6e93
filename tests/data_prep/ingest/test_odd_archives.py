"""Odd archives: what lies in them beside images, odd headers, and lists from other systems."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.ingest.products import is_preview
from data_prep.ingest.scenes import ingest_scenes
from data_prep.manifest import column
from data_prep.store import Store
from rsdgc.errors import DataError, SettingError
from tests.data_prep.archives import (
    LEFT,
    TOP,
    noise,
    stripes,
    write_class_folders,
    write_polygons,
    write_tif,
)

SIZE = 32


def write(folder: Path, seed: int = 0, **place: Any) -> Path:
    write_tif(folder / "img.tif", noise((3, SIZE, SIZE), seed), **place)
    write_tif(folder / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)), **place)
    return folder


def ingest(src: Path, **options: Any) -> Store:
    defaults = {"chip_px": 8, "buffer_px": 0, "overwrite": True}
    return ingest_scenes(src, src.parent / "store", **(defaults | options))


def skipped(store: Store) -> dict[str, str]:
    return {item.path: item.reason for item in store.meta.skipped}


def test_what_is_no_file_of_an_archive_is_named_and_never_read(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write(src / "a")
    os.mkfifo(src / "a" / "pipe.tif")
    os.mkfifo(src / "labels.gpkg")
    (src / "b").symlink_to("nowhere")
    (src / "a" / "notes").symlink_to("gone.txt")
    with zipfile.ZipFile(src / "more.zip", "w") as file:
        file.write(src / "a" / "img.tif", "img.tif")
    (src / "a" / "old.tar.gz").write_bytes(b"x")
    packed = "packed files: unpack them, or ingest a zip file by itself"
    store = ingest(src)
    assert skipped(store) == {
        "a/pipe.tif": "not a regular file",
        "labels.gpkg": "not a regular file",
        "b": "a link to nothing",
        "a/notes": "a link to nothing",
        "more.zip": packed,
        "a/old.tar.gz": packed,
    }
    assert len(store) == 16


@pytest.mark.parametrize(
    "name", ["thumb.png", "img_preview.jpg", "img-quicklook.png", "scene_ql.jpg"]
)
def test_previews_are_no_modalities(tmp_path: Path, name: str) -> None:
    src = write(tmp_path / "src")
    driver = {".png": "PNG", ".jpg": "JPEG"}[Path(name).suffix]
    picture = noise((3, 12, 12), 1, 0, 255, "uint8")
    write_tif(src / name, picture, driver=driver, crs=None)
    store = ingest(src)
    assert [m.name for m in store.meta.modalities] == ["img"]
    assert "a preview without a position" in skipped(store)[name]


def test_images_of_other_names_are_no_previews() -> None:
    for stem in ("img", "prequel", "thumbs_up_farm", "qlik", "browser_tile_b2_long"):
        assert not is_preview(stem), stem


def test_a_picture_without_a_position_is_not_the_reference(tmp_path: Path) -> None:
    src = write(tmp_path / "src")
    write_tif(src / "a_photo.tif", noise((3, SIZE, SIZE), 5), crs=None)
    store = ingest(src)
    assert set(column(store.manifest, "crs")) == {"EPSG:32633"}
    assert any("a_photo.tif taken pixel by pixel" in note for note in store.meta.notes)


@pytest.mark.parametrize("scale", [float("nan"), 0.0, float("inf")])
def test_scales_that_are_none_are_noted_and_not_applied(tmp_path: Path, scale: float) -> None:
    src = write(tmp_path / "src")
    with rasterio.open(src / "img.tif", "r+") as file:
        file.scales = (scale, 1.0, 1.0)
    store = ingest(src)
    assert store.meta.modalities[0].scale == []
    assert any("values are as stored" in note for note in store.meta.notes)


def test_band_names_become_short_lines(tmp_path: Path) -> None:
    src = write(tmp_path / "src")
    with rasterio.open(src / "img.tif", "r+") as file:
        for band, name in enumerate(("a\nb", "x" * 5000, "\x1b[31m"), start=1):
            file.set_band_description(band, name)
    names = ingest(src).meta.modalities[0].bands
    assert names[0] == "a b"
    assert max(map(len, names)) <= 100
    assert "\x1b" not in "".join(names)


def test_masks_have_bits_of_whole_numbers(tmp_path: Path) -> None:
    src = write(tmp_path / "src")
    write_tif(src / "m_mask.tif", np.full((SIZE, SIZE), 0.5, "float32"))
    with pytest.raises(SettingError, match="has the bit 70: bits are numbered from 0 to 62"):
        ingest(src, masks=["m_mask=bits:70"])
    with pytest.raises(DataError, match="has fractions, which have no bits"):
        ingest(src, masks=["m_mask=bits:1"])
    assert len(ingest(src, masks=["m_mask=1"])) == 16  # the remedy
    write_tif(src / "m_mask.tif", np.full((SIZE, SIZE), -(2**62), "int64"))
    with pytest.raises(DataError, match=r"16 lack data, see --min-valid"):
        ingest(src, masks=["m_mask=bits:62"])


@pytest.mark.parametrize("top", [95.0, -86.0])
def test_degrees_beyond_a_pole_have_no_footprint(tmp_path: Path, top: float) -> None:
    place = {"crs": "EPSG:4326", "transform": Affine(0.2, 0, 0, 0, -0.2, top)}
    store = ingest(write(tmp_path / "src", **place))
    assert any("without a footprint" in note for note in store.meta.notes)
    assert len(store) == 16


def test_lists_from_windows_are_read(tmp_path: Path) -> None:
    home = tmp_path / "home"
    for i in range(6):
        image = noise((3, 8, 8), i, 0, 255, "uint8")
        write_tif(home / "x" / f"{i}.tif", image, crs=None)
    rows = "".join(f"x\\{i}.tif,{'ab'[i % 2]}\n" for i in range(6))
    (home / "list.csv").write_text("file,label\n" + rows)
    assert len(ingest_class_folders(home / "list.csv", tmp_path / "images")) == 6
    write(home / "y" / "z")
    text = "scene,modality,file,labels\ns,img,y\\z\\img.tif,y\\z\\labels.tif\n"
    (home / "scenes.csv").write_text(text)
    assert len(ingest(home / "scenes.csv")) == 16


def test_images_of_several_classes_are_noted(tmp_path: Path) -> None:
    src = write_class_folders(tmp_path / "src", classes=2, images=4)
    copy = src / "class-1" / "copy.tif"
    copy.write_bytes((src / "class-0" / "image-00.tif").read_bytes())
    store = ingest_class_folders(src, tmp_path / "store")
    note = "1 images are in several classes, the first in class-0, class-1"
    assert note in store.meta.splits.notes


def test_a_given_split_without_ground_of_its_own_names_the_way_out(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write(src / "train" / "a", 1)
    write(src / "test" / "b", 2)
    for options in ({}, {"patch_px": 3}):
        with pytest.raises(DataError, match="so use --split-by blocks"):
            ingest(src, **options)
        assert len(ingest(src, split_by="blocks", **options)) > 0  # the remedy


@pytest.mark.parametrize(
    ("labels", "valid", "message"),
    [(255, 1, "16 lack labels, see --min-label"), (1, 0, "16 lack data, see --min-valid")],
)
def test_an_empty_scene_says_what_it_lacks(
    tmp_path: Path, labels: int, valid: int, message: str
) -> None:
    src = tmp_path / "src"
    write_tif(src / "img.tif", valid * noise((2, SIZE, SIZE)), nodata=0)
    write_tif(src / "labels.tif", np.full((SIZE, SIZE), labels, "uint8"), nodata=255)
    with pytest.raises(DataError, match=message):
        ingest(src)


def test_polygons_that_are_none_are_refused_by_their_own_kind(tmp_path: Path) -> None:
    src = write(tmp_path / "src")
    (src / "bad.geojson").write_text("{")
    with pytest.raises(DataError, match=r"format: convert it to GeoTIFF \(polygons: to Geo") as bad:
        ingest(src, labels="bad.geojson", label_column="name")
    assert "DRIVER" not in str(bad.value)
    with pytest.raises(DataError, match=r"polygons: to GeoPackage"):
        ingest(src, aoi=src / "img.tif")


def test_odd_names_are_kept(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for i, name in enumerate(("a\nb", "100%: x", "[c]", "été", "-d", "e.tif")):
        write(src / name, i, left=LEFT + 5000 * i, top=TOP)
    store = ingest(src)
    assert len(store.meta.scenes) == 6
    assert len(store) == 6 * 16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modalities": ["x=img.tif", "x=other.tif"]}, "names x twice: write one glob"),
        ({"modalities": ["x=*.jp2"]}, r"no file like \*.jp2 for modality x: correct --modality"),
        ({"priority": ["zzz"]}, "'zzz' is not a class: give codes"),
        ({"seed": -1}, "--seed is -1: choose 0 or more"),
    ],
)
def test_slips_are_named_with_what_helps(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    src = write(tmp_path / "src")
    write_tif(src / "other.tif", noise((3, SIZE, SIZE), 1))
    with pytest.raises((DataError, SettingError), match=message):
        ingest(src, **options)


@pytest.mark.parametrize("name", ["a/b", "../a", "x.valid", ".x", ""])
def test_modalities_that_cannot_name_a_file_are_refused(tmp_path: Path, name: str) -> None:
    src = write(tmp_path / "src")
    text = f'[[scene]]\nname = "a"\nlabels = "labels.tif"\nmodalities = {{"{name}" = "img.tif"}}\n'
    (src / "s.toml").write_text(text)
    with pytest.raises(DataError, match="cannot name a file: use letters and digits"):
        ingest(src / "s.toml")
    assert not list(tmp_path.glob("*.tif"))


def test_layers_and_places_of_polygons_are_named(tmp_path: Path) -> None:
    src = write(tmp_path / "src")
    box = ((0, 0, SIZE, SIZE), "a")
    write_polygons(src / "land.gpkg", [box])
    with pytest.raises(DataError, match="has no layer nope: choose a --label-layer from land"):
        ingest(src, labels="land.gpkg", label_column="name", label_layer="nope")
    # GeoJSON without a CRS is in degrees, where these numbers are no place
    ring = [[LEFT + 320 * x, TOP - 320 * y] for x, y in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))]
    feature = {
        "type": "Feature",
        "properties": {"name": "a"},
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }
    collection = {"type": "FeatureCollection", "features": [feature]}
    (src / "land.geojson").write_text(json.dumps(collection))
    with pytest.raises(DataError, match=r"it has no place there.*--label-crs"):
        ingest(src, labels="land.geojson", label_column="name")
    options = {"label_column": "name", "label_crs": "EPSG:32633"}  # the remedy
    assert len(ingest(src, labels="land.geojson", **options)) == 16


def test_labels_of_which_a_little_is_used_are_not_outside_altogether(tmp_path: Path) -> None:
    src = write(tmp_path / "src")
    wide = {"left": LEFT - 2000, "top": TOP + 2000}
    write_tif(src / "labels.tif", stripes(600, 600, 8, (1, 2)), **wide)
    assert any("labels.tif: 99% of it lies in no scene" in n for n in ingest(src).meta.notes)


def test_zip_files_within_a_zip_file_are_named(tmp_path: Path) -> None:
    src = write(tmp_path / "src")
    with zipfile.ZipFile(tmp_path / "inner.zip", "w") as file:
        file.write(src / "img.tif", "img.tif")
    with zipfile.ZipFile(tmp_path / "outer.zip", "w") as file:
        for path in (src / "img.tif", src / "labels.tif", tmp_path / "inner.zip"):
            file.write(path, f"a/{path.name}")
    assert "unpack them" in skipped(ingest(tmp_path / "outer.zip"))["a/inner.zip"]


@pytest.mark.parametrize("name", ["a.zip", "LC08_L2SP.tar"])
def test_an_archive_of_packed_files_alone_says_how_to_unpack(tmp_path: Path, name: str) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / name).write_bytes(b"x")
    with pytest.raises(DataError, match=rf"holds no rasters.*{name}: packed files: unpack them"):
        ingest(tmp_path / "src")
    with pytest.raises(DataError, match=rf"no class folders.*{name}: packed files: unpack them"):
        ingest_class_folders(tmp_path / "src", tmp_path / "store")


def test_names_that_are_not_utf8_cost_their_scene(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write(src / "good")
    odd = os.fsencode(write(src / "bad", 1, left=LEFT + 5000))
    os.rename(odd, os.path.join(os.path.dirname(odd), b"\xff\xe4"))
    (src / "good" / "note").touch()
    os.rename(os.fsencode(src / "good" / "note"), os.fsencode(src / "good") + b"/\xe4.txt")
    reasons = skipped(ingest(src))
    assert list(reasons.values()) == ["its name is not UTF-8: rename it"] * 2
    with pytest.raises(DataError, match=r"its name is not UTF-8: rename it \(--strict"):
        ingest(src, strict=True)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("img.dat", {"modalities": ["img=*.dat"]}),
        ("cube", {"modalities": ["img=cube"]}),
        ("s_img.dat", {"patterns": ["{scene}_{modality}.dat"]}),
    ],
)
def test_rasters_of_any_suffix_are_read_where_they_are_named(
    tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    values = noise((3, SIZE, SIZE))
    src = tmp_path / "src"
    write_tif(src / name, values, driver="ENVI")
    write_tif(src / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)))
    with pytest.raises(DataError, match=rf"(no image beside its labels but {name}|no rasters)"):
        ingest(src)
    store = ingest(src, **options)
    assert [modality.name for modality in store.meta.modalities] == ["img"]
    np.testing.assert_array_equal(store.take(np.array([0]))[0][0], values[:, :8, :8])


@pytest.mark.parametrize(("suffix", "driver"), [("gif", "GIF"), ("bmp", "BMP"), ("webp", "WEBP")])
def test_class_folders_hold_pictures_of_other_formats(
    tmp_path: Path, suffix: str, driver: str
) -> None:
    for name, seed in (("a", 0), ("b", 10)):
        for i in range(3):
            bands = 1 if driver == "GIF" else 3
            image = noise((bands, 8, 8), seed + i, 0, 255, "uint8")
            write_tif(tmp_path / "src" / name / f"{i}.{suffix}", image, driver=driver, crs=None)
    store = ingest_class_folders(tmp_path / "src", tmp_path / "store")
    assert len(store) == 6


def test_signatures_are_no_rasters(tmp_path: Path) -> None:
    src = write(tmp_path / "src")
    (src / "img.tif.asc").write_text("-----BEGIN PGP SIGNATURE-----")
    assert skipped(ingest(src)) == {"img.tif.asc": "not a raster"}


def test_a_year_of_labels_is_chosen_beside_a_pattern(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_tif(src / "x_img.tif", noise((3, SIZE, SIZE)))
    for year, codes in ((2018, (1, 2)), (2021, (3, 4))):
        write_tif(src / f"labels_{year}.tif", stripes(SIZE, SIZE, 8, codes))
    store = ingest(src, patterns=["{scene}_{modality}.tif"], label_year=2021)
    assert store.classes == ["class 3", "class 4"]
    # without a year, the pattern says what these files are
    src = tmp_path / "by-year"
    for seed, year in enumerate((2018, 2021)):
        place = {"left": LEFT + 5000 * seed}
        write_tif(src / f"img_{year}.tif", noise((3, SIZE, SIZE), seed), **place)
        write_tif(src / f"labels_{year}.tif", stripes(SIZE, SIZE, 8, (1, 2)), **place)
    store = ingest(src, patterns=["{modality}_{scene}.tif"])
    assert [scene.name for scene in store.meta.scenes] == ["2018", "2021"]
