from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from data_prep.indian_pines import CLASS_NAMES, write_indian_pines
from rsdgc.errors import DataError


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_scene_labels_and_attribution(tmp_path: Path) -> None:
    load = pytest.importorskip("tensorly.datasets").load_indian_pines
    out = write_indian_pines(tmp_path / "real")
    assert out == tmp_path / "real"
    with rasterio.open(out / "indian-pines" / "hyperspectral.tif") as source:
        assert source.crs is None
        assert source.count == 200
        assert source.dtypes[0] == "uint16"
        assert "CC BY 3.0" in source.tags()["LICENCE"]
        cube = source.read()
    np.testing.assert_array_equal(np.moveaxis(cube, 0, -1), load()["tensor"])
    with rasterio.open(out / "indian-pines" / "labels.tif") as source:
        labels = source.read(1)
    assert labels.shape == (145, 145)
    assert labels.dtype == np.uint8
    assert (labels > 0).sum() == 10249
    classes = json.loads((out / "classes.json").read_text())
    assert list(classes) == [str(code) for code in range(1, 17)]
    assert tuple(classes.values()) == CLASS_NAMES
    assert "doi:10.4231" in (out / "indian-pines" / "ATTRIBUTION.txt").read_text()


def test_writing_does_not_warn(tmp_path: Path) -> None:
    pytest.importorskip("tensorly")
    write_indian_pines(tmp_path / "real")
    with pytest.warns(NotGeoreferencedWarning):
        rasterio.open(tmp_path / "real" / "indian-pines" / "labels.tif").close()


def test_missing_package_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def refuse(name: str, *arguments: Any, **named: Any) -> Any:
        if name.startswith("tensorly"):
            raise ImportError(name)
        return original(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(DataError, match=r'pip install "rsdgc\[demo\]"'):
        write_indian_pines(tmp_path / "real")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(DataError, match="not empty"):
        write_indian_pines(tmp_path)
    assert (tmp_path / "mine").read_text() == "keep"
