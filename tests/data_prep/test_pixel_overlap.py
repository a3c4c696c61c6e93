"""Pixels of overlapping scenes: no patch of train shows a test pixel of another scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from rasterio.warp import transform

from data_prep.ingest.scenes import ingest_scenes
from data_prep.manifest import column
from data_prep.pixel_overlap import find_overlaps
from data_prep.schema import SceneMeta
from data_prep.store import Store
from rsdgc.errors import SettingError
from tests.data_prep.archives import LEFT, TOP, UTM, noise, stripes, write_tif

SIZE, PATCH = 40, 5


def write_cube(folder: Path, seed: int, size: int = SIZE, **place: object) -> None:
    write_tif(folder / "cube.tif", noise((3, size, size), seed), **place)
    labels = stripes(size, size, 6, (1, 2, 3, 1, 0))
    labels[size // 2 - 1 :: 11] = 0
    write_tif(folder / "labels.tif", labels, **place)


def ground(store: Store) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centers of the samples in UTM [n, 2], and the sizes of their scenes' pixels in meters [n]."""
    names, crs, x, y = (column(store.manifest, name) for name in ("scene", "crs", "x", "y"))
    sizes = {scene.name: scene.transform[0] for scene in store.meta.scenes}
    places = np.stack([x, y], axis=1).astype(float)
    for code in set(crs) - {UTM}:
        other = crs == code
        places[other] = np.stack(transform(code, UTM, x[other], y[other]), axis=1)
    return places, np.array([sizes[name] for name in names])


def leaks(store: Store) -> int:
    """Pairs of a train and a test sample of which one's patch shows the other's center."""
    places, sizes = ground(store)
    split = column(store.manifest, "split")
    train, test = np.flatnonzero(split == "train"), np.flatnonzero(split == "test")
    assert len(train)
    assert len(test)
    gaps = np.abs(places[train][:, None] - places[test][None]).max(axis=2)
    side = np.maximum(sizes[train][:, None], sizes[test][None]) * PATCH / 2
    return int((gaps < side - 1e-6).sum())


@pytest.mark.parametrize(
    "second",
    [
        {},
        {"left": LEFT + 130, "top": TOP - 50},
        {"left": LEFT + 134, "top": TOP - 47},
        {"pixel": 20.0, "left": LEFT - 200, "top": TOP + 100},
        {"pixel": 15.0, "left": LEFT + 40},
        {"crs": "EPSG:32632", "left": "moved"},
        {"left": LEFT + 10 * SIZE},
    ],
    ids=["dates", "shifted", "between", "coarser", "not whole", "zone", "beside"],
)
def test_no_patch_shows_a_pixel_of_another_split(tmp_path: Path, second: dict[str, object]) -> None:
    place = dict(second)
    if place.get("left") == "moved":
        (x,), (y,) = transform(UTM, "EPSG:32632", [LEFT], [TOP])
        place |= {"left": x, "top": y}
    write_cube(tmp_path / "src" / "a", 1)
    write_cube(tmp_path / "src" / "b", 2, **place)
    store = ingest_scenes(tmp_path / "src", tmp_path / "store", patch_px=PATCH)
    assert leaks(store) == 0
    assert (store.meta.splits.least_distance_px or 99) > PATCH // 2
    if not second:
        # the fields of two dates are the same ground, so that no more is lost than of one
        split, rows, cols = (column(store.manifest, name) for name in ("split", "row", "col"))
        assert split.tolist()[: len(split) // 2] == split.tolist()[len(split) // 2 :]
        assert len(set(zip(rows, cols, strict=True))) == len(split) // 2


@pytest.mark.parametrize("buffer_px", [None, 6])
def test_folders_of_splits_hold_in_pixel_mode(tmp_path: Path, buffer_px: int | None) -> None:
    write_cube(tmp_path / "src" / "train" / "a", 1)
    write_cube(tmp_path / "src" / "val" / "b", 2, left=LEFT + 200)
    write_cube(tmp_path / "src" / "test" / "c", 3, left=LEFT + 250)
    options = {"patch_px": PATCH, "buffer_px": buffer_px}
    store = ingest_scenes(tmp_path / "src", tmp_path / "store", **options)
    assert store.meta.splits.method == "given"
    assert leaks(store) == 0
    scene, split = column(store.manifest, "scene"), column(store.manifest, "split")
    for name in ("train/a", "val/b", "test/c"):
        assert set(split[scene == name]) <= {name.partition("/")[0], "buffer"}
    assert "buffer" not in split[scene == "test/c"]
    assert (store.meta.splits.least_distance_px or 0) > (buffer_px or PATCH // 2)
    fields = ingest_scenes(tmp_path / "src", tmp_path / "b", split_by="blocks", **options)
    assert fields.meta.splits.method == "fields"
    assert leaks(fields) == 0
    with pytest.raises(SettingError, match="--split-by date does not apply to --patch"):
        ingest_scenes(tmp_path / "src", tmp_path / "c", split_by="date", **options)


def scene(name: str, left: float, crs: str = UTM, pixel: float = 10.0) -> SceneMeta:
    place = (pixel, 0.0, left, 0.0, -pixel, TOP)
    return SceneMeta(name=name, folder="", height=8, width=8, transform=place, crs=crs)


def test_scenes_that_are_apart_or_have_no_place_are_not_compared() -> None:
    labeled = [np.ones((8, 8), np.bool_)] * 2
    close, near = (
        [scene("a", LEFT), scene("b", LEFT + 80)],
        [scene("a", LEFT), scene("b", LEFT + 60)],
    )
    assert find_overlaps(close, labeled, 0) == []
    assert [len(o.pixels) for o in find_overlaps(close, labeled, 2)] == [16, 16]
    assert [(o.image, o.other, o.reach) for o in find_overlaps(near, labeled, 0)] == [
        (0, 1, 0),
        (1, 0, 0),
    ]
    assert find_overlaps([scene("a", LEFT), scene("b", LEFT + 5000)], labeled, 2) == []
    assert find_overlaps([scene("a", LEFT, ""), scene("b", LEFT, "")], labeled, 2) == []
    assert find_overlaps([scene("a", LEFT), scene("b", LEFT, "EPSG:32701")], labeled, 2) == []


@pytest.mark.parametrize("latitude", [0.0, 45.0, 70.0])
@pytest.mark.parametrize("height", [1.0, 3.0])
def test_the_reach_covers_the_buffer_where_degrees_of_longitude_are_short(
    latitude: float, height: float
) -> None:
    (x,), (y,) = transform("EPSG:4326", UTM, [15.0], [latitude])
    degrees = 10 / 111_320
    around = {"folder": "", "height": 40, "width": 40}
    plane = (10.0, 0.0, x, 0.0, -10.0, y)
    globe = (degrees, 0.0, 15.0, 0.0, -height * degrees, latitude)
    scenes = [
        SceneMeta(name="plane", crs=UTM, transform=plane, **around),
        SceneMeta(name="globe", crs="EPSG:4326", transform=globe, **around),
    ]
    narrow = 10 * np.cos(np.radians(latitude))
    overlaps = {o.other: o for o in find_overlaps(scenes, [np.ones((40, 40), np.bool_)] * 2, 2)}
    assert overlaps[0].reach * 10 >= 2 * 10 * height
    assert overlaps[1].reach * narrow >= 2 * 10
    assert overlaps[1].reach * narrow <= 2 * 2 * 10 + 3 * narrow


def test_pixels_that_are_no_squares_are_compared_by_either_side() -> None:
    tall = (10.0, 0.0, LEFT, 0.0, -30.0, TOP)
    first = SceneMeta(name="tall", folder="", height=8, width=8, transform=tall, crs=UTM)
    labeled = [np.ones((8, 8), np.bool_)] * 2
    overlaps = find_overlaps([first, scene("square", LEFT)], labeled, 2)
    assert {o.other: o.reach for o in overlaps} == {0: 3, 1: 7}
    south = (10.0, 0.0, LEFT, 0.0, -30.0, TOP - 8 * 30 - 45)
    second = SceneMeta(name="south", folder="", height=8, width=8, transform=south, crs=UTM)
    assert {o.image for o in find_overlaps([first, second], labeled, 2)} == {0, 1}
