"""A model of one's own and weights are checked in a process of its own, with the usual errors."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from fl_app.deploy.model_check import check_model
from rsdgc.errors import RunError, SettingError


def test_a_model_that_is_built_in_needs_no_check() -> None:
    check_model("small-cnn", "", None)


@pytest.mark.slow
def test_what_is_wrong_with_model_or_weights_is_said_as_ever(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_model.py").write_text("print('imported')\ndef build():\n    pass\n")
    weights = tmp_path / "weights.safetensors"
    weights.write_text("no tensors")
    with pytest.raises(SettingError, match="is not a safetensors file, or is damaged"):
        check_model("own_model:build", str(tmp_path), weights)
    assert capfd.readouterr().out == "imported\n"
    assert "own_model" not in sys.modules
    assert str(tmp_path) not in sys.path
    with pytest.raises(SettingError, match="missing"):
        check_model("own_model:missing", str(tmp_path), None)


@pytest.mark.slow
def test_a_model_whose_import_ends_the_process_is_named(tmp_path: Path) -> None:
    (tmp_path / "sudden_end.py").write_text(f"import os\nos._exit({os.EX_SOFTWARE})\n")
    with pytest.raises(RunError, match=f"model sudden_end:x ended early .* {os.EX_SOFTWARE} "):
        check_model("sudden_end:x", str(tmp_path), None)
