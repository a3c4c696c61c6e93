"""Ground that is seen from two CRSs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import calculate_default_transform, reproject

from data_prep.common_frame import common_frame, moved_boxes
from data_prep.footprints import Footprints
from data_prep.ingest.scenes import ingest_scenes
from data_prep.manifest import column
from data_prep.schema import SceneMeta
from data_prep.store import Store
from tests.data_prep.archives import noise, stripes, write_tif

ZONE_32, ZONE_33 = "EPSG:32632", "EPSG:32633"
#: A place at the border of the two zones, 12° E, in the eastern one.
LEFT, TOP = 264_000.0, 5_320_000.0


def write_twice(src: Path, other: str, size: int = 96) -> None:
    """A scene, and the same ground in another CRS."""
    values = noise((2, size, size))
    labels = stripes(size, size, 8, (1, 2, 3))
    place = Affine(10, 0, LEFT, 0, -10, TOP)
    write_tif(src / "a" / "image.tif", values, crs=ZONE_33, transform=place, nodata=0)
    write_tif(src / "a" / "labels.tif", labels, crs=ZONE_33, transform=place)
    bounds = (LEFT, TOP - 10 * size, LEFT + 10 * size, TOP)
    there, width, height = calculate_default_transform(ZONE_33, other, size, size, *bounds)
    for name, array in (("image.tif", values), ("labels.tif", labels[None])):
        out = np.zeros((len(array), height, width), array.dtype)
        reproject(
            array, out, src_transform=place, src_crs=ZONE_33, dst_transform=there, dst_crs=other
        )
        write_tif(src / "b" / name, out, crs=other, transform=there, nodata=0)


def least_gap_m(store: Store) -> float:
    """Least distance of train and test chips, on the ground."""
    polygons = shapely.from_wkb(column(store.manifest, "geometry"))
    meters = np.array([111_320 * np.cos(np.radians(48)), 111_320])
    polygons = shapely.transform(polygons, lambda p: p * meters)
    split = column(store.manifest, "split")
    tree = shapely.STRtree(polygons[split == "train"])
    return float(tree.query_nearest(polygons[split == "test"], return_distance=True)[1].min())


@pytest.mark.parametrize("other", [ZONE_32, "EPSG:4326", "EPSG:3857"])
@pytest.mark.parametrize("split_by", ["blocks", "scene"])
def test_no_test_chip_shows_train_ground_of_another_crs(
    tmp_path: Path, other: str, split_by: str
) -> None:
    write_twice(tmp_path / "src", other)
    options = {"chip_px": 8, "buffer_px": 4, "split_by": split_by, "overwrite": True}
    if split_by == "scene":
        # one scene covers the other: no train chip can be left
        with pytest.raises(Exception, match="no train sample is left"):
            ingest_scenes(tmp_path / "src", tmp_path / "store", **options)
        return
    store = ingest_scenes(tmp_path / "src", tmp_path / "store", **options)
    counts = store.meta.splits.counts
    assert counts["test"] > 20
    assert counts["train"] > 100
    assert least_gap_m(store) > 35
    assert store.meta.splits.least_distance_px is not None
    assert store.meta.splits.least_distance_px >= 3.9


def chips(crs: str, left: float, top: float, count: int) -> tuple[SceneMeta, np.ndarray]:
    transform = (10.0, 0.0, left, 0.0, -10.0, top)
    scene = SceneMeta(
        name=f"{crs} {left}", folder="", height=8, width=8, transform=transform, crs=crs
    )
    x = left + 80 * np.arange(count)
    return scene, np.stack([x, np.full(count, top - 80), x + 80, np.full(count, top)], axis=1)


def test_planes_that_do_not_meet_stay_as_they_are() -> None:
    places = [(ZONE_33, 500_000.0), (ZONE_32, 500_000.0), ("EPSG:32701", 500_000.0), ("", 0.0)]
    made = [chips(crs, left, TOP, 5) for crs, left in places]
    scenes = [scene for scene, _ in made]
    boxes = np.concatenate([box for _, box in made])
    ground = Footprints(np.repeat(np.arange(4), 5), boxes, np.full(20, 10.0))
    assert common_frame(ground, scenes, 8, 4) is ground


def test_chips_beside_each_other_meet_through_the_buffer() -> None:
    first, boxes = chips(ZONE_33, LEFT, TOP, 5)
    # west of them, 30 m away
    west = moved_boxes(
        boxes[:1] - [110, 0, 110, 0], CRS.from_string(ZONE_33), CRS.from_string(ZONE_32)
    )
    second, _ = chips(ZONE_32, float(west[0, 0]), float(west[0, 3]), 1)
    ground = Footprints(
        np.array([0] * 5 + [1]), np.concatenate([boxes, west]), np.array([10.0] * 6)
    )
    assert common_frame(ground, [first, second], 8, 2) is ground
    joined = common_frame(ground, [first, second], 8, 4)
    assert joined.plane.tolist() == [0] * 6
    np.testing.assert_array_equal(joined.boxes[:5], boxes)
    # never smaller than its ground
    assert joined.boxes[5, 0] <= boxes[0, 0] - 110
    assert joined.boxes[5, 2] >= boxes[0, 2] - 110
    assert joined.pixel[5] >= 10


def test_places_far_from_a_zone_have_none_in_it() -> None:
    boxes = chips(ZONE_33, 500_000.0, 100_000.0, 2)[1]
    for other in ("EPSG:32652", "EPSG:32603"):
        moved = moved_boxes(boxes, CRS.from_string(ZONE_33), CRS.from_string(other))
        back = moved_boxes(moved, CRS.from_string(other), CRS.from_string(ZONE_33))
        assert np.isnan(moved).all() or np.abs(back - boxes).max() < 100
