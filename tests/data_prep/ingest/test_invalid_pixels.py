"""Which pixels are data: nodata values of all kinds, masks, and the validity layer of a store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import torch

from clients.loader import SplitLoader
from data_prep.common_statistics import site_sums
from data_prep.data_page import write_data_page
from data_prep.dataset import open_data
from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.ingest.scenes import ingest_scenes
from data_prep.manifest import column
from data_prep.partition import partition
from data_prep.rasters import read_header, usable_nodata
from data_prep.store import Store
from data_prep.validity import unpack
from fl_app.data_loaders import normalizations
from rsdgc.errors import DataError
from tests.data_prep.archives import LEFT, noise, stripes, write_tif

SIZE = 32
FLOAT32_LOWEST = float(np.finfo(np.float32).min)


def ingest(src: Path, **options: Any) -> Store:
    defaults = {"chip_px": 8, "buffer_px": 0, "test_share": 0.0, "min_valid": 0.0}
    return ingest_scenes(src, src.parent / "store", overwrite=True, **(defaults | options))


def write_labels(folder: Path, **place: Any) -> None:
    write_tif(folder / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)), **place)


def two_scenes(src: Path, values: list[np.ndarray], nodatas: tuple[float | None, ...]) -> Path:
    for number, (array, nodata) in enumerate(zip(values, nodatas, strict=True)):
        folder, place = src / f"s{number}", {"left": LEFT + 2000 * number}
        write_tif(folder / "dem.tif", array, nodata=nodata, **place)
        write_labels(folder, **place)
    return src


def masks_of(store: Store) -> np.ndarray:
    chips = np.arange(len(store))
    return store.valid(chips, store.take(chips))[0]


def normalized(store: Store) -> np.ndarray:
    """What training sees of all chips; 0 is the mean, and stands for no data."""
    chips = np.arange(len(store))
    loader = SplitLoader(
        store,
        chips,
        column(store.manifest, "label"),
        normalizations(store.meta.modalities),
        torch.device("cpu"),
    )
    streamed = SplitLoader(
        store,
        chips,
        column(store.manifest, "label"),
        normalizations(store.meta.modalities),
        torch.device("cpu"),
        cache_bytes=0,
    )
    (cached,) = [x[0].numpy() for x, _ in loader.batches(len(store), None)]
    (read,) = [x[0].numpy() for x, _ in streamed.batches(len(store), None)]
    np.testing.assert_array_equal(cached, read)
    return np.asarray(cached)


@pytest.mark.parametrize(
    ("dtype", "nodatas"), [("int16", (0, -9999)), ("uint8", (255, None)), ("uint32", (7, 9))]
)
def test_scenes_of_several_nodata_values_keep_each_other_s_data(
    tmp_path: Path, dtype: str, nodatas: tuple[int, int | None]
) -> None:
    values = [noise((SIZE, SIZE), seed, 10, 200, dtype) for seed in (1, 2)]
    values[0][:5, :11], values[1][:5, :11] = nodatas[0], nodatas[1] or 0
    values[1][20:, 20:] = nodatas[0]  # data of this scene
    src = two_scenes(tmp_path / "src", values, nodatas)
    store = ingest(src)
    meta = store.meta.modalities[0]
    assert (meta.nodata, store.meta.schema_version, meta.dtype) == (None, 3, dtype)
    assert [shard.file for shard in meta.validity] == ["dem.valid-000.npy"]
    valid = [np.ones((SIZE, SIZE), bool), np.ones((SIZE, SIZE), bool)]
    valid[0][:5, :11] = False
    if nodatas[1] is not None:
        valid[1][:5, :11] = False
    expected = np.concatenate(
        [v.reshape(4, 8, 4, 8).swapaxes(1, 2).reshape(16, 1, 8, 8) for v in valid]
    )
    np.testing.assert_array_equal(masks_of(store), expected)
    data = np.concatenate([v[mask] for v, mask in zip(values, valid, strict=True)]).astype(float)
    assert meta.count == [data.size]
    assert meta.mean == pytest.approx([data.mean()])
    assert meta.std == pytest.approx([data.std()])
    np.testing.assert_array_equal(normalized(store) == 0, ~expected)
    # a partition adds the same pixels up, and the page is drawn
    sums = partition(store.path, tmp_path / "data", scheme="scene", sites=2)
    counts = [site_sums(sums, site).modalities["dem"].count.tolist() for site in sums.sites]
    assert sorted(counts) == sorted([[float(mask.sum())] for mask in valid])
    page = write_data_page(tmp_path / "data", tmp_path / "page.html")
    assert "validity layer" in page.read_text(encoding="utf-8")


def test_floats_of_several_nodata_values_become_nan(tmp_path: Path) -> None:
    values = [noise((SIZE, SIZE), seed, dtype="float32") for seed in (1, 2)]
    values[0][:3], values[1][:3], values[1][10] = -9999, np.nan, -9999
    store = ingest(two_scenes(tmp_path / "src", values, (-9999, None)))
    meta = store.meta.modalities[0]
    assert (meta.nodata, meta.validity, store.meta.schema_version) == (None, [], 2)
    assert meta.count == [2 * (SIZE - 3) * SIZE]
    assert meta.min == [-9999.0]


def test_stores_whose_values_say_it_have_no_layer(tmp_path: Path) -> None:
    values = [noise((SIZE, SIZE), seed, dtype="int16") for seed in (1, 2)]
    values[0][:3] = -1
    for nodatas in ((-1, -1), (None, None)):
        store = ingest(two_scenes(tmp_path / "src", values, nodatas))
        text = (store.path / "meta.json").read_text()
        assert '"schema_version": 2' in text
        assert "validity" not in text


@pytest.mark.parametrize("kind", ["msk", "alpha", "warp", "pad"])
def test_pixels_that_no_value_marks_are_in_the_layer(tmp_path: Path, kind: str) -> None:
    src = tmp_path / "src"
    options: dict[str, Any] = {}
    values = noise((3, SIZE, SIZE), 3, 0, 256, "uint8")
    expected = np.ones((SIZE, SIZE), bool)
    rgba = {"photometric": "rgb", "alpha": "yes"}
    if kind == "alpha":
        expected[:, :7] = False
        alpha = np.where(expected, 255, 0).astype(np.uint8)
        write_tif(src / "optical.tif", np.concatenate([values, alpha[None]]), **rgba)
    elif kind == "msk":
        expected[9:13] = False
        write_tif(src / "optical.tif", values)
        with rasterio.open(src / "optical.tif", "r+") as target:
            target.write_mask(expected)
    else:
        write_tif(src / "optical.tif", values, nodata=0 if kind == "warp" else None)
    if kind == "warp":  # covers all but the first rows
        write_tif(src / "dem.tif", noise((SIZE, SIZE), 4, 1, 99, "uint16"), top=5_000_000 - 100)
        expected[:10] = False
    if kind == "pad":
        options = {"chip_px": 24, "edge": "pad", "min_label": 0.1}
        expected = np.pad(expected, ((0, 16), (0, 16)))
    write_labels(src)
    store = ingest(src, **options)
    number = [m.name for m in store.meta.modalities].index("dem" if kind == "warp" else "optical")
    chips = np.arange(len(store))
    bits = store.take_validity(chips)[number]
    assert bits is not None
    side = options.get("chip_px", 8)
    mask = unpack(bits, side)
    for row, col, chip in zip(
        column(store.manifest, "row"), column(store.manifest, "col"), mask, strict=True
    ):
        window = expected[row : row + side, col : col + side]
        assert (chip == window[: chip.shape[1]]).all()
    assert store.meta.modalities[number].count[0] == mask[:, 0].sum()


def test_pixel_mode_has_the_layer(tmp_path: Path) -> None:
    src = tmp_path / "src"
    values = noise((11, SIZE, SIZE), 5, 1, 99, "uint16")
    write_tif(src / "cube.tif", values)
    expected = np.ones((SIZE, SIZE), bool)
    expected[4:6, 4:30] = False
    with rasterio.open(src / "cube.tif", "r+") as target:
        target.write_mask(expected)
    write_labels(src)
    store = ingest(src, patch_px=5, chip_px=64)
    assert store.meta.modalities[0].validity
    rows, cols = column(store.manifest, "row"), column(store.manifest, "col")
    padded = np.pad(expected, 2, mode="reflect")
    masks = masks_of(store)
    for row, col, mask in zip(rows[::37], cols[::37], masks[::37], strict=True):
        window = padded[row : row + 5, col : col + 5]
        np.testing.assert_array_equal(mask, np.repeat(window[None], 11, axis=0))
    train = column(store.manifest, "split") == "train"
    assert store.meta.modalities[0].count == [int(train.sum())] * 11
    np.testing.assert_array_equal(normalized(store)[masks == 0], 0)


def test_class_folders_have_the_layer(tmp_path: Path) -> None:
    for i in range(8):
        values = noise((3, 8, 8), i, 0, 256, "uint8")
        alpha = np.full((1, 8, 8), 255, np.uint8)
        alpha[0, 0, : i % 2] = 0
        write_tif(
            tmp_path / "src" / "ab"[i // 4] / f"{i}.tif",
            np.concatenate([values, alpha]),
            crs=None,
            photometric="rgb",
            alpha="yes",
        )
    store = ingest_class_folders(tmp_path / "src", tmp_path / "store", test_share=0.0)
    assert store.meta.schema_version == 3
    masks = masks_of(store)
    assert (~masks).sum(axis=(1, 2, 3)).tolist() == [0, 3] * 4
    assert store.meta.modalities[0].count == [8 * 64 - 4] * 3


@pytest.mark.parametrize(
    ("dtype", "declared", "written"),
    [
        ("float32", -3.4028e38, FLOAT32_LOWEST),
        ("float32", -3.4028235e38, FLOAT32_LOWEST),
        ("float64", FLOAT32_LOWEST, -3.4e38),
        ("float64", -1.7976931348623157e308, -1.7976931348623157e308),
        ("float32", 9.969209968386869e36, 9.96921e36),
        ("float64", -9999.9, float(np.float32(-9999.9))),
    ],
)
def test_fills_are_no_data_however_they_are_written(
    tmp_path: Path, dtype: str, declared: float, written: float
) -> None:
    src = tmp_path / "src"
    values = noise((SIZE, SIZE), 1, dtype=dtype)
    values[:7, :7] = written
    write_tif(src / "dem.tif", values, nodata=declared)
    write_tif(src / "grid.tif", noise((2, SIZE, SIZE), 2), left=LEFT + 3)  # the other is warped
    write_labels(src)
    store = ingest(src)
    dem = next(m for m in store.meta.modalities if m.name == "dem")
    assert 0 < dem.min[0] <= dem.max[0] < 1000
    assert not any("beyond 1e30" in note for note in store.meta.notes)


@pytest.mark.parametrize("nodatas", [(0, 65535), (3, None)])
def test_a_warp_keeps_the_bands_nodata_values_apart(
    tmp_path: Path, nodatas: tuple[int, int | None]
) -> None:
    src = tmp_path / "src"
    folder = src / "raw"
    for number, nodata in enumerate(nodatas, start=1):
        values = np.full((SIZE, SIZE), 1000, np.uint16)
        values[8:16] = 1000 if nodata is None else nodata
        write_tif(folder / f"{number}.bin", values, nodata=nodata)
    bands = [rasterio.open(folder / f"{number}.bin") for number in (1, 2)]
    with bands[0] as first, bands[1] as second:
        rasterio.shutil.copy(first, src / "a.vrt", driver="VRT")
        rasterio.shutil.copy(second, folder / "b.vrt", driver="VRT")
    text, other = (src / "a.vrt").read_text(), (folder / "b.vrt").read_text()
    start, end = other.index("<VRTRasterBand"), other.index("</VRTDataset>")
    band = other[start:end].replace('band="1"', 'band="2"').replace(">2.bin", ">raw/2.bin")
    (src / "a.vrt").write_text(text.replace("</VRTDataset>", band + "</VRTDataset>"))
    write_tif(src / "grid.tif", noise((3, SIZE, SIZE), 2), left=LEFT + 3)
    write_labels(src)
    store = ingest(src)
    meta = next(m for m in store.meta.modalities if m.name == "a")
    assert (meta.min, meta.max) == ([1000.0, 1000.0], [1000.0, 1000.0])
    assert meta.count[0] < SIZE * 25
    assert (meta.count[1] > meta.count[0]) == (nodatas[1] is None)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("float64", 1e39),
        ("float64", -np.inf),
        ("float64", 1e300),
        ("float32", 1e38),
        ("float32", FLOAT32_LOWEST),
    ],
)
def test_values_that_are_no_measurements_are_no_data_and_noted(
    tmp_path: Path, dtype: str, value: float
) -> None:
    src = tmp_path / "src"
    values = noise((2, SIZE, SIZE), 1, dtype=dtype)
    values[1, 3, 4] = value
    write_tif(src / "dem.tif", values)
    write_labels(src)
    store = ingest(src)
    assert store.meta.modalities[0].count == [SIZE**2, SIZE**2 - 1]
    noted = [note for note in store.meta.notes if f"such as {value:g}" in note]
    assert len(noted) == np.isfinite(value)


def test_the_logarithm_of_zero_is_no_data(tmp_path: Path) -> None:
    src = tmp_path / "src"
    values = noise((SIZE, SIZE), 1).astype(np.complex64)
    values[0, :5] = 0
    write_tif(src / "sar.tif", values)
    write_labels(src)
    store = ingest(src, complex_mode="db")
    assert store.meta.modalities[0].count == [SIZE**2 - 5]


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("int64", 2**63 - 1), ("int64", -(2**63)), ("uint64", 2**64 - 1), ("int64", 2**53 + 1)],
)
def test_nodata_of_64_bits_is_exact(tmp_path: Path, dtype: str, nodata: int) -> None:
    src = tmp_path / "src"
    values = noise((SIZE, SIZE), 1, dtype=dtype)
    values[:2] = nodata
    values[2] = nodata - 5000 if nodata > 0 else nodata + 5000
    write_tif(src / "raw" / "a.tif", values)
    with rasterio.open(src / "raw" / "a.tif") as source:
        rasterio.shutil.copy(source, src / "dem.vrt", driver="VRT")
    text = (src / "dem.vrt").read_text()
    tag = f"<NoDataValue>{nodata}</NoDataValue><ColorInterp>"
    (src / "dem.vrt").write_text(text.replace("<ColorInterp>", tag, 1))
    (src / "raw" / "a.tif").rename(src / "raw" / "a.bin")
    (src / "dem.vrt").write_text((src / "dem.vrt").read_text().replace("raw/a.tif", "raw/a.bin"))
    write_labels(src)
    assert read_header(src / "dem.vrt").nodatas == (nodata,)
    store = ingest(src)
    meta = store.meta.modalities[0]
    assert (meta.nodata, meta.count) == (nodata, [(SIZE - 2) * SIZE])
    assert json.loads((store.path / "meta.json").read_text())["modalities"][0]["nodata"] == nodata
    (invalid,) = np.unique((normalized(store) == 0).sum(axis=(1, 2, 3))[:4])
    assert invalid == 16


def test_nodata_that_a_type_cannot_hold_is_none() -> None:
    assert usable_nodata(256, "uint8") is None
    assert usable_nodata(1.5, "int16") is None
    assert usable_nodata(-1e39, "float32") is None
    assert usable_nodata(-3.4029e38, "float32") == FLOAT32_LOWEST
    assert usable_nodata(2**63, "int64") is None
    assert type(usable_nodata(0, "uint8")) is float


def test_layers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    values = [noise((SIZE, SIZE), seed, dtype="int16") for seed in (1, 2)]
    values[0][:3] = -1
    store = ingest(two_scenes(tmp_path / "src", values, (-1, None)))
    path = store.path / "meta.json"
    original = json.loads(path.read_text())
    layer = store.path / "dem.valid-000.npy"
    bits = np.load(layer)
    np.save(layer, np.repeat(bits, 2, axis=-1))
    with pytest.raises(DataError, match="the validity layer of modality dem holds"):
        open_data(store.path)
    layer.unlink()
    with pytest.raises(DataError, match=r"dem.valid-000.npy is missing"):
        open_data(store.path)
    np.save(layer, bits)
    path.write_text(json.dumps(original | {"schema_version": 2}))
    with pytest.raises(DataError, match="has a validity layer, which version 2 does not have"):
        open_data(store.path)


@pytest.mark.parametrize(("dtype", "nodata"), [("int64", -(2**63)), ("int64", -(2**62))])
@pytest.mark.parametrize("bigtiff", ["YES", "NO"])
def test_nodata_of_64_bits_that_rasterio_wrote_as_a_float(
    tmp_path: Path, dtype: str, nodata: int, bigtiff: str
) -> None:
    src = tmp_path / "src"
    values = noise((1, SIZE, SIZE), dtype=dtype) + 2**60
    values[:, :8, :8] = nodata
    values[:, 8, 8] = int(str(nodata)[:2])  # what GDAL reads of -9.22e+18
    write_tif(src / "dem.tif", values, nodata=nodata, bigtiff=bigtiff)
    write_labels(src)
    store = ingest(src)
    assert store.meta.modalities[0].nodata == nodata
    valid = column(store.manifest, "valid")
    assert valid[0] == 0
    assert (valid[1:] == 1).all()
