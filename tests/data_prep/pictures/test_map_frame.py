"""Frames of maps: coordinates of cells, scale bars, and scenes without a CRS."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.ingest.scenes import ingest_scenes
from data_prep.partition import partition
from data_prep.pictures.map_frame import MapFrame, frame
from data_prep.pictures.scene_grid import lay_out, samples_by_scene
from data_prep.pictures.site_overview import overview
from tests.data_prep.archives import (
    LEFT,
    MOON,
    SITE_GRID,
    TOP,
    noise,
    stripes,
    write_scene,
    write_tif,
)


def frame_of(folder: Path, **options) -> MapFrame:
    write_tif(folder / "src" / "optical.tif", noise((3, 96, 96), 1), **options)
    write_tif(folder / "src" / "labels.tif", stripes(96, 96, 8, (1, 2)), **options)
    store = ingest_scenes(folder / "src", folder / "store", chip_px=8)
    ((name, samples),) = samples_by_scene(store).items()
    return frame(store, lay_out(store, name, samples))


def test_coordinates_are_those_of_the_ground(tmp_path: Path) -> None:
    shown = frame_of(tmp_path)
    assert shown.crs == "EPSG:32633 · WGS 84 / UTM zone 33N"
    assert shown.unit == "m"
    assert shown.cell == "80\u00a0m"  # 8 pixels of 10 m
    width = 96 * 10
    for tick in shown.x_ticks:
        at = LEFT + width * tick.at / 100
        assert float(tick.text.replace(",", "")) == pytest.approx(at, abs=1)
    for tick in shown.y_ticks:
        at = TOP - width * tick.at / 100
        assert float(tick.text.replace(",", "")) == pytest.approx(at, abs=1)
    assert shown.scale_text == "200\u00a0m"
    assert shown.scale_share == pytest.approx(100 * 200 / width, abs=0.01)
    assert "N" in shown.center
    assert "E" in shown.center


def test_degrees_are_shorter_far_from_the_equator(tmp_path: Path) -> None:
    shown = frame_of(tmp_path, crs="EPSG:4326", pixel=0.001, left=15.0, top=60.0)
    assert shown.unit == "degrees"
    assert all(tick.text.endswith("°") for tick in shown.x_ticks)
    width_m = 96 * 0.001 * 111_320 * np.cos(np.radians(59.952))
    assert shown.scale_text == "1\u00a0km"
    assert shown.scale_share == pytest.approx(100 * 1000 / width_m, rel=1e-3)


def test_without_a_crs_coordinates_are_pixels(tmp_path: Path) -> None:
    shown = frame_of(tmp_path, crs=None)
    assert (shown.crs, shown.scale_text, shown.unit) == ("", "", "pixels")
    assert [tick.at for tick in shown.x_ticks] == [tick.at for tick in shown.y_ticks]


@pytest.mark.parametrize("crs", [SITE_GRID, MOON])
def test_ground_off_the_globe_has_coordinates_alone(tmp_path: Path, crs: str) -> None:
    shown = frame_of(tmp_path, crs=crs)
    assert shown.crs
    assert shown.center == ""
    assert shown.x_ticks
    assert shown.scale_text == "200\u00a0m"


def test_sites_lie_on_one_overview(tmp_path: Path) -> None:
    for i in range(2):
        write_scene(tmp_path / "src" / f"scene-{i}", seed=i, left=LEFT + 5000 * i)
    store = ingest_scenes(tmp_path / "src", tmp_path / "store", chip_px=8)
    plot = overview(partition(store.path, tmp_path / "data", scheme="scene", sites=2))
    assert plot is not None
    assert "site-01" in plot.svg
    assert [row[0] for row in plot.table.rows] == ["site-00", "site-01"]
    first, second = sorted(plot.table.rows, key=lambda row: str(row[1]))
    assert first[1] == "scene-0"
    degrees = 5000 / (111_320 * np.cos(np.radians(first[4])))
    assert second[3] - first[3] == pytest.approx(degrees, rel=0.01)
