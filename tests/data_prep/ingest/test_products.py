"""Products of known sensors, named as their providers name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.ingest.products import by_product_reason, is_quality, product_band
from data_prep.ingest.scenes import ingest_scenes
from data_prep.ingest.sensors import date_of, split_band
from data_prep.manifest import column
from data_prep.store import Store
from rsdgc.errors import DataError
from tests.data_prep.archives import noise, stripes, write_tif

SIZE = 32
LANDSAT = ("LC08_L2SP_193026_20200405_20200822_02_T1", "LC09_L2SP_192027_20230512_20230514_02_T2")
HLS = ("HLS.L30.T33UUP.2021152T100011.v2.0", "HLS.L30.T32UQU.2022007T101532.v2.0")


def ingest(src: Path, **options: Any) -> Store:
    return ingest_scenes(src, src.parent / "store", overwrite=True, **({"chip_px": 8} | options))


def write_landsat(folder: Path, product: str, seed: int, left: float) -> None:
    """Two reflectance bands, one thermal band, and quality files: a corner of fill and of cloud."""
    for i, band in enumerate(("SR_B4", "SR_B5", "ST_B10")):
        values = noise((SIZE, SIZE), seed + i)
        write_tif(folder / f"{product}_{band}.TIF", values, nodata=0, left=left)
    quality = np.full((SIZE, SIZE), 21824, "uint16")
    quality[:8, :8] = 1
    quality[:8, 8:16] |= 1 << 3
    write_tif(folder / f"{product}_QA_PIXEL.TIF", quality, left=left)
    for name in ("QA_RADSAT", "SR_QA_AEROSOL", "ST_EMIS"):
        write_tif(folder / f"{product}_{name}.TIF", noise((SIZE, SIZE)), left=left)
    (folder / f"{product}_MTL.txt").write_text("GROUP = LANDSAT_METADATA_FILE")
    write_tif(folder / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)), left=left)


def test_two_landsat_products_are_alike_and_their_fill_is_never_data(tmp_path: Path) -> None:
    for i, product in enumerate(LANDSAT):
        write_landsat(tmp_path / "src" / product, product, 10 * i, 500_000 + 9_000 * i)
    store = ingest(tmp_path / "src", min_valid=0.0)
    assert {m.name: m.bands for m in store.meta.modalities} == {
        "landsat_oli_sr": ["B4", "B5"],
        "landsat_oli_st": ["B10"],
    }
    assert [scene.date for scene in store.meta.scenes] == ["2020-04-05", "2023-05-12"]
    reasons = {Path(item.path).name: item.reason for item in store.meta.skipped}
    assert "a Landsat by-product" in reasons[f"{LANDSAT[0]}_SR_QA_AEROSOL.TIF"]
    first = column(store.manifest, "valid").reshape(2, 16)[:, :3]
    assert first.tolist() == [[0, 1, 1]] * 2
    clear = ingest(tmp_path / "src", min_valid=0.0, mask_clouds=True)
    assert column(clear.manifest, "valid").reshape(2, 16)[:, :3].tolist() == [[0, 0, 1]] * 2


def test_hls_has_a_band_of_each_name_a_date_and_a_cloud_mask(tmp_path: Path) -> None:
    for i, product in enumerate(HLS):
        folder, place = tmp_path / "src" / f"tile-{i}", {"left": 500_000 + 9_000 * i}
        for j, band in enumerate(("B02", "B03", "B10")):
            values = noise((SIZE, SIZE), 10 * i + j, dtype="int16")
            write_tif(folder / f"{product}.{band}.tif", values, nodata=-9999, **place)
        flags = np.zeros((SIZE, SIZE), "uint8")
        flags[:8, :8] = 1 << 1
        write_tif(folder / f"{product}.Fmask.tif", flags, nodata=255, **place)
        write_tif(folder / f"{product}.SZA.tif", noise((SIZE, SIZE)), **place)
        write_tif(folder / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)), **place)
    store = ingest(tmp_path / "src", mask_clouds=True)
    assert [(m.name, m.bands) for m in store.meta.modalities] == [
        ("hls_l30", ["B02", "B03", "B10"])
    ]
    assert [scene.date for scene in store.meta.scenes] == ["2021-06-01", "2022-01-07"]
    assert len(store) == 2 * 15


def test_safe_folders_are_scenes_without_previews(tmp_path: Path) -> None:
    names = (
        "s1a-iw-grd-{}-20200101t050000-20200101t050025-030000-037000-00{}.tiff",
        "s1b-iw-grd-{}-20200107t050000-20200107t050025-020000-025000-00{}.tiff",
    )
    for i, name in enumerate(names):
        safe = tmp_path / "src" / f"S1{'AB'[i]}_IW_GRDH_1SDV_2020010{i}T050000.SAFE"
        for j, band in enumerate(("vv", "vh")):
            file = safe / "measurement" / name.format(band, j + 1)
            write_tif(file, noise((SIZE, SIZE), 10 * i + j), left=500_000 + 9_000 * i)
        write_tif(safe / "preview" / "quick-look.tif", noise((3, 8, 8)), crs=None)
        labels = stripes(SIZE, SIZE, 8, (1, 2))
        write_tif(safe / "labels.tif", labels, left=500_000 + 9_000 * i)
    store = ingest(tmp_path / "src", strict=True)
    assert [(m.name, m.bands) for m in store.meta.modalities] == [("s1", ["VH", "VV"])]
    assert {scene.name[-5:] for scene in store.meta.scenes} == {".SAFE"}
    assert not any(scene.folder for scene in store.meta.scenes)
    said = {Path(item.path).name: item.reason for item in store.meta.skipped}
    assert said["preview"] == "by-products of a Sentinel product, not bands"


def test_a_cloud_mask_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    write_tif(tmp_path / "src" / "image.tif", noise((2, SIZE, SIZE)))
    write_tif(tmp_path / "src" / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)))
    with pytest.raises(DataError, match=r"no cloud mask of a known sensor.*--mask-clouds"):
        ingest(tmp_path / "src", mask_clouds=True)
    # the remedy
    write_tif(tmp_path / "src" / "clouds.tif", stripes(SIZE, SIZE, 8, (0, 1)))
    assert len(ingest(tmp_path / "src", masks=["clouds=1"])) == 8


@pytest.mark.parametrize("name", ["scene_QA.tif", "udm2.tif", "cloud_mask.tif", "x_QA60.tif"])
def test_flags_of_quality_never_become_bands_in_silence(tmp_path: Path, name: str) -> None:
    src = tmp_path / "src"
    write_tif(src / "image.tif", noise((2, SIZE, SIZE)))
    write_tif(src / name, noise((SIZE, SIZE), 1, 0, 4, "uint8"))
    write_tif(src / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)))
    store = ingest(src)
    assert [m.name for m in store.meta.modalities] == ["image"]
    (item,) = store.meta.skipped
    assert item.path == name
    assert "--mask or --modality" in item.reason
    # both remedies
    assert len(ingest(src, masks=[f"{name}=3"], min_valid=0.5)) == 16
    named = ingest(src, modalities=["image=image.tif", f"flags={name}"])
    assert [m.name for m in named.meta.modalities] == ["image", "flags"]


@pytest.mark.parametrize(
    ("stem", "modality", "band"),
    [
        ("LE07_L1TP_029030_20010101_20200917_02_T1_B6_VCID_1", "landsat_tm", "B6_VCID_1"),
        ("LT05_L2SP_029030_19950101_20200912_02_T1_SR_B7", "landsat_tm_sr", "B7"),
        ("LM02_L1TP_029030_19760101_20200912_02_T2_B4", "landsat_mss", "B4"),
        ("HLS.S30.T15SYD.2020123T165901.v2.0.B8A", "hls_s30", "B8A"),
        ("s1a-iw2-slc-hv-20200101t050000-20200101t050025-030000-037000-004", "s1_iw2", "HV"),
        ("S1A_IW_20210304T000000_DVP_RTC20_G_gpunem_0A1B_VH", "s1", "VH"),
    ],
)
def test_names_of_products(stem: str, modality: str, band: str) -> None:
    known = product_band(stem)
    assert known is not None
    assert (known.modality, known.band) == (modality, band)


def test_names_that_only_look_like_products() -> None:
    assert product_band("LC08_scene_B4") is None
    assert product_band("optical_VV") is None
    assert by_product_reason("LC08_QA_PIXEL") == ""
    assert is_quality("LC08_QA_PIXEL")
    assert not is_quality("aqua")
    assert split_band("S2A_MSIL2A_20170613T101031_87_48_B8A").modality == "s2"
    assert split_band("S2A_MSIL2A_20170613T101031_87_48").modality == ""
    assert date_of(["HLS.L30.T15SYD.2020366T165901.v2.0.B02"]) == "2020-12-31"


def test_a_day_that_no_year_has_is_no_date() -> None:
    assert date_of(["HLS.L30.T33UUP.2020366T100011.v2.0"]) == "2020-12-31"
    for day in ("000", "367", "399"):
        assert date_of([f"HLS.L30.T33UUP.2021{day}T100011.v2.0"]) == ""
