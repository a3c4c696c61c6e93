"""Polygons as labels and as areas of interest."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize

from data_prep.ingest.grid import Grid
from data_prep.ingest.polygons import BurntPolygons, burning_order, polygon_file, read_polygons
from data_prep.ingest.scenes import ingest_scenes
from data_prep.manifest import column
from data_prep.rasters import read_header
from data_prep.store import Store
from rsdgc.errors import DataError
from tests.data_prep.archives import LEFT, TOP, UTM, noise, stripes, write_polygons, write_tif

BOXES = [((0, 0, 24, 64), "wood"), ((24, 0, 64, 64), "field")]


@pytest.fixture
def src(tmp_path: Path) -> Path:
    write_tif(tmp_path / "src" / "optical.tif", noise((2, 64, 64)))
    return tmp_path / "src"


def ingest(src: Path, **options: Any) -> Store:
    defaults = {"chip_px": 8, "label_column": "name", "overwrite": True}
    return ingest_scenes(src, src.parent / "store", **(defaults | options))


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".fgb"])
def test_formats_give_the_same_labels(src: Path, suffix: str) -> None:
    write_polygons(src.parent / f"landuse{suffix}", BOXES)
    store = ingest(src, labels=str(src.parent / f"landuse{suffix}"))
    assert (store.classes, store.meta.class_codes) == (["field", "wood"], [1, 2])
    labels = column(store.manifest, "label").reshape(8, 8)
    np.testing.assert_array_equal(labels, np.repeat([[1] * 3 + [0] * 5], 8, axis=0))


def test_labels_beside_each_scene_are_found_and_share_one_class_list(src: Path) -> None:
    for i, boxes in enumerate((BOXES, [((0, 0, 64, 64), "lake")])):
        folder = src / f"scene-{i}"
        write_tif(folder / "optical.tif", noise((2, 64, 64), i + 5))
        write_polygons(folder / "labels.gpkg", boxes)
    (src / "optical.tif").unlink()
    store = ingest(src)
    assert store.classes == ["field", "lake", "wood"]
    lake = column(store.manifest, "scene") == "scene-1"
    assert (column(store.manifest, "label")[lake] == 1).all()


def test_of_labels_in_two_formats_the_column_chooses_the_polygons(src: Path) -> None:
    write_polygons(src / "labels.gpkg", BOXES)
    write_tif(src / "labels.tif", stripes(64, 64, 8, (1, 2, 3)))
    store = ingest(src, label_column=None)
    assert store.classes == ["class 1", "class 2", "class 3"]
    assert not store.meta.skipped
    assert ingest(src).classes == ["field", "wood"]


def test_what_cannot_be_used_is_named(src: Path) -> None:
    path = write_polygons(src / "labels.gpkg", BOXES)
    for options, message in (
        ({"label_column": None}, r"labels.gpkg holds polygons: name the column"),
        (
            {"label_column": "fclass"},
            r"labels.gpkg has no column fclass: choose a --label-column from name",
        ),
        ({"label_layer": "other"}, r"has no layer other: choose a --label-layer from labels"),
    ):
        with pytest.raises(DataError, match=message):
            ingest(src, **options)
    with pytest.raises(DataError, match=r"gone.gpkg cannot be read"):
        ingest(src, aoi=src / "gone.gpkg")
    write_polygons(path, [((0, 0, 8, 8), "a")])
    points = shapely.points([[LEFT + 10, TOP - 10]])
    pyogrio.raw.write(
        path,
        shapely.to_wkb(points),
        [np.array(["a"], object)],
        ["name"],
        geometry_type="Point",
        crs=UTM,
    )
    with pytest.raises(DataError, match=r"labels.gpkg holds no polygon"):
        ingest(src)
    path.write_text("broken")
    with pytest.raises(DataError, match=r"labels.gpkg cannot be read"):
        ingest(src)


def test_broken_rings_are_mended_and_classless_polygons_left_out(src: Path) -> None:
    bow_tie = [(0, 0), (32, 64), (32, 0), (0, 64), (0, 0)]
    shapes = [
        shapely.Polygon([(LEFT + 10 * x, TOP - 10 * y) for x, y in bow_tie]),
        shapely.box(LEFT + 320, TOP - 640, LEFT + 640, TOP),
        shapely.box(LEFT, TOP - 640, LEFT + 640, TOP),
    ]
    pyogrio.raw.write(
        src / "labels.gpkg",
        shapely.to_wkb(np.array(shapes)),
        [np.array(["tie", "box", None], object)],
        ["name"],
        geometry_type="Polygon",
        crs=UTM,
    )
    store = ingest(src)
    assert store.classes == ["box", "tie"]
    assert any("1 polygon without name" in text for text in store.meta.notes)
    labels = column(store.manifest, "label")
    rows, cols = column(store.manifest, "row"), column(store.manifest, "col")
    assert (labels[cols >= 32] == 0).all()
    # the two wings of the tie, not the gaps between them
    places = set(zip(rows[labels == 1].tolist(), cols[labels == 1].tolist(), strict=True))
    assert {(0, 0), (0, 24), (56, 0), (56, 24)} & places == set()
    assert {(24, 0), (32, 24)} <= places


def test_numbers_are_codes_and_fractions_refused(src: Path) -> None:
    write_polygons(src / "labels.gpkg", [((0, 0, 32, 64), 7), ((32, 0, 64, 64), 3)])
    assert ingest(src).meta.class_codes == [3, 7]
    assert ingest(src, classes={3: "c", 7: "g"}).classes == ["c", "g"]
    shapes = shapely.to_wkb(np.array([shapely.box(LEFT, TOP - 640, LEFT + 640, TOP)]))
    pyogrio.raw.write(
        src / "labels.gpkg", shapes, [np.array([1.5])], ["name"], geometry_type="Polygon", crs=UTM
    )
    with pytest.raises(DataError, match=r"has the class 1.5 in name"):
        ingest(src)


def test_outside_an_area_of_interest_nothing_is_valid(src: Path) -> None:
    write_tif(src / "labels.tif", stripes(64, 64, 8, (1, 2)))
    park = write_polygons(src.parent / "park.gpkg", [((12, 8, 40, 48), "park")], crs="EPSG:4326")
    store = ingest(src, aoi=park)
    rows, cols = column(store.manifest, "row"), column(store.manifest, "col")
    assert (rows.min(), rows.max(), cols.min(), cols.max()) == (8, 40, 8, 32)
    assert store.meta.left_out["no_data"] == 64 - 5 * 4
    valid = column(store.manifest, "valid")
    assert set(valid[cols == 8]) == {0.5}
    assert set(valid[cols > 8]) == {1.0}
    inner = ingest(src, aoi=park, min_valid=0.6)
    assert len(inner) == 5 * 3
    write_polygons(park, [((900, 900, 950, 950), "park")])
    with pytest.raises(DataError, match=r"park.gpkg does not overlap"):
        ingest(src, aoi=park)


@settings(max_examples=30)
@given(
    boxes=st.lists(st.tuples(*[st.integers(0, 40)] * 4), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 39), max_size=4),
    first=st.integers(0, 10),
)
def test_rows_and_columns_burnt_apart_equal_the_whole(
    boxes: list[tuple[int, int, int, int]], cuts: list[int], first: int
) -> None:
    shapes = np.array(
        [
            shapely.box(
                LEFT + 10 * a, TOP - 10 * (b + d + 1), LEFT + 10 * (a + c + 1), TOP - 10 * b
            )
            for a, b, c, d in boxes
        ]
    )
    codes = np.arange(len(boxes)) * 1000 - 3
    grid = Grid(None, read_grid(), 40, 40)
    whole = rasterize(
        zip(shapes, codes.tolist(), strict=True),
        (40, 40),
        fill=-(2**31),
        transform=grid.transform,
        dtype="int32",
    )
    burnt = BurntPolygons(shapes, codes, grid, (first, 40))
    edges = [0, *sorted(set(cuts)), 40]
    parts = [burnt.read(a, b) for a, b in itertools.pairwise(edges)]
    np.testing.assert_array_equal(
        np.concatenate([values for values, _ in parts], axis=1)[0], whole[:, first:]
    )


def read_grid() -> Any:
    return Affine(10, 0, LEFT, 0, -10, TOP)


def test_priorities_are_burnt_last() -> None:
    codes = np.array([5, 1, 2, 5, 3])
    assert codes[burning_order(codes, (2, 5))].tolist() == [1, 3, 5, 5, 2]


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    path = write_polygons(tmp_path / "a.geojson", BOXES)
    assert len(read_polygons(polygon_file(path, "name")).shapes) == 2
    write_polygons(path, BOXES[:1])
    assert len(read_polygons(polygon_file(path, "name")).shapes) == 1
    header = read_header(write_tif(tmp_path / "a.tif", noise((4, 4))))
    assert header.crs is not None


def write_shapes(path: Path, shapes: list[Any], names: list[str | None], **kind: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wkb = [shape if isinstance(shape, bytes | None) else shapely.to_wkb(shape) for shape in shapes]
    pyogrio.raw.write(
        path,
        np.array(wkb, object),
        [np.array(names, object)],
        ["name"],
        **({"geometry_type": "Unknown", "crs": UTM} | kind),
    )
    return path


def pixels(a: float, b: float, c: float, d: float) -> Any:
    return shapely.box(LEFT + 10 * a, TOP - 10 * d, LEFT + 10 * c, TOP - 10 * b)


LINE = shapely.LineString([(LEFT, TOP), (LEFT + 50, TOP - 50)])


@pytest.mark.parametrize(
    "shape",
    [
        shapely.GeometryCollection([LINE, pixels(0, 0, 16, 64), pixels(16, 0, 32, 64)]),
        shapely.GeometryCollection(
            [shapely.GeometryCollection([pixels(0, 0, 32, 64), shapely.Point(LEFT, TOP)]), LINE]
        ),
        shapely.GeometryCollection([shapely.MultiPolygon([pixels(0, 0, 32, 64)])]),
        shapely.force_3d(pixels(0, 0, 32, 64), 9.5),
    ],
    ids=["mixed", "nested", "multipolygon", "heights"],
)
def test_the_polygons_of_collections_count(src: Path, shape: Any) -> None:
    write_shapes(src / "labels.gpkg", [shape, pixels(32, 0, 64, 64)], ["held", "plain"])
    store = ingest(src)
    assert store.classes == ["held", "plain"]
    assert (np.bincount(column(store.manifest, "label")) == 32).all()


def test_what_has_no_area_is_no_class(src: Path) -> None:
    flat = shapely.Polygon([(LEFT, TOP), (LEFT + 90, TOP), (LEFT + 40, TOP)])
    shapes = [pixels(0, 0, 64, 64), None, shapely.Polygon(), LINE, flat]
    write_shapes(src / "labels.geojson", shapes, ["wood", "none", "empty", "line", "flat"])
    store = ingest(src)
    assert store.classes == ["wood"]
    assert "labels.geojson: 3 features other than polygons (1 scene)" in store.meta.notes
    assert "labels.geojson: 1 polygon without an area (1 scene)" in store.meta.notes


@pytest.mark.parametrize("name", ["v!1", "wald!.d", "a!b!c"])
@pytest.mark.parametrize("suffix", [".shp", ".gpkg"])
def test_names_that_look_like_addresses_are_paths(src: Path, name: str, suffix: str) -> None:
    path = write_polygons(src.parent / "plain" / f"labels{suffix}", BOXES)
    path.parent.rename(src.parent / name)
    store = ingest(src, labels=str(src.parent / name / path.name))
    assert store.classes == ["field", "wood"]


def test_classes_are_named_in_composed_form(src: Path) -> None:
    boxes = [
        ((0, 0, 32, 64), "Fore\u0302t "),
        ((32, 0, 48, 64), "For\u00eat"),
        ((48, 0, 64, 64), "eau"),
    ]
    write_polygons(src / "labels.gpkg", boxes)
    assert ingest(src).classes == ["For\u00eat", "eau"]
    assert ingest(src, classes={1: "eau", 2: "Fore\u0302t"}).classes == ["eau", "For\u00eat"]


def test_codes_are_matched_as_numbers_or_texts(src: Path) -> None:
    write_polygons(src / "labels.gpkg", [((0, 0, 32, 64), "311"), ((32, 0, 64, 64), "52")])
    assert ingest(src).meta.class_codes == [52, 311]
    assert ingest(src, classes={52: "water", 311: "wood"}).classes == ["water", "wood"]
    store = ingest(src, classes={52: "water"}, label_nodata=["311"])
    assert store.meta.notes[0].startswith("labels.gpkg: 1 polygon without name")
