"""Classes of labels that are finer than the grid, counted by hand."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from data_prep.ingest.class_list import NO_CODE, ClassList
from data_prep.ingest.grid import Grid
from data_prep.ingest.label_format import LabelRules
from data_prep.ingest.label_majority import MajorityRows
from data_prep.ingest.options import SceneOptions
from data_prep.ingest.raster_labels import RasterLabels
from data_prep.ingest.scenes import ingest_scenes
from tests.data_prep.archives import LEFT, TOP, UTM, noise, write_tif

SIZE, FACTOR = 12, 3
GRID = Grid(CRS.from_string(UTM), Affine(10, 0, LEFT, 0, -10, TOP), SIZE, SIZE)
COLORS = np.array([(255, 0, 0), (0, 0, 255), (7, 7, 7), (0, 0, 0)], np.uint8)


def most(classes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Commonest class of each 3 × 3 pixels, 0 for none, and where no other is as common."""
    cells = classes.reshape(SIZE, FACTOR, SIZE, FACTOR).swapaxes(1, 2).reshape(SIZE, SIZE, -1)
    counts = np.stack([(cells == code).sum(axis=2) for code in (1, 2, 3)], axis=2)
    first = np.sort(counts, axis=2)
    code = np.where(first[..., -1] > 0, counts.argmax(axis=2) + 1, 0)
    return code, (first[..., -1] > first[..., -2]) | (first[..., -1] == 0)


def read(labels: RasterLabels, classes: ClassList, cols: tuple[int, int]) -> NDArray[np.int64]:
    """Codes [H, W] of some columns in two bands of rows, 0 for none."""
    parts = []
    with ExitStack() as stack:
        source = labels.open(stack, GRID, cols, LabelRules(classes))
        assert isinstance(source, MajorityRows)
        for rows in ((0, 5), (5, SIZE)):
            codes, valid = source.read(*rows)
            parts.append(codes[0] if valid is None else np.where(valid[0], codes[0], 0))
    return np.concatenate(parts)


@pytest.mark.parametrize("kind", ["painted", "remapped", "several without a label"])
def test_classes_of_finer_labels_are_counted(tmp_path: Path, kind: str) -> None:
    fine = np.random.default_rng(0).integers(0, 4, (SIZE * FACTOR, SIZE * FACTOR))
    # class 1, 2, 3, and no label
    options: dict[str, Any] = {}
    names = {1: "a", 2: "b", 3: "c"}
    classes = ClassList(names, True, True)
    if kind == "painted":
        values = np.moveaxis(COLORS[fine], -1, 0)
        options = {"label_nodata": ["#000000"]}
        colors = {i + 1: tuple(COLORS[i].tolist()) for i in range(3)}
        classes = ClassList(names, True, True, colors=colors)
    elif kind == "remapped":
        # of each class two codes, so that no code has most of a pixel where its class has
        values = (10 * (fine + 1) + noise(fine.shape, 1, 0, 2, "int64")).astype("int16")
        codes = {10 * c + i: c if c < 4 else NO_CODE for c in (1, 2, 3, 4) for i in (0, 1)}
        classes = ClassList(names, True, False, remap=codes)
    else:
        values = (fine + 1 + 5 * (fine == 3) * noise(fine.shape, 1, 0, 2, "int64")).astype("uint8")
        options = {"label_nodata": ["4", "9"]}
    place = Affine(10 / FACTOR, 0, LEFT, 0, -10 / FACTOR, TOP)
    write_tif(tmp_path / "labels.tif", values, transform=place)
    labels = RasterLabels.from_file(tmp_path / "labels.tif", SceneOptions(**options))
    assert labels.resampling(GRID) == "mode"
    expected, certain = most(np.where(fine < 3, fine + 1, 0))
    assert certain.mean() > 0.5
    for first, last in ((0, SIZE), (3, 9)):
        found = read(labels, classes, (first, last))
        own = certain[:, first:last]
        np.testing.assert_array_equal(found[own], expected[:, first:last][own])


def test_ground_without_labels_has_none(tmp_path: Path) -> None:
    place = Affine(2, 0, LEFT + 40, 0, -2, TOP - 40)
    values = np.moveaxis(np.tile(COLORS[0], (10, 10, 1)), -1, 0)
    write_tif(tmp_path / "labels.tif", values, transform=place)
    labels = RasterLabels.from_file(tmp_path / "labels.tif", SceneOptions())
    classes = ClassList({1: "a"}, True, True, colors={1: (255, 0, 0)})
    codes = read(labels, classes, (0, SIZE))
    assert codes.sum() == (codes[4:6, 4:6] == 1).sum() == 4
    assert not read(labels, classes, (8, SIZE)).any()


def test_painted_labels_in_another_crs_make_a_store(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_tif(src / "optical.tif", noise((2, 32, 32)))
    picture = np.repeat(COLORS[(np.arange(300) // 75) % 2][None], 300, axis=0)
    place = Affine(1.2e-5, 0, 14.99998, 0, -9e-6, 45.15375)
    write_tif(src / "labels.tif", np.moveaxis(picture, -1, 0), transform=place, crs="EPSG:4326")
    store = ingest_scenes(
        src,
        tmp_path / "store",
        chip_px=8,
        buffer_px=0,
        remap=["roof=#ff0000", "water=#0000ff"],
        min_label=0,
    )
    assert store.classes == ["roof", "water"]
    assert any("by majority, being finer" in note for note in store.meta.notes)
