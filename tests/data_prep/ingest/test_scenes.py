from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import Resampling
from rasterio.warp import reproject

from data_prep.ingest.scenes import ingest_scenes
from data_prep.manifest import column
from data_prep.store import Store
from rsdgc.errors import DataError, SettingError
from tests.data_prep.archives import LEFT, TOP, noise, stripes, write_scene, write_tif


def ingest(src: Path, **options: Any) -> Store:
    return ingest_scenes(src, src.parent / "store", **({"chip_px": 8} | options))


def mosaic(store: Store, modality: int, height: int, width: int) -> np.ndarray:
    """Chips laid out in their scene; 0 where there is none."""
    chips = store.take(np.arange(len(store)))[modality]
    out = np.zeros((chips.shape[1], height, width), chips.dtype)
    side = store.chip_px
    rows, cols = column(store.manifest, "row"), column(store.manifest, "col")
    for chip, r, c in zip(chips, rows, cols, strict=True):
        out[:, r : r + side, c : c + side] = chip
    return out


def test_chips_equal_plain_reads_and_carry_places(scenes_store: Store) -> None:
    archive = scenes_store.path.parent / "archive"
    (values,) = scenes_store.take(np.arange(len(scenes_store)))
    for i, row in enumerate(scenes_store.manifest.to_pylist()):
        window = rasterio.windows.Window(row["col"], row["row"], 8, 8)
        with rasterio.open(archive / row["scene"] / "optical.tif") as source:
            np.testing.assert_array_equal(values[i], source.read(window=window))
            assert (row["x"], row["y"]) == source.transform @ (row["col"] + 4, row["row"] + 4)
        assert row["crs"] == "EPSG:32633"
        assert row["folder"] == row["scene"].split("/")[0]
        assert row["label"] == (row["col"] // 8) % 3


def test_the_split_is_buffered_and_reported(scenes_store: Store) -> None:
    report = scenes_store.meta.splits
    assert report.method == "blocks"
    assert (report.buffer_px, report.least_distance_px, report.least_distance) == (4, 8.0, 80.0)
    assert sum(report.counts.values()) == len(scenes_store) == 4 * 144
    assert report.counts["buffer"] > 0
    assert report.counts["test"] / len(scenes_store) == pytest.approx(0.2, abs=0.06)
    assert min(report.class_counts["test"]) > 0


def test_single_band_files_group_by_prefix(tmp_path: Path) -> None:
    src = tmp_path / "src"
    bands = noise((3, 48, 48))
    for name, band in zip(("b2", "b10", "b8a"), bands, strict=True):
        write_tif(src / f"landsat_{name}.tif", band)
    write_tif(src / "dem.tif", noise((48, 48), 1).astype("float32"))
    write_tif(src / "labels.tif", stripes(48, 48, 8, (1, 2)))
    store = ingest(src)
    optical, dem = store.meta.modalities
    assert (optical.name, optical.bands) == ("landsat", ["b2", "b8a", "b10"])
    assert (dem.name, dem.bands, dem.dtype) == ("dem", ["dem"], "float32")
    np.testing.assert_array_equal(mosaic(store, 0, 48, 48), bands[[0, 2, 1]])
    assert store.num_bands == 4
    assert store.meta.name == "src"
    assert set(column(store.manifest, "folder")) == {""}


def test_resolutions_of_one_sensor_are_told_apart_and_kept(tmp_path: Path) -> None:
    src = tmp_path / "src"
    fine, coarse = noise((2, 48, 48)), noise((2, 24, 24), 1)
    for band, values in zip(("B02", "B03"), fine, strict=True):
        write_tif(src / f"T33_{band}.tif", values)
    for band, values in zip(("B05", "B06"), coarse, strict=True):
        write_tif(src / f"T33_{band}.tif", values, pixel=20.0)
    write_tif(src / "labels.tif", stripes(48, 48, 8, (1, 2)))
    store = ingest(src)
    assert [m.name for m in store.meta.modalities] == ["T33_10m", "T33_20m"]
    assert [(m.resolution, m.factor) for m in store.meta.modalities] == [(10.0, 1), (20.0, 2)]
    near, far = store.take(np.arange(len(store)))
    assert (near.shape[1:], far.shape[1:]) == ((2, 8, 8), (2, 4, 4))
    rows, cols = column(store.manifest, "row"), column(store.manifest, "col")
    for a, b, r, c in zip(near, far, rows, cols, strict=True):
        np.testing.assert_array_equal(a, fine[:, r : r + 8, c : c + 8])
        np.testing.assert_array_equal(b, coarse[:, r // 2 : r // 2 + 4, c // 2 : c // 2 + 4])
    warped = ingest(src, chip_px=7, overwrite=True)
    assert [m.factor for m in warped.meta.modalities] == [1, 1]
    assert [a.shape for a in warped.take([0])] == [(1, 2, 7, 7)] * 2


def test_modalities_may_be_named(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_scene(src)
    write_tif(src / "a1.tif", noise((96, 96), 1))
    write_tif(src / "zz.tif", noise((96, 96), 2))
    store = ingest(src, modalities=["two=[az]*.tif", "optical=opt*.tif"])
    assert [(m.name, m.bands) for m in store.meta.modalities] == [
        ("optical", ["band1", "band2", "band3", "band4"]),
        ("two", ["1", "zz"]),
    ]
    for wrong, message in (("optical", "not NAME=GLOB"), ("x=nope*", "no file like nope")):
        with pytest.raises((SettingError, DataError), match=message):
            ingest(src, modalities=[wrong], overwrite=True)


def test_other_grids_are_warped_once_bilinear_and_labels_nearest(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_tif(src / "optical.tif", noise((2, 64, 64)), nodata=0)
    rows, cols = np.mgrid[:40, :40]
    dem = (100 + rows + 2 * cols).astype("float32")
    write_tif(src / "dem.tif", dem, pixel=30.0, left=LEFT - 100, top=TOP + 100, nodata=-9999)
    codes = noise((30, 30), 5, 1, 4, "uint8")
    # another CRS, and codes that must not be mixed
    degrees = Affine(0.0005, 0, 14.998, 0, -0.0005, 45.155)
    write_tif(src / "labels.tif", codes * 50, crs="EPSG:4326", transform=degrees, nodata=0)
    store = ingest(src, min_label=0.0)
    want = np.zeros((64, 64), "float32")
    with rasterio.open(src / "optical.tif") as grid, rasterio.open(src / "dem.tif") as source:
        reproject(
            rasterio.band(source, 1),
            want,
            dst_transform=grid.transform,
            dst_crs=grid.crs,
            resampling=Resampling.bilinear,
        )
    np.testing.assert_allclose(mosaic(store, 1, 64, 64)[0], want, atol=1e-3)
    assert set(store.meta.class_codes) <= {50, 100, 150}
    assert any("labels.tif warped from EPSG:4326" in note for note in store.meta.notes)
    # the nearest label pixel under a chip's middle agrees with a plain reprojection
    labels = np.zeros((64, 64), np.uint8)
    with rasterio.open(src / "optical.tif") as grid, rasterio.open(src / "labels.tif") as source:
        reproject(
            rasterio.band(source, 1),
            labels,
            dst_transform=grid.transform,
            dst_crs=grid.crs,
            resampling=Resampling.nearest,
        )
    for row in store.manifest.to_pylist():
        window = labels[row["row"] : row["row"] + 8, row["col"] : row["col"] + 8]
        found, counts = np.unique(window[window > 0], return_counts=True)
        assert store.meta.class_codes[row["label"]] in found[counts == counts.max()]


def test_south_up_scenes_are_turned(tmp_path: Path) -> None:
    src = tmp_path / "src"
    values = noise((2, 48, 48))
    flipped = Affine(10, 0, LEFT, 0, 10, TOP - 480)
    write_tif(src / "optical.tif", values[:, ::-1], transform=flipped)
    write_tif(src / "labels.tif", stripes(48, 48, 8, (1, 2)))
    np.testing.assert_array_equal(mosaic(ingest(src), 0, 48, 48), values)


def test_without_a_crs_equal_sizes_are_taken_pixel_by_pixel(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_scene(src, crs=None)
    store = ingest(src)
    assert np.isnan(column(store.manifest, "x")).all()
    assert set(column(store.manifest, "crs")) == {""}
    assert store.meta.splits.least_distance is None
    assert store.meta.splits.least_distance_px == 8
    write_tif(src / "dem.tif", noise((40, 96)), crs=None)
    with pytest.raises(DataError, match=r"dem.tif is 40×96 px and the grid 96×96.*no CRS"):
        ingest(src, overwrite=True)


def test_invalid_pixels_are_anded_over_bands_and_kept_apart(tmp_path: Path) -> None:
    src = tmp_path / "src"
    values = noise((2, 64, 64), 0, 10, 20).astype("float32")
    values[0, :8, :8] = np.nan  # one band, no tag
    values[1, :8, 8:12] = -1  # declared, half a chip
    write_tif(src / "optical.tif", values, nodata=-1)
    write_tif(src / "labels.tif", stripes(64, 64, 8, (1, 2)))
    store = ingest(src)
    assert len(store) == 63
    assert store.meta.left_out == {"no_data": 1, "no_label": 0}
    first = store.manifest.slice(0, 1).to_pylist()[0]
    assert (first["row"], first["col"], first["valid"]) == (0, 8, 0.5)
    (meta,) = store.meta.modalities
    assert meta.nodata == -1
    assert min(meta.min) >= 10
    assert len(ingest(src, min_valid=0.6, overwrite=True)) == 62


def test_nodata_may_be_overridden(tmp_path: Path) -> None:
    src = tmp_path / "src"
    values = noise((2, 64, 64), 0, 10, 20)
    values[:, :8] = 7
    write_tif(src / "optical.tif", values)
    write_tif(src / "labels.tif", stripes(64, 64, 8, (1, 2)))
    assert len(ingest(src)) == 64
    store = ingest(src, nodata={"optical": 7}, overwrite=True)
    assert len(store) == 56
    assert store.meta.modalities[0].nodata == 7
    with pytest.raises(SettingError, match="nodata for dem: choose from the modalities, optical"):
        ingest(src, nodata={"dem": 7}, overwrite=True)


def test_class_lists_are_closed_and_zero_is_unlabeled(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_scene(src)
    (src / "classes.json").write_text(json.dumps({"3": "c", "1": "a", "2": "b", "9": "rare"}))
    store = ingest(src)
    assert store.classes == ["a", "b", "c", "rare"]
    assert store.meta.class_codes == [1, 2, 3, 9]
    assert any("rare" in note for note in store.meta.splits.notes)
    with pytest.raises(DataError, match=r"labels.tif has label 3, which is not in .* \(1, 2\)"):
        ingest(src, classes={1: "a", 2: "b"}, overwrite=True)
    for wrong in ('["a"]', "{", '{"x": "a"}'):
        (src / "classes.json").write_text(wrong)
        with pytest.raises(DataError, match=r"classes.json is not"):
            ingest(src, overwrite=True)


def test_category_names_and_look_alikes_of_the_labels(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_scene(src)
    (src / "labels.tif").rename(src / "nlcd.tif")
    (src / "nlcd.tif.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><CategoryNames><Category>NA</Category>"
        "<Category>Water</Category><Category>Forest</Category></CategoryNames></PAMRasterBand>"
        "</PAMDataset>"
    )
    write_tif(src / "nlcd2011.tif", stripes(96, 96, 8, (11, 21)))
    store = ingest(src, labels="nlcd.tif")
    assert store.classes == ["Water", "Forest", "class 3"]
    assert [item.path for item in store.meta.skipped] == ["nlcd2011.tif"]
    assert not store.meta.skipped[0].refused
    assert store.num_bands == 4
    with rasterio.open(src / "codes.tif", "w", **rasterio.open(src / "nlcd.tif").profile) as codes:
        codes.write(stripes(96, 96, 8, (1, 2)), 1)
        codes.write_colormap(1, {1: (255, 0, 0, 255), 2: (0, 255, 0, 255)})
    store = ingest(src, labels=str(src / "nlcd.tif"), strict=True, overwrite=True)
    assert {item.path for item in store.meta.skipped} == {"nlcd2011.tif", "codes.tif"}


def test_chips_without_enough_labels_are_left_out(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_scene(src)
    labels = stripes(96, 96, 8, (1, 2, 3))
    labels[:5] = 0
    write_tif(src / "labels.tif", labels, nodata=0)
    assert ingest(src).meta.left_out == {"no_data": 0, "no_label": 12}
    assert ingest(src, min_label=0.3, overwrite=True).meta.left_out["no_label"] == 0


def test_overlapping_strides_never_leak(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_scene(src)
    store = ingest(src, stride_px=3, buffer_px=0)
    place = np.stack([column(store.manifest, "row"), column(store.manifest, "col")], axis=1)
    split = column(store.manifest, "split")
    train, test = place[split == "train"], place[split == "test"]
    assert len(place) == 30 * 30
    assert np.abs(train[:, None] - test[None]).max(axis=2).min() >= 8


def test_broken_scenes_are_quarantined_and_leave_nothing(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for i in range(3):
        write_scene(src / f"scene-{i}", seed=i, left=LEFT + 2000 * i)
    cut = write_tif(
        src / "scene-1" / "optical.tif",
        noise((4, 96, 96), 1),
        nodata=0,
        compress="deflate",
        left=LEFT + 2000,
    )
    cut.write_bytes(cut.read_bytes()[:-9000])
    write_scene(src / "scene-9")
    (src / "scene-9" / "labels.tif").unlink()
    store = ingest(src)
    assert [scene.name for scene in store.meta.scenes] == ["scene-0", "scene-2"]
    assert len(store) == 2 * 144
    reasons = {item.path: item.reason for item in store.meta.skipped}
    assert "optical.tif cannot be read" in reasons["scene-1"]
    assert "no label file labels.tif" in reasons["scene-9"]
    scenes = column(store.manifest, "scene")
    window = rasterio.windows.Window(0, 0, 8, 8)
    with rasterio.open(src / "scene-2" / "optical.tif") as source:
        first = int(np.flatnonzero(scenes == "scene-2")[0])
        np.testing.assert_array_equal(store.take([first])[0][0], source.read(window=window))
    with pytest.raises(DataError, match="strict"):
        ingest(src, strict=True, overwrite=True)
    assert len(Store.open(store.path)) == 288


def test_scenes_must_be_alike(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_scene(src / "one")
    write_scene(src / "two")
    write_tif(src / "two" / "optical.tif", noise((3, 96, 96)))
    with pytest.raises(DataError, match="modality optical of scene two has bands"):
        ingest(src)
    write_tif(src / "two" / "optical.tif", noise((4, 96, 96)).astype("int16"))
    with pytest.raises(DataError, match="has type int16 but that of one has uint16"):
        ingest(src)
    write_tif(src / "two" / "dem.tif", noise((96, 96)))
    with pytest.raises(DataError, match="scene two has modalities dem, optical"):
        ingest(src)


def test_modalities_without_common_ground_are_named(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_scene(src)
    write_tif(src / "labels.tif", stripes(96, 96, 8, (1, 2)), left=LEFT + 50_000)
    with pytest.raises(DataError, match=r"labels.tif does not overlap.*550000.*500000"):
        ingest(src)


def test_copies_of_a_scene_end_in_one_split(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_scene(src / "one", crs=None)
    write_scene(src / "two", crs=None)
    store = ingest(src)
    split, digest = column(store.manifest, "split"), column(store.manifest, "hash")
    assert not set(digest[split == "train"]) & set(digest[split == "test"])


def test_archives_say_that_they_are_synthetic(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_scene(src)
    assert not ingest(src).meta.synthetic
    (src / "archive.json").write_text('{"synthetic": true}')
    assert ingest(src, overwrite=True, name="made up").meta.synthetic


def test_a_site_of_a_synthetic_archive_that_is_ingested_alone_says_so(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    for site in ("oslo", "porto"):
        write_scene(archive / site)
    about = {"synthetic": True, "sites": [{"name": "oslo"}]}
    (archive / "archive.json").write_text(json.dumps(about))
    assert ingest(archive / "oslo").meta.synthetic
    assert not ingest(archive / "porto", overwrite=True).meta.synthetic
    (archive / "archive.json").write_text('{"synthetic": true, "sites": 7}')
    assert not ingest(archive / "oslo", overwrite=True).meta.synthetic


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chip_px": 0}, "--chip is 0"),
        ({"stride_px": 0}, "--stride is 0"),
        ({"min_valid": 2}, "--min-valid is 2"),
        ({"min_label": -1}, "--min-label is -1"),
        ({"buffer_px": -1}, "--buffer is -1"),
        ({"block_px": 0}, "--block is 0"),
        ({"test_share": 1}, "--test is 1"),
        ({"patch_px": 4}, "--patch is 4"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        ingest(tmp_path / "src", **options)


def test_missing_empty_and_small_archives_are_named(tmp_path: Path) -> None:
    src = tmp_path / "src"
    with pytest.raises(DataError, match="src is not a folder"):
        ingest(src)
    src.mkdir()
    (src / "readme.txt").write_text("x")
    with pytest.raises(DataError, match="holds no rasters"):
        ingest(src)
    write_tif(src / "labels.tif", stripes(8, 8, 8, (1,)))
    with pytest.raises(DataError, match="no image beside its labels"):
        ingest(src)
    write_tif(src / "optical.tif", noise((2, 8, 8)))
    with pytest.raises(DataError, match="no chip of 64 px in 8×8 px: too small"):
        ingest(src, chip_px=64)
    with pytest.raises(DataError, match=r"no label file lulc\.tif"):
        ingest(src, labels="lulc.tif")
    (src / "optical.tif").write_text("broken")
    with pytest.raises(DataError, match=r"optical.tif cannot be read"):
        ingest(src)
    assert [path.name for path in tmp_path.iterdir()] == ["src"]
