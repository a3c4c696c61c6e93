"""``inputs.json``: read whole, or refused in a line that names the field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl_app.runs.inputs import INPUTS_FILE, InputModality, RunInputs
from rsdgc.errors import RunFolderError

INPUTS = RunInputs(0, [1, 2], [InputModality("optical", ["red", "green"], 10.0, [5, 6], [1, 2])])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert RunInputs.read(tmp_path) is None
    INPUTS.write(tmp_path)
    assert RunInputs.read(tmp_path) == INPUTS


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda v: v.update(patch_px=-1), "patch_px is -1, neither 0 nor an odd size"),
        (lambda v: v.update(patch_px=4), "patch_px is 4, neither 0 nor an odd size"),
        (lambda v: v["modalities"][0].update(mean=[1]), "2 bands, 1 means and 2 standard"),
        (lambda v: v["modalities"][0].update(std=[1, -2]), "standard deviation or a size below 0"),
        (lambda v: v["modalities"][0].update(std=[1, 1e999]), "inf"),
        (lambda v: v["modalities"][0].pop("bands"), "modalities.0.bands"),
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
