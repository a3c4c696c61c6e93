"""Stores shared by the tests of this folder; nobody writes to them."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.ingest.scenes import ingest_scenes
from data_prep.store import Store
from tests.data_prep.archives import noise, quadrants, write_class_folders, write_scene, write_tif


@pytest.fixture(scope="session")
def images_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root = tmp_path_factory.mktemp("images")
    write_class_folders(root / "archive")
    return ingest_class_folders(root / "archive", root / "store")


@pytest.fixture(scope="session")
def scenes_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two site folders of two scenes each, 12×12 chips of 8 px a scene, 8 px buffer."""
    root = tmp_path_factory.mktemp("scenes")
    for folder in range(2):
        for scene in range(2):
            place = {"left": 500_000 + 5_000 * scene, "top": 5_000_000 - 50_000 * folder}
            target = root / "archive" / f"agency-{folder}" / f"scene-{scene}"
            write_scene(target, seed=10 * folder + scene, **place)
    return ingest_scenes(root / "archive", root / "store", chip_px=8)


@pytest.fixture(scope="session")
def pixels_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    root: Path = tmp_path_factory.mktemp("pixels")
    labels = quadrants(40, 40, (1, 2, 2, 1))
    labels[18:22] = 0
    labels[:, 18:22] = 0
    write_tif(root / "archive" / "cube.tif", noise((7, 40, 40)), crs=None)
    write_tif(root / "archive" / "labels.tif", labels, crs=None)
    return ingest_scenes(root / "archive", root / "store", patch_px=5)
