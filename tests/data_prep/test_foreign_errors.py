"""Errors of GDAL, PROJ, GEOS, Arrow and the system: one line with file, cause and remedy."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.warp import transform

from data_prep.foreign_errors import cause_of, reading, writing
from rsdgc.errors import DataError, RsdgcError, RunError, SettingError
from tests.data_prep.archives import MOON, SITE_GRID, noise, write_tif


def _missing_color_table(folder: Path) -> None:
    path = write_tif(folder / "a.tif", noise((8, 8), dtype="uint8"))
    with rasterio.open(path) as source:
        source.colormap(1)


def _no_operation(folder: Path) -> None:
    transform(rasterio.crs.CRS.from_wkt(SITE_GRID), "EPSG:4326", [0.0], [0.0])


def _other_planet(folder: Path) -> None:
    transform(MOON, "EPSG:32633", [0.0], [0.0])


def _off_the_globe(folder: Path) -> None:
    # GDAL is silent after 20 errors of one pair of systems, which other tests may have made.
    transform("+proj=geos +h=35785831 +lon_0=12.34", "EPSG:4326", [7e6], [7e6])


def _not_a_raster(folder: Path) -> None:
    path = folder / "a.tif"
    path.write_bytes(b"text")
    rasterio.open(path)


def _not_polygons(folder: Path) -> None:
    path = folder / "a.gpkg"
    path.write_bytes(b"text")
    pyogrio.list_layers(path)


def _other_layer(folder: Path) -> None:
    path = folder / "a.geojson"
    path.write_text('{"type": "FeatureCollection", "features": []}')
    pyogrio.raw.read(path, layer="roads")


def _bad_wkb(folder: Path) -> None:
    shapely.from_wkb(b"text")


def _bad_arrow(folder: Path) -> None:
    pa.array(["a"], type=pa.int64())


def _latin_1(folder: Path) -> None:
    path = folder / "classes.txt"
    path.write_bytes("Wälder".encode("latin-1"))
    path.read_text(encoding="utf-8")


def _too_large(folder: Path) -> None:
    np.empty((2**30, 2**20))


def _gone(folder: Path) -> None:
    (folder / "gone.tif").open("rb").close()


FAULTS: dict[Callable[[Path], None], str] = {
    _no_operation: "Cannot find coordinate operations from site grid .* with --crs or --label-crs",
    _other_planet: "Cannot find coordinate operations from unknown .* with --crs or --label-crs",
    _off_the_globe: "projection domain: name its CRS with --crs or --label-crs",
    _missing_color_table: "NULL color table: copy it again",
    _not_a_raster: "not recognized .*: convert it to GeoTIFF",
    _not_polygons: "convert it to GeoTIFF|copy it again",
    _other_layer: "Layer 'roads' could not be opened",
    _bad_wkb: "ParseException",
    _bad_arrow: "copy it again",
    _latin_1: "can't decode byte 0xe4.*UTF-8",
    _too_large: "Unable to allocate 8.00 PiB.* fewer --processes",
    _gone: "No such file or directory: copy the missing file there",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_errors_of_libraries_become_a_line_with_a_remedy(
    fault: Callable[[Path], None], tmp_path: Path
) -> None:
    match = rf"^x.tif cannot be read: .*{FAULTS[fault]}"
    with pytest.raises(DataError, match=match) as caught, reading("x.tif"):
        fault(tmp_path)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600


@pytest.mark.parametrize("error", [ValueError("mine"), KeyError("mine"), AssertionError("mine")])
def test_defects_of_this_project_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error), match="mine"), reading("x.tif"):
        raise error
    with pytest.raises(type(error), match="mine"), writing(Path("store")):
        raise error


@pytest.mark.parametrize("context", [reading, writing])
def test_errors_that_are_lines_already_pass(context: Any) -> None:
    with pytest.raises(RunError, match=r"^a line$"), context(Path("x")):
        raise RunError("a line")
    with pytest.raises(KeyboardInterrupt), context(Path("x")):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("number", "kind", "remedy"),
    [
        (errno.ENOSPC, RunError, "free space there, or choose another output folder"),
        (errno.EDQUOT, RunError, "free space there, or choose another output folder"),
        (errno.EACCES, SettingError, "where you may write"),
        (errno.EROFS, SettingError, "where you may write"),
        (errno.ENOTDIR, SettingError, "choose another output folder"),
        (errno.ENAMETOOLONG, SettingError, "choose another output folder"),
        (errno.EMFILE, RunError, "fewer --processes"),
        (errno.EIO, RunError, "try again, or choose another output folder"),
    ],
)
def test_outputs_that_cannot_be_written_are_named_with_a_remedy(
    number: int, kind: type[RsdgcError], remedy: str
) -> None:
    match = rf"^store cannot be written: {os.strerror(number)}: .*{remedy}"
    with pytest.raises(kind, match=match), writing(Path("store")):
        raise OSError(number, os.strerror(number))


def test_names_that_are_not_utf_8_are_no_fault_of_the_output() -> None:
    with pytest.raises(DataError, match=r"a name .* is not UTF-8"), writing(Path("store")):
        "a\udce4".encode()


def test_causes_are_the_innermost_and_never_empty() -> None:
    error = ValueError("outer")
    error.__cause__ = OSError("first\nsecond")
    assert cause_of(error) == "first"
    assert cause_of(MemoryError()) == "MemoryError"
