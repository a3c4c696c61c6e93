"""``inputs.json``: read whole, or refused in a line that names the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.ingest.scenes import ingest_scenes
from fl_app.runs.inputs import INPUTS_FILE, InputModality, RunInputs
from rsdgc.errors import RunFolderError
from tests.data_prep.archives import noise, stripes, write_tif

INPUTS = RunInputs(0, [1, 2], [InputModality("optical", ["red", "green"], [5, 6], [1, 2])])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert RunInputs.read(tmp_path) is None
    INPUTS.write(tmp_path)
    assert RunInputs.read(tmp_path) == INPUTS


@pytest.mark.parametrize(
    ("place", "side"),
    [
        ({"pixel": 1.0}, 1.0),
        ({"crs": "EPSG:4326", "pixel": 1e-4, "left": 10.0, "top": 60.0}, 7.87),
        ({"crs": None}, 0.0),
    ],
    ids=["meter", "degrees", "no place"],
)
def test_pixels_have_their_size_on_the_ground(
    place: dict[str, Any], side: float, tmp_path: Path
) -> None:
    write_tif(tmp_path / "src" / "optical.tif", noise((3, 48, 48)), **place)
    write_tif(tmp_path / "src" / "labels.tif", stripes(48, 48, 8, (1, 2)), **place)
    store = ingest_scenes(tmp_path / "src", tmp_path / "store", chip_px=8)
    inputs = RunInputs.of(store)
    assert inputs.pixel_m == pytest.approx(side, rel=0.01)
    inputs.write(tmp_path)
    assert RunInputs.read(tmp_path) == inputs
    values = json.loads((tmp_path / INPUTS_FILE).read_text())
    del values["pixel_m"]  # as in a run of an earlier version
    values["modalities"][0]["resolution"] = 1.0
    (tmp_path / INPUTS_FILE).write_text(json.dumps(values))
    earlier = RunInputs.read(tmp_path)
    assert earlier is not None
    assert earlier.pixel_m == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda v: v.update(patch_px=-1), "patch_px is -1, neither 0 nor an odd size"),
        (lambda v: v.update(patch_px=4), "patch_px is 4, neither 0 nor an odd size"),
        (lambda v: v["modalities"][0].update(mean=[1]), "2 bands, 1 means and 2 standard"),
        (lambda v: v["modalities"][0].update(std=[1, -2]), "a standard deviation below 0"),
        (lambda v: v["modalities"][0].update(std=[1, 1e999]), "inf"),
        (lambda v: v["modalities"][0].pop("bands"), "modalities.0.bands"),
        (lambda v: v.update(pixel_m=-1.0), "pixel_m is -1.0, which is no size"),
    ],
)
def test_a_damaged_file_is_refused(
    change: Callable[[dict[str, Any]], object], text: str, tmp_path: Path
) -> None:
    INPUTS.write(tmp_path)
    path = tmp_path / INPUTS_FILE
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    with pytest.raises(RunFolderError, match="restore it from a copy, or run again") as caught:
        RunInputs.read(tmp_path)
    assert text in str(caught.value)
    assert str(path) in str(caught.value)
