"""Formats of labels: which one reads a file, and formats from outside of the source tree."""

from __future__ import annotations

import csv
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from data_prep.ingest.aligned import Band, RowSource
from data_prep.ingest.archive import open_archive
from data_prep.ingest.class_list import ClassList, named_classes
from data_prep.ingest.dry_run import plan_facts
from data_prep.ingest.grid import Grid
from data_prep.ingest.label_format import LabelFormat, LabelRules
from data_prep.ingest.labels import LABEL_FORMATS, RasterLabels, find_labels, read_labels
from data_prep.ingest.options import SceneOptions
from data_prep.ingest.polygons import PolygonLabels
from data_prep.ingest.scenes import ingest_scenes
from data_prep.manifest import column
from rsdgc.errors import DataError, SettingError
from tests.data_prep.archives import LEFT, TOP, noise, stripes, write_polygons, write_tif

SIZE = 48
PLACE = f"{__name__}:PointLabels"


@dataclass(frozen=True)
class PointLabels(LabelFormat):
    """Points of a CSV file (x, y, name); each labels the square of 8 px that it lies in."""

    points: tuple[tuple[float, float, str], ...]

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        return path.suffix == ".csv"

    @classmethod
    def from_file(cls, path: Path, options: SceneOptions) -> Self:
        with path.open(newline="") as file:
            rows = [(float(x), float(y), name) for x, y, name in csv.reader(file)]
        if not rows:
            raise DataError(f"{path} has no points: add some")
        return cls(path, tuple(rows))

    @classmethod
    def implied_classes(cls, files: Any, *, pixels: bool) -> ClassList:
        return named_classes(name for file in files for _, _, name in file.points)

    def check(self, grid: Grid, rules: LabelRules) -> list[str]:
        return [f"{self.path.name}: {len(self.points)} points"]

    def open(
        self, stack: ExitStack, grid: Grid, cols: tuple[int, int], rules: LabelRules
    ) -> RowSource:
        codes = np.zeros((1, grid.height, grid.width), np.int16)
        for x, y, name in self.points:
            col, row = ((x - LEFT) // 80 * 8, (TOP - y) // 80 * 8)
            code = rules.classes.code_of(name, self.path)
            codes[0, int(row) : int(row) + 8, int(col) : int(col) + 8] = code
        return Codes(codes[:, :, slice(*cols)])


class Codes:
    """Rows of an array; 0 is no label."""

    def __init__(self, codes: NDArray[np.int16]) -> None:
        self._codes = codes

    def read(self, start: int, stop: int) -> Band:
        codes = self._codes[:, start:stop]
        return codes, codes != 0


@pytest.fixture
def src(tmp_path: Path) -> Path:
    """Two scenes of 6 × 6 squares of 8 px; every other one has a point."""
    for i in range(2):
        folder = tmp_path / "src" / f"scene-{i}"
        write_tif(folder / "optical.tif", noise((3, SIZE, SIZE), i))
        lines = [
            f"{LEFT + 80 * col + 40},{TOP - 80 * row - 40},{'wood' if col < 3 else 'water'}"
            for row in range(6)
            for col in range(row % 2, 6, 2)
        ]
        (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "src"


@pytest.mark.parametrize("processes", [1, 3])
def test_a_format_from_outside_is_named_by_its_place(src: Path, processes: int) -> None:
    store = ingest_scenes(
        src, src.parent / "store", chip_px=8, label_format=PLACE, processes=processes, buffer_px=0
    )
    assert store.classes == ["water", "wood"]
    assert store.meta.left_out == {"no_data": 0, "no_label": 36}
    cols, labels = column(store.manifest, "col"), column(store.manifest, "label")
    np.testing.assert_array_equal(labels, np.where(cols < 24, 1, 0))
    rows = column(store.manifest, "row")
    assert set((rows // 8 + cols // 8) % 2) == {0}
    assert store.meta.notes == ["labels.csv: 18 points (2 scenes)"]


def test_a_registered_format_is_found_by_itself(src: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no label file labels\.tif"):
        plan_facts(src, chip_px=8)
    monkeypatch.setattr(LABEL_FORMATS, "_items", dict(LABEL_FORMATS._items))
    LABEL_FORMATS.register("points")(PointLabels)
    facts = plan_facts(src, chip_px=8)
    assert facts["classes"] == {"1": "water", "2": "wood"}
    assert plan_facts(src, chip_px=8, label_format="points") == facts
    # the built-in formats come first
    write_tif(src / "scene-0" / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)))
    with pytest.raises(DataError, match="several formats"):
        plan_facts(src, chip_px=8)


def test_a_description_names_the_format(src: Path) -> None:
    description = src / "scenes.toml"
    description.write_text(
        f'label_format = "{PLACE}"\n[[scene]]\nname = "a"\nlabels = "scene-0/labels.csv"\n'
        'modalities = {optical = "scene-0/optical.tif"}\n'
    )
    assert plan_facts(description, chip_px=8)["classes"] == {"1": "water", "2": "wood"}


def test_faults_of_a_format_are_reasons(src: Path) -> None:
    (src / "scene-0" / "labels.csv").write_text("")
    facts = plan_facts(src, chip_px=8, label_format=PLACE)
    assert ["has no points" in item["reason"] for item in facts["skipped"]] == [True]
    with pytest.raises(SettingError, match="label format 'points' is unknown"):
        plan_facts(src, chip_px=8, label_format="points")


def test_the_class_column_says_that_polygons_are_meant(tmp_path: Path) -> None:
    write_tif(tmp_path / "labels.tif", stripes(SIZE, SIZE, 8, (1, 2)))
    write_polygons(tmp_path / "labels.gpkg", [((0, 0, 8, 8), "a")])
    write_tif(tmp_path / "labels.rst", stripes(SIZE, SIZE, 8, (1, 2)))
    raster = read_labels(tmp_path / "labels.tif", SceneOptions())
    polygons = read_labels(tmp_path / "labels.gpkg", SceneOptions(label_column="name"))
    assert (type(raster), type(polygons)) == (RasterLabels, PolygonLabels)
    # no format knows the suffix, but GDAL may
    assert type(read_labels(tmp_path / "labels.rst", SceneOptions())) is RasterLabels
    archive = open_archive(tmp_path)
    names = list(archive.files[""])
    for options, kind in (
        (SceneOptions(), RasterLabels),
        (SceneOptions(label_column="name"), PolygonLabels),
        (SceneOptions(label_column="name", label_format="raster"), RasterLabels),
    ):
        assert type(find_labels(archive, "", names, options)) is kind


def write_years(src: Path, names: dict[str, tuple[int, ...]]) -> None:
    for name, codes in names.items():
        write_tif(src / name, stripes(SIZE, SIZE, 8, codes))


def test_a_year_chooses_among_label_files(tmp_path: Path) -> None:
    src = tmp_path / "src"
    write_tif(src / "s" / "optical.tif", noise((3, SIZE, SIZE)))
    write_years(src / "s", {"labels_2018.tif": (1, 2), "labels_2021.tif": (3, 4)})
    with pytest.raises(DataError, match="label files of the years 2018, 2021: choose one with --l"):
        ingest_scenes(src, tmp_path / "store", chip_px=8)
    for year, codes in ((2018, [1, 2]), (2021, [3, 4])):
        store = ingest_scenes(
            src, tmp_path / "store", chip_px=8, buffer_px=0, label_year=year, overwrite=True
        )
        assert store.meta.class_codes == codes
    with pytest.raises(DataError, match=r"labels_1999.tif: choose a --label-year of 2018, 2021"):
        plan_facts(src, chip_px=8, label_year=1999)
    with pytest.raises(SettingError, match="--label-year is 18: write four digits"):
        plan_facts(src, chip_px=8, label_year=18)


def test_scenes_take_the_labels_of_their_own_year(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for i, date in enumerate(("20180704", "2021-08-01")):
        write_tif(src / f"scene_{date}" / "optical.tif", noise((3, SIZE, SIZE), i))
    write_years(src, {"cover2018.tif": (1, 2), "cover2021.tif": (3, 4)})
    facts = plan_facts(src, chip_px=8, labels="cover{year}.tif", strict=True)
    labels = {scene["name"]: Path(scene["labels"]).name for scene in facts["scenes"]}
    assert labels == {"scene_20180704": "cover2018.tif", "scene_2021-08-01": "cover2021.tif"}
    facts = plan_facts(src, chip_px=8, labels=str(src / "cover{year}.tif"), label_year=2021)
    assert {Path(scene["labels"]).name for scene in facts["scenes"]} == {"cover2021.tif"}
    (src / "scene_20180704").rename(src / "summer")
    facts = plan_facts(src, chip_px=8, labels="cover{year}.tif")
    assert "has no date, so {year} of --labels is unknown" in facts["skipped"][0]["reason"]


def test_label_files_may_be_named_by_a_glob(tmp_path: Path) -> None:
    src = tmp_path / "src"
    for i in range(2):
        write_tif(src / f"s{i}" / "optical.tif", noise((3, SIZE, SIZE), i))
        write_years(src / f"s{i}", {f"area_{i}_truth.tif": (1, 2)})
    assert len(plan_facts(src, chip_px=8, labels="*_truth.tif")["scenes"]) == 2
    write_years(src / "s0", {"other_truth.tif": (1, 2)})
    facts = plan_facts(src, chip_px=8, labels="*_truth.tif")
    assert "several files like *_truth.tif" in facts["skipped"][0]["reason"]
