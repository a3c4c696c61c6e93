"""Footprints: boxes in the planes of scenes, and GeoParquet that other tools can read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from rasterio.warp import transform

from data_prep.footprints import Footprints
from data_prep.ingest.scenes import ingest_scenes
from data_prep.partition import partition
from data_prep.schema import SceneMeta
from data_prep.store import Store
from tests.data_prep.archives import LEFT, write_scene


def test_manifests_are_geoparquet_with_footprints_in_degrees(
    scenes_store: Store, tmp_path: Path
) -> None:
    data = partition(scenes_store.path, tmp_path / "data", scheme="folder")
    for path in (scenes_store.path / "manifest.parquet", data.path / "sites" / "agency-0.parquet"):
        table = pq.read_table(path)
        geo = json.loads(table.schema.metadata[b"geo"])
        assert geo["version"] == "1.1.0"
        about = geo["columns"][geo["primary_column"]]
        # no CRS means longitude and latitude in WGS 84
        assert "crs" not in about
        assert (about["encoding"], about["geometry_types"]) == ("WKB", ["Polygon"])
        shapes = shapely.from_wkb(table.column("geometry").to_numpy())
        inside = shapely.total_bounds(shapes)
        assert about["bbox"][0] <= inside[0]
        assert about["bbox"][3] >= inside[3]
        assert shapely.is_valid(shapes).all()
        assert shapely.is_ccw(shapely.get_exterior_ring(shapes)).all()
        row = table.slice(7, 1).to_pylist()[0]
        lon, lat = transform(row["crs"], "OGC:CRS84", [row["x"]], [row["y"]])
        middle = shapely.centroid(shapes[7])
        assert (middle.x, middle.y) == pytest.approx((lon[0], lat[0]), abs=1e-7)
        # a chip of 8 px of 10 m
        x, y = shapely.get_coordinates(shapes[7]).T
        east, north = transform("OGC:CRS84", row["crs"], x, y)
        assert np.ptp(east) == pytest.approx(80, abs=1e-3)
        assert np.ptp(north) == pytest.approx(80, abs=1e-3)


def test_scenes_of_several_crs_share_the_column_and_those_without_have_none(tmp_path: Path) -> None:
    write_scene(tmp_path / "src" / "a", seed=1, size=48)
    write_scene(tmp_path / "src" / "b", seed=2, size=48, crs="EPSG:32634", left=LEFT)
    write_scene(tmp_path / "src" / "c", seed=3, size=48, crs=None)
    store = ingest_scenes(tmp_path / "src", tmp_path / "store", chip_px=8)
    table = store.manifest.to_pydict()
    lon = {}
    for scene, wkb in zip(table["scene"], table["geometry"], strict=True):
        lon[scene] = None if wkb is None else shapely.from_wkb(wkb).centroid.x
    assert lon["c"] is None
    # UTM zones are six degrees apart
    assert lon["b"] - lon["a"] == pytest.approx(6, abs=0.01)


def test_pixels_have_footprints_where_there_is_a_crs(tmp_path: Path, pixels_store: Store) -> None:
    assert "geometry" not in pixels_store.manifest.column_names
    write_scene(tmp_path / "src", size=24)
    store = ingest_scenes(tmp_path / "src", tmp_path / "store", patch_px=3)
    assert len(store.manifest.column("geometry")) == 24 * 24


def test_scenes_of_one_crs_share_a_plane_and_those_without_have_their_own() -> None:
    def scene(name: str, crs: str) -> SceneMeta:
        grid = (10.0, 0.0, 500.0, 0.0, -10.0, 900.0)
        return SceneMeta(name=name, folder="", height=20, width=20, transform=grid, crs=crs)

    scenes = [scene("a", "EPSG:32633"), scene("b", ""), scene("c", "EPSG:32633"), scene("d", "")]
    columns = {
        "scene": np.array(["d", "c", "b", "a"], dtype=object),
        "row": np.array([0, 1, 1, 0]),
        "col": np.array([2, 3, 3, 2]),
    }
    ground = Footprints.of(columns, scenes, 4)
    d, c, b, a = ground.plane.tolist()
    assert a == c
    assert len({a, b, d}) == 3
    assert ground.boxes.tolist() == [
        [2, -4, 6, 0],
        [530, 850, 570, 890],
        [3, -5, 7, -1],
        [520, 860, 560, 900],
    ]
    assert ground.pixel.tolist() == [1, 10, 1, 10]
