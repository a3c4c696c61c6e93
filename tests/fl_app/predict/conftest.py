"""Runs whose models are used on scenes; no test writes to them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from data_prep.ingest.scenes import ingest_scenes
from tests.data_prep.archives import noise, stripes, write_tif
from tests.federation import run, settings

CHIP_PX = 8
CODES = (11, 42, 95)
BANDS = ("blue", "green", "red")


def write_named(
    path: Path, values: np.ndarray, names: tuple[str, ...] = BANDS, **how: object
) -> Path:
    """Write a raster whose bands have names."""
    write_tif(path, values, **how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "r+") as file:
            for number, name in enumerate(names, start=1):
                file.set_band_description(number, name)
    return path


def imagery(size: int = 96, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three bands, uint16, in which stripes of the classes show; 0 is free for nodata."""
    labels = stripes(size, size, CHIP_PX, CODES)
    shift = 150 * (labels == np.array(CODES)[:, None, None])
    return noise((3, size, size), seed, 300, 500) + shift.astype(np.uint16), labels


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over one modality of three bands, with chips of 8 px."""
    root = tmp_path_factory.mktemp("trained")
    image, labels = imagery()
    write_named(root / "archive" / "scene" / "optical.tif", image, nodata=0)
    write_tif(root / "archive" / "scene" / "labels.tif", labels, nodata=0)
    ingest_scenes(root / "archive", root / "store", chip_px=CHIP_PX, buffer_px=0)
    run(settings(root / "store", root / "run", rounds=2, local_epochs=4), nodes=1)
    return root / "run"


@pytest.fixture(scope="session")
def patches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over pixel patches of 5 px."""
    root = tmp_path_factory.mktemp("patches")
    image, labels = imagery(48)
    write_named(root / "archive" / "scene" / "optical.tif", image, nodata=0)
    write_tif(root / "archive" / "scene" / "labels.tif", labels, nodata=0)
    ingest_scenes(root / "archive", root / "store", patch_px=5)
    run(settings(root / "store", root / "run", rounds=1, model="hyper-cnn"), nodes=1)
    return root / "run"
