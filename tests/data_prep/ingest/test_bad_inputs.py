"""What real archives have, case by case: refused by name, or read right.

Every test writes real files, and compares values where something can be read.
"""

from __future__ import annotations

import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.vrt import WarpedVRT

from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.ingest.scenes import ingest_scenes
from data_prep.manifest import column
from data_prep.store import Store
from rsdgc.errors import DataError, SettingError
from tests.data_prep.archives import (
    LEFT,
    TOP,
    UTM,
    noise,
    stripes,
    write_polygons,
    write_scene,
    write_tif,
)

SIZE = 64


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """A scene of 64×64 px, two bands of uint16, labels in stripes of 8 px."""
    folder = tmp_path / "src"
    write_tif(folder / "optical.tif", noise((2, SIZE, SIZE)))
    write_tif(folder / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2, 3)))
    return folder


def ingest(src: Path, **options: Any) -> Store:
    defaults: dict[str, Any] = {"chip_px": 8, "min_valid": 0.0, "overwrite": True}
    return ingest_scenes(src, src.parent / "store", **(defaults | options))


def mosaic(store: Store, modality: int = 0, size: int = SIZE) -> np.ndarray:
    """Chips laid out in their scene; 0 where there is none."""
    chips = store.take(np.arange(len(store)))[modality]
    out = np.zeros((chips.shape[1], size, size), chips.dtype)
    side = chips.shape[2]
    scale = store.chip_px // side
    rows, cols = column(store.manifest, "row") // scale, column(store.manifest, "col") // scale
    for chip, r, c in zip(chips, rows, cols, strict=True):
        height, width = out[0, r : r + side, c : c + side].shape
        out[:, r : r + side, c : c + side] = chip[:, :height, :width]
    return out


def note(store: Store, *words: str) -> bool:
    return any(all(word in text for word in words) for text in store.meta.notes)


# no CRS


def test_no_crs_takes_equal_sizes_pixel_by_pixel_and_invents_nothing(src: Path) -> None:
    values = noise((2, SIZE, SIZE), 1)
    write_tif(src / "optical.tif", values, crs=None)
    write_tif(src / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)), crs=None)
    store = ingest(src)
    np.testing.assert_array_equal(mosaic(store), values)
    assert {scene.crs for scene in store.meta.scenes} == {""}
    assert "geometry" not in store.manifest.column_names
    write_tif(src / "labels.tif", stripes(32, 32, 8, (1, 2)))
    with pytest.raises(
        DataError, match=r"labels.tif is 32×32 px.*has no CRS and no position: give it both"
    ):
        ingest(src)


def test_no_crs_cannot_take_polygons_that_have_one(src: Path) -> None:
    write_tif(src / "optical.tif", noise((2, SIZE, SIZE)), crs=None)
    write_polygons(src / "labels.gpkg", [((0, 0, 32, 64), "a")])
    (src / "labels.tif").unlink()
    with pytest.raises(DataError, match=r"labels.gpkg cannot be placed on the scene.*no CRS"):
        ingest(src, label_column="name")


# ground control points only


def test_ground_control_points_place_a_scene(src: Path) -> None:
    values = noise((2, SIZE, SIZE), 2)
    corners = [(0, 0), (0, SIZE), (SIZE, 0), (SIZE, SIZE), (SIZE // 2, SIZE // 2)]
    points = [GroundControlPoint(r, c, LEFT + 10 * c, TOP - 10 * r) for r, c in corners]
    write_gcps(src / "optical.tif", values, points)
    store = ingest(src)
    np.testing.assert_array_equal(mosaic(store), values)
    assert column(store.manifest, "x")[0] == pytest.approx(LEFT + 40)
    assert store.meta.scenes[0].crs == UTM
    assert note(store, "optical.tif placed by its ground control points")


def test_a_modality_with_points_is_warped_to_another_s_grid(src: Path) -> None:
    values = noise((SIZE, SIZE), 3)
    points = [
        GroundControlPoint(r, c, LEFT + 10 * (c + 8), TOP - 10 * (r + 8))
        for r, c in [(0, 0), (0, SIZE), (SIZE, 0), (SIZE, SIZE)]
    ]
    write_gcps(src / "sar.tif", values[None], points)
    store = ingest(src)
    sar = mosaic(store, 1)[0]
    np.testing.assert_array_equal(sar[8:, 8:], values[:-8, :-8])
    valid = column(store.manifest, "valid").reshape(8, 8)
    assert not valid[0].any()
    assert (valid[1:, 1:] == 1).all()


def write_gcps(path: Path, values: np.ndarray, points: list[GroundControlPoint]) -> None:
    path.unlink(missing_ok=True)
    profile = {"count": len(values), "height": SIZE, "width": SIZE, "dtype": values.dtype}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver="GTiff", gcps=points, crs=UTM, **profile) as target:
            target.write(values)


# CRS, resolution or extent differ between modalities


def test_modalities_that_differ_are_warped_bilinear_and_labels_nearest(src: Path) -> None:
    rows, cols = np.mgrid[:40, :40]
    dem = (100 + rows + 2 * cols).astype("float32")
    degrees = Affine(0.0003, 0, 14.9985, 0, -0.0003, 45.1545)
    write_tif(src / "dem.tif", dem, crs="EPSG:4326", transform=degrees, nodata=-1)
    codes = noise((50, 50), 4, 1, 4, "uint8") * 70
    write_tif(src / "labels.tif", codes, crs="EPSG:4326", transform=degrees, nodata=0)
    store = ingest(src, min_label=0.0)
    np.testing.assert_array_equal(
        mosaic(store, 1)[0], on_grid(src / "dem.tif", src, Resampling.bilinear, -1)
    )
    assert set(store.meta.class_codes) <= {70, 140, 210}
    assert note(store, "dem.tif warped from EPSG:4326", "to EPSG:32633 at 10, bilinear")
    assert note(store, "labels.tif warped", "nearest")
    wanted = on_grid(src / "labels.tif", src, Resampling.nearest, 0)
    for row in store.manifest.to_pylist():
        window = wanted[row["row"] : row["row"] + 8, row["col"] : row["col"] + 8]
        found, counts = np.unique(window[window > 0], return_counts=True)
        assert store.meta.class_codes[row["label"]] in found[counts == counts.max()]


def on_grid(path: Path, src: Path, how: Resampling, nodata: float) -> np.ndarray:
    with rasterio.open(path) as source, rasterio.open(src / "optical.tif") as grid:
        place = {"crs": grid.crs, "transform": grid.transform, "height": SIZE, "width": SIZE}
        with WarpedVRT(source, resampling=how, nodata=nodata, tolerance=1e-6, **place) as warped:
            return warped.read(1)


# rotated or south-up transforms


def test_south_up_scenes_are_flipped_and_say_so(src: Path) -> None:
    values = noise((2, SIZE, SIZE), 5)
    upward = Affine(10, 0, LEFT, 0, 10, TOP - 10 * SIZE)
    write_tif(src / "optical.tif", values[:, ::-1], transform=upward)
    store = ingest(src)
    np.testing.assert_array_equal(mosaic(store), values)
    assert note(store, "optical.tif flipped")


def test_turned_scenes_are_warped_to_north_up_and_say_so(src: Path) -> None:
    rows, cols = np.mgrid[:SIZE, :SIZE]
    values = (1000 + 3 * rows + 5 * cols).astype("float32")
    turned = Affine.translation(LEFT, TOP) @ Affine.rotation(-30) @ Affine.scale(10, -10)
    write_tif(src / "optical.tif", np.stack([values, values]), transform=turned)
    write_tif(src / "labels.tif", stripes(256, 256, 8, (1, 2)), left=LEFT - 500, top=TOP + 500)
    store = ingest(src, min_valid=1.0)
    assert note(store, "optical.tif turned and warped")
    (grid,) = store.meta.scenes
    assert grid.transform[1] == grid.transform[3] == 0
    (chips,) = store.take(np.arange(len(store)))
    for chip, x, y in zip(
        chips, column(store.manifest, "x"), column(store.manifest, "y"), strict=True
    ):
        col, row = ~turned @ (x, y)
        # the plane's value at the middle of the chip
        expected = 1000 + 3 * (row - 0.5) + 5 * (col - 0.5)
        assert chip[0].mean() == pytest.approx(expected, abs=0.1)


# no overlap


def test_no_overlap_is_an_error_that_names_both_extents(src: Path) -> None:
    write_tif(src / "dem.tif", noise((SIZE, SIZE)), left=LEFT + 50_000)
    with pytest.raises(DataError, match=r"dem.tif does not overlap.*\(550000, .*\(500000, "):
        ingest(src)
    (src / "dem.tif").unlink()
    (src / "labels.tif").unlink()
    write_polygons(src / "labels.gpkg", [((900, 900, 990, 990), "a")])
    with pytest.raises(DataError, match=r"labels.gpkg does not overlap.*\(509000, .*\(500000, "):
        ingest(src, label_column="name")


# windows over the edge


@pytest.mark.parametrize(("edge", "chips"), [("drop", 49), ("pad", 64), ("shift", 64)])
def test_edges_are_dropped_padded_or_shifted(src: Path, edge: str, chips: int) -> None:
    with rasterio.open(src / "optical.tif") as source:
        values = source.read()
    store = ingest(src, chip_px=9, edge=edge, min_label=0.0)
    assert len(store) == chips
    found = {(row["row"], row["col"]) for row in store.manifest.to_pylist()}
    assert max(found) == {"drop": (54, 54), "pad": (63, 63), "shift": (55, 55)}[edge]
    (arrays,) = store.take(np.arange(len(store)))
    for chip, row in zip(arrays, store.manifest.to_pylist(), strict=True):
        r, c = row["row"], row["col"]
        inside = values[:, r : r + 9]
        margins = ((0, 0), (0, 9 - inside.shape[1]), (0, 9))
        wanted = np.pad(inside, margins, mode="symmetric")[:, :, c : c + 9]
        np.testing.assert_array_equal(chip, wanted)
        inside = min(9, SIZE - r) * min(9, SIZE - c) / 81
        assert row["valid"] == pytest.approx(inside)
    # what is filled up is not data
    assert sum(store.meta.modalities[0].count) <= 2 * SIZE * SIZE or edge == "shift"


# raster smaller than a chip


def test_small_rasters_are_padded_on_request_or_skipped_with_a_reason(src: Path) -> None:
    write_scene(src / "large", left=LEFT + 5000, bands=2, size=128)
    (src / "small").mkdir()
    for name in ("optical.tif", "labels.tif"):
        (src / name).rename(src / "small" / name)
    store = ingest(src, chip_px=96, min_label=0.1)
    (reason,) = [item.reason for item in store.meta.skipped if item.path == "small"]
    assert "no chip of 96 px in 64×64 px: too small" in reason
    store = ingest(src, chip_px=96, min_label=0.1, edge="pad")
    assert "small" in set(column(store.manifest, "scene"))
    small = column(store.manifest, "scene") == "small"
    assert column(store.manifest, "valid")[small] == pytest.approx((64 / 96) ** 2)


# NaN without a tag; NaN tagged in one band


@pytest.mark.parametrize("tag", [None, np.nan])
def test_nan_is_invalid_with_and_without_a_tag(src: Path, tag: float | None) -> None:
    values = noise((2, SIZE, SIZE), 6).astype("float32")
    values[1, :8, :4] = np.nan
    write_tif(src / "optical.tif", values, nodata=tag)
    store = ingest(src)
    first = store.manifest.slice(0, 1).to_pylist()[0]
    assert first["valid"] == 0.5
    (meta,) = store.meta.modalities
    train = column(store.manifest, "split") == "train"
    (chips,) = store.take(np.flatnonzero(train))
    np.testing.assert_allclose(meta.mean, np.nanmean(chips, axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(meta.std, np.nanstd(chips, axis=(0, 2, 3)), rtol=1e-6)


def test_the_bands_own_masks_are_anded(src: Path) -> None:
    values = noise((2, SIZE, SIZE), 7, 10, 20)
    values[0, :8, :2] = 0
    values[1, :8, 6:8] = 0
    write_tif(src / "optical.tif", values, nodata=0)
    with rasterio.open(src / "optical.tif") as source:
        assert (source.dataset_mask()[:8, :8] > 0).all()
    first = ingest(src).manifest.slice(0, 1).to_pylist()[0]
    assert first["valid"] == 0.5


# wrong or undeclared nodata


def test_nodata_may_be_given_over_wrong_or_no_tags(src: Path) -> None:
    values = noise((2, SIZE, SIZE), 8, 10, 200, "uint8")
    values[:, :8, :8] = 0
    write_tif(src / "optical.tif", values, nodata=199)
    # a tag that the type cannot hold says nothing
    assert ingest(src, nodata=-9999).meta.modalities[0].nodata is None
    with pytest.raises(SettingError, match="--nodata optical=-9999 is not a value of uint8"):
        ingest(src, nodata={"optical": -9999})
    store = ingest(src, nodata={"optical": 0})
    assert store.meta.modalities[0].nodata == 0
    assert column(store.manifest, "valid")[0] == 0
    # without being told, 0 in uint8 is a value like others
    write_tif(src / "optical.tif", values)
    store = ingest(src)
    assert store.meta.modalities[0].nodata is None
    assert column(store.manifest, "valid")[0] == 1


# alpha band, .msk


def test_alpha_bands_and_msk_files_are_masks(src: Path) -> None:
    values = noise((4, SIZE, SIZE), 9, 1, 255, "uint8")
    values[3] = 255
    values[3, :8, :4] = 0
    write_tif(src / "optical.tif", values, photometric="RGB", alpha="YES")
    store = ingest(src)
    assert store.num_bands == 3
    assert column(store.manifest, "valid")[0] == 0.5
    assert note(store, "optical.tif has an alpha band")
    write_tif(src / "optical.tif", values[:3], photometric="RGB")
    mask = values[3]
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False),
        rasterio.open(src / "optical.tif", "r+") as target,
    ):
        target.write_mask(mask)
    assert (src / "optical.tif.msk").is_file()
    store = ingest(src)
    assert store.num_bands == 3
    assert column(store.manifest, "valid")[0] == 0.5
    assert not store.meta.skipped


# truncated file


def test_truncated_files_are_quarantined_and_fatal_under_strict(src: Path) -> None:
    for i, name in enumerate(("a", "b")):
        write_scene(src / name, seed=i, bands=2, size=SIZE, left=LEFT + 2000 * (i + 1))
    for name in ("optical.tif", "labels.tif"):
        (src / name).unlink()
    # the last rows alone, which no chip of 12 px needs
    cut = write_tif(
        src / "b" / "optical.tif", noise((2, SIZE, SIZE)), left=LEFT + 4000, blockysize=4
    )
    cut.write_bytes(cut.read_bytes()[:-600])
    with rasterio.open(cut) as source:
        assert source.read(window=rasterio.windows.Window(0, 0, SIZE, 60)).any()
    store = ingest(src, chip_px=12)
    assert [scene.name for scene in store.meta.scenes] == ["a"]
    (fault,) = [item for item in store.meta.skipped if item.refused]
    assert fault.path == "b"
    assert "optical.tif cannot be read" in fault.reason
    with pytest.raises(DataError, match=r"optical.tif cannot be read.*strict"):
        ingest(src, chip_px=12, strict=True, seed=1)


# .aux.xml, empty file


def test_side_files_and_empty_files_are_filtered_and_listed(src: Path) -> None:
    (src / "optical.tif.aux.xml").write_text("<PAMDataset/>")
    (src / "optical.tif.ovr").write_text("")
    (src / "notes.docx").write_text("x")
    store = ingest(src)
    assert [item.path for item in store.meta.skipped] == ["notes.docx"]
    write_scene(src / "other", bands=2, size=SIZE, left=LEFT + 5000)
    (src / "other" / "optical.tif").write_text("")
    store = ingest(src)
    (fault,) = [item for item in store.meta.skipped if item.refused]
    assert (fault.path, "cannot be read" in fault.reason) == ("other", True)


# strips


def test_strips_give_the_same_chips_as_tiles(src: Path) -> None:
    size = 4096
    values = noise((1, 64, size), 10)
    labels = stripes(64, size, 8, (1, 2))
    stores = []
    for name, how in (
        ("strips", {"blockysize": 3}),
        ("tiles", {"tiled": True, "blockxsize": 16, "blockysize": 16}),
    ):
        folder = src.parent / name
        write_tif(folder / "optical.tif", np.concatenate([values, values + 1]), **how)
        write_tif(folder / "labels.tif", labels, **how)
        stores.append(ingest_scenes(folder, src.parent / f"{name}-store", chip_px=16))
    np.testing.assert_array_equal(*(s.take(np.arange(len(s)))[0] for s in stores))
    assert note(stores[0], "optical.tif is stored in strips")
    assert not note(stores[1], "strips")


# bands, order or dtype differ between scenes


def test_bands_are_matched_by_their_declared_names(src: Path) -> None:
    values = noise((2, SIZE, SIZE), 11)
    for name, order in (("a", [0, 1]), ("b", [1, 0])):
        folder = src / name
        write_tif(folder / "optical.tif", values[order], left=LEFT + 5000 * (name == "b"))
        write_tif(
            folder / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)), left=LEFT + 5000 * (name == "b")
        )
        with rasterio.open(folder / "optical.tif", "r+") as target:
            target.descriptions = tuple(np.array(["red", "nir"])[order])
    # copies of pixels that are in one order after all: the second scene is known for one
    (src / "b" / "optical.tif").rename(src / "b" / "keep.tif")
    write_tif(src / "b" / "optical.tif", values[[1, 0]] + 1, left=LEFT + 5000)
    with rasterio.open(src / "b" / "optical.tif", "r+") as target:
        target.descriptions = ("nir", "red")
    for path in (src / "optical.tif", src / "labels.tif", src / "b" / "keep.tif"):
        path.unlink()
    store = ingest(src)
    assert store.meta.modalities[0].bands == ["red", "nir"]
    (chips,) = store.take(np.arange(len(store)))
    second = column(store.manifest, "scene") == "b"
    rows, cols = column(store.manifest, "row"), column(store.manifest, "col")
    for i in np.flatnonzero(second):
        window = values[:, rows[i] : rows[i] + 8, cols[i] : cols[i] + 8]
        np.testing.assert_array_equal(chips[i], window + 1)
    with rasterio.open(src / "b" / "optical.tif", "r+") as target:
        target.descriptions = ("nir", "swir")
    with pytest.raises(DataError, match=r"has bands \['nir', 'swir'\] but that of a has"):
        ingest(src)


def test_a_mix_of_types_is_refused(src: Path) -> None:
    write_scene(src / "other", bands=2, size=SIZE, left=LEFT + 5000)
    write_tif(
        src / "other" / "optical.tif", noise((2, SIZE, SIZE)).astype("int16"), left=LEFT + 5000
    )
    with pytest.raises(DataError, match="has type int16 but that of src has uint16"):
        ingest(src)


# palette, complex, int8, float64


def test_color_tables_are_labels_or_expanded(src: Path) -> None:
    colors = {1: (255, 0, 0, 255), 2: (0, 255, 10, 255), 3: (9, 8, 7, 255)}
    index = stripes(SIZE, SIZE, 4, (1, 2, 2, 1))
    index[:8, :4] = 3
    write_tif(src / "scan.tif", index, nodata=3)
    with rasterio.open(src / "scan.tif", "r+") as target:
        target.write_colormap(1, colors)
    # beside other modalities it is a map of categories
    store = ingest(src)
    assert [(item.path, item.refused) for item in store.meta.skipped] == [("scan.tif", False)]
    # named as a modality it is an image
    store = ingest(src, modalities=["optical=opt*", "scan=scan*"])
    assert store.meta.modalities[1].bands == ["red", "green", "blue"]
    wanted = np.moveaxis(np.array([colors.get(i, (0,) * 4) for i in range(4)])[index], -1, 0)
    np.testing.assert_array_equal(mosaic(store, 1), wanted[:3])
    assert column(store.manifest, "valid")[0] == 0.5
    assert note(store, "scan.tif has a color table")
    # and as labels it is read as codes
    store = ingest(src, labels="scan.tif", modalities=["optical=opt*"])
    assert store.meta.class_codes == [1, 2]


def test_images_with_color_tables_become_rgb(tmp_path: Path) -> None:
    for i in range(4):
        path = write_tif(
            tmp_path / "images" / "a" / f"{i}.tif", np.full((8, 8), i + 1, np.uint8), crs=None
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path, "r+") as target:
                target.write_colormap(1, {i + 1: (10 * i, 20, 30, 255)})
    store = ingest_class_folders(tmp_path / "images", tmp_path / "store")
    (chips,) = store.take([2])
    assert chips[0, :, 0, 0].tolist() == [20, 20, 30]
    assert note(store, "4 images have a color table")


@pytest.mark.parametrize("dtype", ["complex64", "complex_int16"])
@pytest.mark.parametrize("mode", ["amp", "db"])
def test_complex_values_become_real_on_request(src: Path, dtype: str, mode: str) -> None:
    values = (noise((SIZE, SIZE), 12) + 1j * noise((SIZE, SIZE), 13)).astype("complex64")
    path = src / "optical.tif"
    path.unlink()
    profile = {"count": 1, "height": SIZE, "width": SIZE, "dtype": dtype, "crs": UTM}
    with rasterio.open(
        path, "w", driver="GTiff", transform=Affine(10, 0, LEFT, 0, -10, TOP), **profile
    ) as target:
        target.write(values, 1)
    with pytest.raises(
        DataError, match=rf"optical.tif is of type {dtype}.*choose --complex amp or --complex db"
    ):
        ingest(src)
    store = ingest(src, complex_mode=mode)
    amplitude = np.abs(values)
    wanted = amplitude if mode == "amp" else 20 * np.log10(amplitude)
    np.testing.assert_allclose(mosaic(store)[0], wanted, rtol=1e-5)
    assert store.meta.modalities[0].dtype == "float32"
    assert note(store, "optical.tif is complex, stored as")
    with pytest.raises(SettingError, match="complex is 'phase': choose amp or db"):
        ingest(src, complex_mode="phase")


def test_int8_is_kept_and_float64_becomes_float32(src: Path) -> None:
    small = noise((2, SIZE, SIZE), 14, -100, 100, "int8")
    write_tif(src / "optical.tif", small)
    store = ingest(src)
    assert store.meta.modalities[0].dtype == "int8"
    np.testing.assert_array_equal(mosaic(store), small)
    wide = np.random.default_rng(0).normal(size=(2, SIZE, SIZE))
    wide[0, :8, :4] = -1.7976931348623157e308
    write_tif(src / "optical.tif", wide, nodata=-1.7976931348623157e308)
    store = ingest(src)
    assert store.meta.modalities[0].dtype == "float32"
    np.testing.assert_array_equal(mosaic(store)[1], wide[1].astype("float32"))
    assert not np.isfinite(mosaic(store)[0, :8, :4]).any()
    assert column(store.manifest, "valid")[0] == 0.5
    assert note(store, "optical.tif is float64, stored as float32")


# scale/offset tags


def test_scale_and_offset_are_recorded_and_not_applied(src: Path) -> None:
    with rasterio.open(src / "optical.tif", "r+") as target:
        values = target.read()
        target.scales, target.offsets = (0.5, 0.25), (0.0, -10.0)
    store = ingest(src)
    (meta,) = store.meta.modalities
    assert (meta.scale, meta.offset) == ([0.5, 0.25], [0.0, -10.0])
    np.testing.assert_array_equal(mosaic(store), values)
    write_scene(src / "other", bands=2, size=SIZE, left=LEFT + 5000)
    with pytest.raises(DataError, match="of scene other has scale and offset"):
        ingest(src)


# Sentinel-2 processing baseline 04.00


METADATA = """<?xml version="1.0"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/">
<PROCESSING_BASELINE>{number}</PROCESSING_BASELINE>
<BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE>
{offsets}
</n1:Level-2A_User_Product>"""


def write_product(folder: Path, number: str, offset: int | None, left: float = LEFT) -> None:
    for i, band in enumerate(("B02", "B03", "B8A")):
        stem = f"T33UUP_20220702T100611_{band}"
        write_tif(folder / f"{stem}.tif", noise((SIZE, SIZE), int(left) + i), left=left)
    write_tif(folder / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)), left=left)
    offsets = (
        ""
        if offset is None
        else "".join(f'<BOA_ADD_OFFSET band_id="{i}">{offset}</BOA_ADD_OFFSET>' for i in range(13))
    )
    (folder / "MTD_MSIL2A.xml").write_text(METADATA.format(number=number, offsets=offsets))


def test_sentinel_2_offsets_are_read_and_baselines_not_mixed(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_product(src / "new", "04.00", -1000)
    store = ingest(src)
    (meta,) = store.meta.modalities
    assert (meta.name, meta.bands) == ("s2", ["B02", "B03", "B8A"])
    assert meta.scale == [1e-4] * 3
    assert meta.offset == pytest.approx([-0.1] * 3)
    assert store.meta.scenes[0].date == "2022-07-02"
    write_product(src / "old", "03.01", None, LEFT + 5000)
    with pytest.raises(DataError, match=r"old is of processing baseline 03.01 but new of"):
        ingest(src)


# label above 255


def test_large_codes_are_not_clamped(src: Path) -> None:
    (src / "labels.tif").unlink()
    write_polygons(src / "labels.gpkg", [((0, 0, 32, 64), 70_001), ((32, 0, 64, 64), 300)])
    store = ingest(src, label_column="name")
    assert store.meta.class_codes == [300, 70_001]
    (src / "labels.gpkg").unlink()
    write_polygons(src / "labels.gpkg", [((0, 0, 32, 64), 2**40), ((32, 0, 64, 64), 2**40 + 1)])
    assert ingest(src, label_column="name").meta.class_codes == [2**40, 2**40 + 1]
    (src / "labels.gpkg").unlink()
    write_tif(src / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)).astype("uint16") * 400)
    assert ingest(src).meta.class_codes == [400, 800]


# vector CRS differs from the grid


def test_polygons_of_another_crs_are_reprojected(src: Path) -> None:
    (src / "labels.tif").unlink()
    boxes = [((0, 0, 24, 64), "a"), ((24, 0, 64, 64), "b")]
    write_polygons(src / "labels.gpkg", boxes, crs="EPSG:4326")
    store = ingest(src, label_column="name")
    assert store.classes == ["a", "b"]
    labels = column(store.manifest, "label").reshape(8, 8)
    assert (labels[:, :3] == 0).all()
    assert (labels[:, 3:] == 1).all()
    assert note(store, "labels.gpkg brought to EPSG:32633")


# overlapping polygons


def test_overlaps_are_settled_by_priority(src: Path) -> None:
    (src / "labels.tif").unlink()
    boxes = [((0, 0, 64, 64), "field"), ((16, 16, 48, 48), "pond"), ((0, 0, 8, 64), "road")]
    for order in ([0, 1, 2], [1, 0, 2]):
        write_polygons(src / "labels.gpkg", [boxes[i] for i in order])
        store = ingest(src, label_column="name", priority=["road", "pond", "field"])
        wanted = np.zeros((8, 8), int)
        wanted[2:6, 2:6] = 1
        wanted[:, 0] = 2
        np.testing.assert_array_equal(column(store.manifest, "label").reshape(8, 8), wanted)
        store = ingest(src, label_column="name")
        middle = column(store.manifest, "label").reshape(8, 8)[3, 3]
        assert store.classes[middle] == ("pond" if order[0] == 0 else "field")
        assert note(store, "overlap one of another class, the later wins")
    with pytest.raises(SettingError, match="--priority 'lake' is not a class"):
        ingest(src, label_column="name", priority=["lake"])


def test_all_touched_is_off_unless_asked_for(src: Path) -> None:
    (src / "labels.tif").unlink()
    # covers under half of the pixels of its edge
    write_polygons(src / "labels.gpkg", [((8.6, 8.6, 23.4, 23.4), "a"), ((40, 40, 64, 64), "b")])
    assert labeled_pixels(src) == 14 * 14 + 24 * 24
    assert labeled_pixels(src, all_touched=True) == 16 * 16 + 24 * 24


def labeled_pixels(src: Path, **options: Any) -> int:
    store = ingest_scenes(
        src, src.parent / "pixels", patch_px=1, label_column="name", overwrite=True, **options
    )
    return len(store)


# unknown class, empty class, empty scene


def test_unknown_classes_are_an_error_or_ignored(src: Path) -> None:
    with pytest.raises(DataError, match=r"labels.tif has label 3, which is not in .* \(1, 2\)"):
        ingest(src, classes={1: "a", 2: "b"})
    store = ingest(src, classes={1: "a", 2: "b"}, unknown="ignore")
    assert len(store) == 48
    assert store.classes == ["a", "b"]
    (src / "labels.tif").unlink()
    write_polygons(src / "labels.gpkg", [((0, 0, 32, 64), "a"), ((32, 0, 64, 64), "z")])
    with pytest.raises(DataError, match=r"has the class 'z', which is not in .*\(a, b\)"):
        ingest(src, label_column="name", classes={1: "a", 2: "b"})
    store = ingest(src, label_column="name", classes={1: "a", 2: "b"}, unknown="ignore")
    assert len(store) == 32


def test_empty_classes_count_zero_with_a_warning(src: Path) -> None:
    store = ingest(src, classes={1: "a", 2: "b", 3: "c", 9: "rare"})
    assert store.classes == ["a", "b", "c", "rare"]
    assert store.meta.splits.class_counts["train"][3] == 0
    assert any("rare" in text for text in store.meta.splits.notes)


def test_scenes_without_labels_are_skipped_with_a_reason(src: Path) -> None:
    write_scene(src / "empty", bands=2, size=SIZE, left=LEFT + 5000)
    write_tif(
        src / "empty" / "labels.tif", np.zeros((SIZE, SIZE), np.uint8), nodata=0, left=LEFT + 5000
    )
    store = ingest(src)
    (fault,) = [item for item in store.meta.skipped if item.refused]
    assert fault.path == "empty"
    assert "no window has enough valid and labeled pixels" in fault.reason


# duplicated scenes


def test_duplicated_scenes_are_found_by_content(src: Path) -> None:
    for name in ("a", "b"):
        (src / name).mkdir()
        for file in ("optical.tif", "labels.tif"):
            shutil.copy(src / file, src / name / file)
    for file in ("optical.tif", "labels.tif"):
        (src / file).unlink()
    store = ingest(src)
    assert [scene.name for scene in store.meta.scenes] == ["a"]
    assert [(i.path, i.reason) for i in store.meta.skipped] == [("b", "the same pixels as scene a")]
    assert len(store) == 64


# zip paths


def test_zip_files_are_read_by_any_of_their_paths(
    src: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rasterio.open(src / "optical.tif") as source:
        values = source.read()
    with zipfile.ZipFile(src.parent / "archive.zip", "w") as archive:
        for path in src.iterdir():
            archive.write(path, f"deep/{path.name}")
        archive.writestr("deep/classes.json", '{"1": "a", "2": "b", "3": "c"}')
    monkeypatch.chdir(src.parent)
    home = src.parent
    for i, name in enumerate(
        (
            "archive.zip",
            str(home / "archive.zip"),
            "zip://archive.zip!deep",
            f"zip://{home}/archive.zip!/deep",
            "/vsizip/archive.zip/deep",
            f"/vsizip/{home}/archive.zip/deep",
            f"/vsizip/{{{home}/archive.zip}}/deep",
        )
    ):
        store = ingest_scenes(name, home / f"store-{i}", chip_px=8)
        np.testing.assert_array_equal(mosaic(store), values)
        assert store.classes == (["class 1", "class 2", "class 3"] if i < 2 else ["a", "b", "c"])
    (home / "archive.zip").write_bytes((home / "archive.zip").read_bytes()[:2000])
    with pytest.raises(DataError, match=r"archive.zip is neither a folder nor a zip file"):
        ingest_scenes("archive.zip", home / "broken", chip_px=8)


# one handle shared by workers


def test_every_process_opens_its_own_files_and_the_store_is_the_same(src: Path) -> None:
    for i in range(3):
        write_scene(src / f"scene-{i}", seed=i + 1, bands=2, size=SIZE, left=LEFT + 5000 * (i + 1))
    one = ingest_scenes(src, src.parent / "one", chip_px=8, processes=1)
    three = ingest_scenes(src, src.parent / "three", chip_px=8, processes=3)
    assert len(one) == 64 * 4
    for file in sorted(one.path.iterdir()):
        assert file.read_bytes() == (three.path / file.name).read_bytes(), file.name


# nothing beside the site's own files


def test_nothing_is_written_beside_the_site_s_files(src: Path) -> None:
    for path in (src / "optical.tif", src / "labels.tif"):
        with rasterio.open(path, "r+") as target:
            target.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * (target.count - 1)]
    before = {path: path.stat().st_mtime_ns for path in src.iterdir()}
    ingest(src)
    assert {path: path.stat().st_mtime_ns for path in src.iterdir()} == before


TEXTS = {
    "nested": (b"a = " + b"[" * 100_000, b'{"1": ' * 100_000, "nested too deeply"),
    "not text": (b"\xff\xfa", b"\xff\xfa", "not in UTF-8 .*: save it as UTF-8"),
    "not of the format": (b"a = = 1", b"{", "it is not"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_descriptions_and_class_lists_from_others_are_refused(kind: str, src: Path) -> None:
    description, classes, reason = TEXTS[kind]
    (src / "scenes.toml").write_bytes(description)
    with pytest.raises(DataError, match=rf"scenes.toml cannot be used: .*{reason}"):
        ingest(src / "scenes.toml")
    (src.parent / "classes.json").write_bytes(classes)
    with pytest.raises(DataError, match=rf"classes.json .*{reason}"):
        ingest(src, classes=src.parent / "classes.json")


@pytest.mark.parametrize(
    "codes", ['{"9999999999999999999": "a"}', '{"1": "\\ud800"}', "[1]", '{"a": 1}']
)
def test_codes_and_names_that_cannot_be_are_refused(codes: str, src: Path) -> None:
    (src / "classes.json").write_text(codes)
    with pytest.raises(DataError, match=r"classes.json is not"):
        ingest(src)


@pytest.mark.parametrize(
    "table", ['file,label\n"' + "x" * 200_000, "file,label\na\0,b\n", "file,label\na\n"]
)
def test_tables_that_are_broken_are_refused(table: str, src: Path) -> None:
    (src / "list.csv").write_text(table)
    with pytest.raises(DataError, match=r"list.csv.*: (fill it in|correct the list)") as caught:
        ingest_class_folders(src / "list.csv", src.parent / "store")
    assert "\n" not in str(caught.value)


def test_an_archive_whose_note_is_encrypted_or_huge_is_refused(src: Path) -> None:
    path = src.parent / "src.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("optical.tif", "labels.tif"):
            archive.write(src / name, name)
        archive.writestr("archive.json", b" " * 2**27)  # 130 kB in the file
    with pytest.raises(DataError, match=r"archive.json cannot be read: it has 134217728 bytes"):
        ingest(path)
    content = bytearray(path.read_bytes())
    at = content.rindex(b"archive.json") - 46  # its entry in the list of files
    content[at + 8] |= 1
    content[at + 24 : at + 28] = b"\1\0\0\0"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"archive.json cannot be read: .*encrypted"):
        ingest(path)


@pytest.mark.parametrize("mode", ["amp", "db"])
@pytest.mark.parametrize("by_points", [False, True])
def test_amplitudes_are_taken_before_a_warp(src: Path, mode: str, by_points: bool) -> None:
    rows, cols = np.mgrid[:SIZE, :SIZE]
    # of one amplitude, but phases that cancel out in the mean of two pixels
    values = (10 * np.exp(1j * (2.0 * cols + rows))).astype("complex64")
    values[:8, :8] = -5
    if by_points:
        points = [
            GroundControlPoint(r, c, LEFT + 10 * c + 4, TOP - 10 * r - 3)
            for r, c in [(0, 0), (0, SIZE), (SIZE, 0), (SIZE, SIZE)]
        ]
        write_gcps(src / "sar.tif", values[None], points)
        with rasterio.open(src / "sar.tif", "r+") as target:
            target.nodata = -5
    else:
        write_tif(src / "sar.tif", values[None], left=LEFT + 4, top=TOP - 3, nodata=-5)
    store = ingest(src, complex_mode=mode, min_label=0.0)
    sar = mosaic(store, 1)[0, 10:-2, 10:-2]
    np.testing.assert_allclose(sar, 10 if mode == "amp" else 20, rtol=1e-4)
    valid = column(store.manifest, "valid").reshape(8, 8)
    assert valid[0, 0] == 0
    assert (valid[1:-1, 1:-1] > 0.7).all()
