"""Scales and offsets that metadata of products give their values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.ingest.product_metadata import read_landsat_factors
from data_prep.ingest.scenes import ingest_scenes
from data_prep.store import Store
from rsdgc.errors import DataError
from tests.data_prep.archives import LEFT, noise, stripes, write_tif

SIZE = 32
PRODUCTS = ("LC08_L2SP_193026_20200405_20200822_02_T1", "LC09_L2SP_192027_20230512_20230514_02_T1")
LEVEL_1 = "LE07_L1TP_193026_20020405_20200822_02_T1"
#: As USGS delivers them: level 2 repeats the factors of level 1, which are others.
GROUPS: dict[str, dict[str, str]] = {
    "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS": {
        "REFLECTANCE_MULT_BAND_4": "2.75e-05",
        "REFLECTANCE_ADD_BAND_4": "-0.2",
        "REFLECTANCE_MULT_BAND_5": "2.75e-05",
        "REFLECTANCE_ADD_BAND_5": "-0.2",
    },
    "LEVEL2_SURFACE_TEMPERATURE_PARAMETERS": {
        "TEMPERATURE_MAXIMUM_BAND_ST_B10": "372.999941",
        "TEMPERATURE_MULT_BAND_ST_B10": "0.00341802",
        "TEMPERATURE_ADD_BAND_ST_B10": "149.0",
    },
    "LEVEL1_RADIOMETRIC_RESCALING": {
        "RADIANCE_MULT_BAND_4": "9.8E-03",
        "RADIANCE_ADD_BAND_4": "-49.1",
        "RADIANCE_MULT_BAND_6_VCID_1": "3.3E-04",
        "RADIANCE_ADD_BAND_6_VCID_1": "0.1",
        "REFLECTANCE_MULT_BAND_4": "2.0000E-05",
        "REFLECTANCE_ADD_BAND_4": "-0.100000",
        "REFLECTANCE_MULT_BAND_5": "NULL",
        "REFLECTANCE_ADD_BAND_5": "NULL",
    },
}


def odl() -> str:
    lines = ["GROUP = LANDSAT_METADATA_FILE"]
    for group, entries in GROUPS.items():
        lines += [f"  GROUP = {group}", *(f"    {k} = {v}" for k, v in entries.items())]
        lines.append(f"  END_GROUP = {group}")
    return "\n".join([*lines, "END_GROUP = LANDSAT_METADATA_FILE", "END"])


def xml() -> str:
    groups = [
        f"<{group}>{''.join(f'<{k}>{v}</{k}>' for k, v in entries.items())}</{group}>"
        for group, entries in GROUPS.items()
    ]
    return f"<LANDSAT_METADATA_FILE>{''.join(groups)}</LANDSAT_METADATA_FILE>"


FORMS = {"txt": odl, "xml": xml, "json": lambda: json.dumps({"LANDSAT_METADATA_FILE": GROUPS})}


def ingest(src: Path, **options: Any) -> Store:
    return ingest_scenes(src, src.parent / "store", chip_px=8, overwrite=True, **options)


def write_product(
    folder: Path, product: str, seed: int, bands: tuple[str, ...], left: float | None = None
) -> None:
    place = {"left": LEFT + 9000 * seed if left is None else left}
    for i, band in enumerate(bands):
        write_tif(folder / f"{product}_{band}.TIF", noise((SIZE, SIZE), 10 * seed + i), **place)
    write_tif(folder / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)), **place)


@pytest.mark.parametrize("form", FORMS)
def test_landsat_s_values_are_reflectance_and_kelvin(tmp_path: Path, form: str) -> None:
    for i, product in enumerate(PRODUCTS):
        folder = tmp_path / "src" / product
        write_product(folder, product, i, ("SR_B4", "SR_B5", "ST_B10"))
        (folder / f"{product}_MTL.{form}").write_text(FORMS[form]())
    # another modality beside them has no counts
    for i, product in enumerate(PRODUCTS):
        dem = tmp_path / "src" / product / "dem.tif"
        write_tif(dem, noise((SIZE, SIZE), 77 + i), left=LEFT + 9000 * i)
    metas = {m.name: m for m in ingest(tmp_path / "src").meta.modalities}
    assert metas["landsat_oli_sr"].scale == [2.75e-05] * 2
    assert metas["landsat_oli_sr"].offset == [-0.2] * 2
    assert (metas["landsat_oli_st"].scale, metas["landsat_oli_st"].offset) == ([0.00341802], [149])
    assert metas["dem"].scale == []


def test_level_1_is_reflectance_and_of_thermal_bands_radiance(tmp_path: Path) -> None:
    write_product(tmp_path / "src", LEVEL_1, 0, ("B4", "B6_VCID_1", "B8"))
    (tmp_path / "src" / f"{LEVEL_1}_MTL.txt").write_text(odl())
    (meta,) = ingest(tmp_path / "src").meta.modalities
    assert meta.bands == ["B4", "B6_VCID_1", "B8"]
    assert (meta.scale, meta.offset) == ([2e-5, 3.3e-4, 1.0], [-0.1, 0.1, 0.0])


def test_each_scene_of_a_folder_has_its_own_product_s_metadata(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for i, product in enumerate(PRODUCTS):
        write_product(src, product, i, ("SR_B4", "SR_B5"), left=LEFT)
    options = {"patterns": ["{scene}_SR_{band}.TIF"]}
    (src / f"{PRODUCTS[0]}_MTL.txt").write_text(odl())
    with pytest.raises(DataError, match=r"has none: add its MTD_MSIL2A.xml or MTL.txt, or leave"):
        ingest(src, **options)
    # the remedies
    (src / f"{PRODUCTS[1]}_MTL.txt").write_text(odl())
    (meta,) = ingest(src, **options).meta.modalities
    assert meta.scale == [2.75e-05] * 2
    for path in src.glob("*_MTL.txt"):
        path.unlink()
    assert ingest(src, **options).meta.modalities[0].scale == []


@pytest.mark.parametrize("text", ["", "{", "<a", "[1]", "GROUP = X\nREFLECTANCE_MULT_BAND_4 = 1"])
def test_other_files_of_the_name_say_nothing(text: str) -> None:
    assert read_landsat_factors(text) == {}
