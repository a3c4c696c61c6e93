"""File names that also say where and when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data_prep.ingest.scenes import ingest_scenes
from data_prep.ingest.sensors import split_band
from data_prep.store import Store
from rsdgc.errors import DataError
from tests.data_prep.archives import noise, stripes, write_tif

SIZE = 32


def ingest(src: Path, **options: Any) -> Store:
    return ingest_scenes(src, src.parent / "store", overwrite=True, **({"chip_px": 8} | options))


def write(folder: Path, number: int, *names: str, bands: int = 1) -> None:
    """Files of a scene with a place of its own, and its labels."""
    place = {"left": 500_000 + 9_000 * number}
    for i, name in enumerate(names):
        write_tif(folder / name, noise((bands, SIZE, SIZE), 10 * number + i), **place)
    write_tif(folder / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)), **place)


def modalities(store: Store) -> dict[str, list[str]]:
    return {modality.name: modality.bands for modality in store.meta.modalities}


@pytest.mark.parametrize(
    ("scenes", "expected"),
    [
        # the scene's own name
        (
            {"lake": ("lake_height.tif", "rgb.tif"), "hill": ("hill_height.tif", "rgb.tif")},
            {"height": ["height"], "rgb": ["rgb"]},
        ),
        # what all files of a scene share
        (
            {"a": ("p17-red.tif", "p17-nir.tif"), "b": ("p4-red.tif", "p4-nir.tif")},
            {"red": ["red"], "nir": ["nir"]},
        ),
        # dates before and behind the band
        (
            {
                "a": ("B03_20190606.tif", "B04_20190606.tif"),
                "b": ("B03_20200101.tif", "B04_20200101.tif"),
            },
            {"bands": ["B03", "B04"]},
        ),
        (
            {
                "a": ("2019-06-06_B3.tif", "2019-06-06_B4.tif"),
                "b": ("2020-06-06_B3.tif", "2020-06-06_B4.tif"),
            },
            {"bands": ["B3", "B4"]},
        ),
        # patches of Sentinel-2 as BigEarthNet has them
        (
            {
                "S2A_MSIL2A_20170613T101031_87_48": ("S2A_MSIL2A_20170613T101031_87_48_B02.tif",),
                "S2B_MSIL2A_20180511T100029_3_5": ("S2B_MSIL2A_20180511T100029_3_5_B02.tif",),
            },
            {"s2": ["B02"]},
        ),
    ],
)
def test_what_says_where_and_when_is_no_part_of_a_modality(
    tmp_path: Path, scenes: dict[str, tuple[str, ...]], expected: dict[str, list[str]]
) -> None:
    for number, (scene, names) in enumerate(scenes.items()):
        write(tmp_path / "src" / scene, number, *names)
    store = ingest(tmp_path / "src")
    assert len(store) == 32
    assert modalities(store) == expected


def test_bands_of_a_named_modality_need_not_be_named_alike(tmp_path: Path) -> None:
    for number, scene in enumerate(("x7", "x9")):
        names = (f"{scene}_red.tif", f"{scene}_nir.tif", f"q{number}.tif")
        write(tmp_path / "src" / scene, number, *names)
    globs = ["image=x?_*.tif", "height=q*.tif"]
    store = ingest(tmp_path / "src", modalities=globs)
    assert modalities(store) == {"image": ["nir", "red"], "height": ["height"]}


def test_files_of_other_sensors_are_not_taken_for_one(tmp_path: Path) -> None:
    write(tmp_path / "src" / "a", 0, "radar_x.tif", "height.tif", bands=2)
    write(tmp_path / "src" / "b", 1, "optical_x.tif", "height.tif", bands=2)
    with pytest.raises(DataError, match=r"has modalities .*--pattern"):
        ingest(tmp_path / "src")
    # a scene that lacks a modality is still refused
    write(tmp_path / "other" / "a", 0, "a_x.tif", "height.tif", bands=2)
    write(tmp_path / "other" / "b", 1, "height.tif", bands=2)
    with pytest.raises(DataError, match="has modalities"):
        ingest(tmp_path / "other")


def test_two_dates_in_one_folder_name_the_way_out(tmp_path: Path) -> None:
    names = [f"LC08_L2SP_193026_2020040{day}_20200822_02_T1_SR_B4.TIF" for day in (5, 7)]
    write(tmp_path / "src", 0, *names)
    with pytest.raises(DataError, match=r"two modalities landsat_oli_sr.*--pattern"):
        ingest(tmp_path / "src")


def test_labels_of_all_scenes_at_the_root_are_no_scene(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for number in range(2):
        write(src / f"scene-{number}", number, "image.tif", bands=2)
        (src / f"scene-{number}" / "labels.tif").unlink()
    write_tif(src / "town.tif", stripes(SIZE, 1000, 8, (1, 2)))
    for labels in (str(src / "town.tif"), "town.tif"):
        store = ingest(src, labels=labels, strict=True)
        assert (len(store), store.meta.skipped) == (32, [])


def test_a_date_behind_the_band_is_no_band() -> None:
    assert split_band("B01_20190606").band == "B01"
    assert split_band("landsat_b2-2019-06-06").band == "b2"
    assert split_band("elevation_20190606").band == "20190606"
