"""Labels in rasters: exact codes, colors, values without a label, and finer grids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from data_prep.ingest.scenes import ingest_scenes
from data_prep.manifest import column
from data_prep.store import Store
from rsdgc.errors import DataError, SettingError
from tests.data_prep.archives import LEFT, TOP, noise, stripes, write_polygons, write_tif

SIZE = 32
RED, BLUE, PINK = (255, 0, 0), (0, 0, 255), (255, 0, 255)


@pytest.fixture
def src(tmp_path: Path) -> Path:
    write_tif(tmp_path / "src" / "optical.tif", noise((2, SIZE, SIZE)))
    return tmp_path / "src"


def ingest(src: Path, **options: Any) -> Store:
    defaults = {"chip_px": 8, "buffer_px": 0, "overwrite": True}
    return ingest_scenes(src, src.parent / "store", **(defaults | options))


def by_column(store: Store) -> list[str]:
    """Classes of the chips of the first row, from left to right; chips left out are missing."""
    first = column(store.manifest, "row") == 0
    labels = column(store.manifest, "label")[first]
    return [store.classes[i] for i in labels[np.argsort(column(store.manifest, "col")[first])]]


def codes(*values: float, dtype: str = "int64") -> np.ndarray:
    """Columns of 8 px of one value each."""
    return np.repeat(np.array([values], dtype), SIZE, axis=0).repeat(8, axis=1)


def painted(*colors: tuple[int, int, int]) -> np.ndarray:
    picture = np.repeat(np.array([colors], np.uint8), SIZE, axis=0).repeat(8, axis=1)
    return np.moveaxis(picture, -1, 0)


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("float64", (2**53 - 1, 2**53 - 2, -7, 0)),
        ("int64", (2**62 + 1, 2**62, -(2**62), 5)),
        ("uint64", (2**63 - 1, 2**40, 1, 0)),
        ("int8", (-128, -1, 0, 127)),
    ],
)
def test_codes_are_exact_in_every_type(src: Path, dtype: str, values: tuple[int, ...]) -> None:
    labels = np.zeros((SIZE, SIZE), dtype)
    for number, value in enumerate(values):
        labels[:, 8 * number : 8 * number + 8] = value
    write_tif(src / "labels.tif", labels)
    store = ingest(src)
    assert store.meta.class_codes == sorted(values)
    assert by_column(store) == [f"class {value}" for value in values]


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        ((1, 1.5, 2, 2), "float32", "has the label 1.5: labels are whole numbers"),
        ((1, 1e30, 2, 2), "float64", r"has the label 1e\+30: labels are whole numbers"),
        ((1, 2**63, 2, 2), "uint64", "has the label 9223372036854775808, which does not fit"),
    ],
)
def test_labels_that_are_no_codes_are_refused(
    src: Path, values: tuple[float, ...], dtype: str, message: str
) -> None:
    write_tif(src / "labels.tif", codes(*values, dtype=dtype))
    with pytest.raises(DataError, match=message):
        ingest(src)
    if dtype == "float64":  # the remedy helps
        assert by_column(ingest(src, label_nodata=["1e30"])) == ["class 1", "class 2", "class 2"]


def test_codes_that_a_warp_would_round_are_refused(src: Path) -> None:
    large = codes(2**60 + 1, 2**60 + 1, 3, 3)
    write_tif(src / "labels.tif", large, left=LEFT + 5)
    with pytest.raises(DataError, match="which a warp does not keep"):
        ingest(src)


@pytest.mark.parametrize(("dtype", "value"), [("int16", -1), ("uint8", 255), ("uint16", 65535)])
def test_values_may_mean_no_label(src: Path, dtype: str, value: int) -> None:
    write_tif(src / "labels.tif", codes(1, value, 2, value, dtype=dtype))
    store = ingest(src)
    assert f"class {value}" in store.classes
    assert store.meta.notes == [
        f"label {value} is taken as a class: if it marks pixels without a label, use "
        f"--label-nodata {value} (1 scene)"
    ]
    store = ingest(src, label_nodata=[str(value)])
    assert (by_column(store), store.meta.notes) == (["class 1", "class 2"], [])
    # several, also of a raster that declares its own
    write_tif(src / "labels.tif", codes(1, value, 2, 3, dtype=dtype), nodata=3)
    assert by_column(ingest(src, label_nodata=[str(value), "2"])) == ["class 1"]


def test_pixel_mode_keeps_negative_codes(src: Path) -> None:
    write_tif(src / "labels.tif", codes(-1, 4, 0, -5, dtype="int16"))
    store = ingest(src, patch_px=3, chip_px=64)
    assert store.meta.class_codes == [-5, -1, 4]
    assert (np.bincount(column(store.manifest, "label")) == 8 * SIZE).all()


def test_values_are_given_classes(src: Path) -> None:
    write_tif(src / "labels.tif", codes(11, 12, 21, 0))
    store = ingest(src, remap=["water=11-12", "urban=21"])
    assert (store.classes, store.meta.class_codes) == (["water", "urban"], [1, 2])
    assert by_column(store) == ["water", "water", "urban"]
    listed = ingest(src, remap=["5=11,12", "urban=21"], classes={5: "lake", 7: "urban"})
    assert by_column(listed) == ["lake", "lake", "urban"]
    assert ingest(src, remap=["40=11,12,21"]).meta.class_codes == [40]
    with pytest.raises(DataError, match=r"codes that no --remap names: 21 \(256 px\): .*--remap"):
        ingest(src, remap=["water=11,12"])
    store = ingest(src, remap=["water=11,12"], unknown="ignore")
    assert by_column(store) == ["water", "water"]
    assert store.meta.notes == ["labels.tif: pixels of no class: 21 (256 px) (1 scene)"]
    with pytest.raises(SettingError, match=r"gives 11 to 'wet', which is not in the class list"):
        ingest(src, remap=["wet=11"], classes={1: "water"})


def test_polygons_are_given_classes_by_their_texts(src: Path) -> None:
    boxes = [((0, 0, 8, 32), "Laubwald"), ((8, 0, 16, 32), "Nadelwald"), ((16, 0, 32, 32), "See")]
    write_polygons(src / "labels.gpkg", boxes)
    remap = ["forest=Laubwald,Nadelwald", "water=See"]
    store = ingest(src, label_column="name", remap=remap)
    assert by_column(store) == ["forest", "forest", "water", "water"]
    with pytest.raises(DataError, match="class 'See', which no --remap names"):
        ingest(src, label_column="name", remap=remap[:1])
    store = ingest(src, label_column="name", remap=remap[:1], label_nodata=["See"])
    assert by_column(store) == ["forest", "forest"]


def test_colors_are_classes_by_the_list_or_a_remapping(src: Path) -> None:
    write_tif(src / "labels.tif", painted(BLUE, RED, BLUE, RED), photometric="rgb", nodata=0)
    with pytest.raises(DataError, match=r"has 3 bands, colors of classes: give each.*--remap"):
        ingest(src)
    classes = src.parent / "classes.csv"
    classes.write_text("code;name;color\n1;water;#0000FF\n4;roof;255,0,0\n", encoding="utf-8-sig")
    store = ingest(src, classes=classes)
    assert (by_column(store), store.meta.class_codes) == (["water", "roof"] * 2, [1, 4])
    store = ingest(src, remap=["water=#0000ff", "roof=#ff0000"])
    assert by_column(store) == ["water", "roof"] * 2
    named = {1: {"name": "water", "color": [0, 0, 255]}, 2: {"name": "roof", "color": "#f00000"}}
    with pytest.raises(DataError, match=r"repeats a color"):
        ingest(src, classes=named | {3: {"name": "b", "color": "#0000ff"}})
    with pytest.raises(DataError, match=r"class 1: color 'blue' is not #rrggbb"):
        ingest(src, classes={1: {"name": "water", "color": "blue"}})


def test_colors_without_a_class_are_named_with_their_pixels(src: Path) -> None:
    picture = painted(BLUE, RED, PINK, BLUE)
    picture[:, :3, 0] = 77
    write_tif(src / "labels.tif", picture, photometric="rgb")
    remap = ["water=#0000ff", "roof=#ff0000"]
    message = r"labels.tif has colors .*: #ff00ff \(256 px\), #4d4d4d \(3 px\): give them a class"
    with pytest.raises(DataError, match=message):
        ingest(src, remap=remap)
    store = ingest(src, remap=remap, unknown="ignore")
    assert by_column(store) == ["water", "roof", "water"]
    assert "#ff00ff (256 px), #4d4d4d (3 px)" in store.meta.notes[0]
    store = ingest(src, remap=remap, label_nodata=["#FF00FF", "#4d4d4d"])
    assert (by_column(store), store.meta.notes) == (["water", "roof", "water"], [])


@pytest.mark.parametrize(("factor", "dtype"), [(4, "uint8"), (3, "int32"), (5, "float64")])
def test_finer_labels_are_taken_by_majority(src: Path, factor: int, dtype: str) -> None:
    fine = codes(1, 2, 1, 2, dtype=dtype).repeat(factor, axis=0).repeat(factor, axis=1)
    # the pixel that the nearest neighbor takes is of another class everywhere
    fine[factor // 2 :: factor, factor // 2 :: factor] = 9
    write_tif(src / "labels.tif", fine, pixel=10 / factor)
    store = ingest(src)
    assert store.classes == ["class 1", "class 2"]
    assert by_column(store) == ["class 1", "class 2"] * 2
    assert "labels.tif warped" in store.meta.notes[0]
    assert "by majority" in store.meta.notes[0]


def test_majorities_leave_out_what_has_no_label(src: Path) -> None:
    fine = np.full((4 * SIZE, 4 * SIZE), 200, np.uint8)
    fine[::2, ::2] = stripes(2 * SIZE, 2 * SIZE, 16, (1, 2))  # a quarter of the pixels
    write_tif(src / "labels.tif", fine, pixel=2.5)
    assert by_column(ingest(src, label_nodata=["200"])) == ["class 1", "class 2"] * 2
    # in degrees as well, and on the whole ground
    place = Affine(2.5, 0, LEFT, 0, -2.5, TOP)
    write_tif(src / "labels.tif", fine, transform=place, nodata=200)
    assert by_column(ingest(src)) == ["class 1", "class 2"] * 2


def write_table(path: Path, indices: np.ndarray, table: dict[int, tuple[int, int, int]]) -> None:
    write_tif(path, indices.astype(np.uint8))
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {index: (*color, 255) for index, color in table.items()})


@pytest.mark.parametrize("pixel", [10, 5])
def test_colors_of_a_color_table_are_remapped(src: Path, pixel: int) -> None:
    indices = codes(3, 9, 7, 3).repeat(10 // pixel, axis=0).repeat(10 // pixel, axis=1)
    write_tif(src / "labels.tif", indices.astype(np.uint8), pixel=pixel)
    with rasterio.open(src / "labels.tif", "r+") as file:
        table = {3: BLUE, 7: RED, 9: PINK}
        file.write_colormap(1, {index: (*color, 255) for index, color in table.items()})
    remap = ["water=#0000ff", "roof=#ff0000"]
    with pytest.raises(DataError, match=r"colors that no class has: #ff00ff .*'#ff00ff'"):
        ingest(src, remap=remap)
    store = ingest(src, remap=remap, label_nodata=["#ff00ff"])
    assert by_column(store) == ["water", "roof", "water"]
    assert by_column(ingest(src, remap=[*remap, "other=9"])) == ["water", "other", "roof", "water"]


@pytest.mark.parametrize(
    ("table", "expected", "noted"),
    [
        ({1: RED, 2: BLUE}, ["roof", "water"] * 2, True),
        ({1: BLUE, 2: RED}, ["water", "roof"] * 2, False),
        ({1: BLUE, 2: PINK}, ["water", "roof"] * 2, False),
    ],
)
def test_colors_of_the_class_list_decide_where_a_table_has_all_of_them(
    src: Path, table: dict[int, tuple[int, int, int]], expected: list[str], noted: bool
) -> None:
    write_table(src / "labels.tif", codes(1, 2, 1, 2), table)
    classes = {
        1: {"name": "water", "color": "#0000ff"},
        2: {"name": "roof", "color": "#ff0000"},
    }
    store = ingest(src, classes=classes)
    assert by_column(store) == expected
    assert noted == any("classes are those of its colors" in note for note in store.meta.notes)
