"""A run over images of class folders: the bands of PNG, JPEG and such GeoTIFFs have no names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from data_prep.ingest.class_folders import ingest_class_folders
from tests.command import rsdgc
from tests.data_prep.archives import noise, write_tif
from tests.federation import run, settings

PX = 16


@pytest.fixture(scope="module")
def colored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("colored")
    for number, name in enumerate(("forest", "harbor")):
        for index in range(6):
            image = noise((3, PX, PX), seed=10 * number + index).astype(np.uint8)
            write_tif(root / "archive" / name / f"{index}.tif", image)
    ingest_class_folders(root / "archive", root / "store")
    run(settings(root / "store", root / "run", rounds=1), nodes=1)
    return root / "run"


def test_an_image_without_band_names_is_read_as_in_training(
    monkeypatch: pytest.MonkeyPatch, colored: Path, tmp_path: Path
) -> None:
    image = noise((3, 2 * PX, 2 * PX), seed=7).astype(np.uint8)
    unnamed = write_tif(tmp_path / "unnamed.tif", image)
    maps = [tmp_path / "map.tif", tmp_path / "map_with_bands.tif"]
    words = ["predict", colored, unnamed, "--stride", "8", "--out"]
    assert rsdgc(monkeypatch, *words, maps[0]) == 0
    assert rsdgc(monkeypatch, *words, maps[1], "--bands", "red,green,blue") == 0
    first, second = (rasterio.open(path).read() for path in maps)
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("kind", ["two bands", "uint16"])
def test_other_images_must_be_named(
    monkeypatch: pytest.MonkeyPatch,
    colored: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    bands, dtype = (2, np.uint8) if kind == "two bands" else (3, np.uint16)
    scene = write_tif(tmp_path / "scene.tif", noise((bands, PX, PX)).astype(dtype))
    assert rsdgc(monkeypatch, "predict", colored, scene, "--out", tmp_path / "map.tif") == 2
    assert "has the bands band1, band2" in capsys.readouterr().err
