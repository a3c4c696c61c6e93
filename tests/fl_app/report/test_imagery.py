from pathlib import Path

import numpy as np
import pytest

from fl_app.report import imagery
from fl_app.report.imagery import EACH, draw_gallery, show_imagery
from fl_app.runs.records import read_run
from rsdgc.errors import DataError
from tests.data_prep.pictures.fake_store import (
    CLASSES,
    FakeData,
    FakeStore,
    folder_store,
    scene_store,
)
from tests.fl_app.report.fake_run import make_run


def use(monkeypatch: pytest.MonkeyPatch, store: FakeStore) -> None:
    """Let the store stand for whatever is opened, and the labels for the predictions."""
    labels = store.manifest.column("label").to_numpy()
    monkeypatch.setattr(imagery, "open_data", lambda _path: FakeData(store))
    monkeypatch.setattr(imagery, "predict", lambda _run, _store, chips: labels[chips])


def test_scenes_become_a_map(
    tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, scene_store(chip_px=8))
    shown = show_imagery(read_run(run_folder), tmp_path)
    (drawn,) = shown.maps
    assert drawn.test_accuracy == 1.0
    assert shown.first == drawn.scene
    assert shown.unit == "chips"


def test_images_without_scenes_become_a_gallery(
    tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imagery, "MAX_GALLERY_CHIPS", 15)
    use(monkeypatch, folder_store(chip_px=16))
    shown = show_imagery(read_run(run_folder), tmp_path)
    assert shown.gallery is not None
    assert 10 <= shown.gallery.num_right <= 15


@pytest.mark.parametrize("path", ["", "gone"])
def test_data_that_is_not_here_is_said(tmp_path: Path, path: str) -> None:
    run = read_run(make_run(tmp_path / "run", rounds=1, data_path=path))
    shown = show_imagery(run)
    assert "--data" in shown.absent


def test_data_that_cannot_be_used_is_said(
    tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: Path) -> None:
        raise DataError("meta.json is missing")

    monkeypatch.setattr(imagery, "open_data", fail)
    shown = show_imagery(read_run(run_folder), tmp_path)
    assert "meta.json is missing" in shown.absent


def test_a_store_without_test_chips_is_said(
    tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = folder_store(per_class=3, chip_px=16)
    columns = store.manifest.to_pydict()
    columns["split"] = ["train"] * len(columns["split"])
    without = FakeStore(columns, store.arrays, [["r", "g", "b"]], store.classes)
    use(monkeypatch, without)
    shown = show_imagery(read_run(run_folder), tmp_path)
    assert "no test chips" in shown.absent
    assert np.all(without.manifest.column("split").to_numpy(zero_copy_only=False) == "train")


def test_right_and_wrong_chips_are_spread_over_the_classes() -> None:
    store = folder_store(per_class=12, chip_px=16)
    labels = store.manifest.column("label").to_numpy()
    chips = np.arange(len(labels))
    predicted = np.where(chips % 2 == 0, labels, (labels + 1) % len(CLASSES))
    gallery = draw_gallery(store, chips, predicted, CLASSES)
    assert len(gallery.right) == len(gallery.wrong) == EACH
    assert {thumb.reference for thumb in gallery.right} == set(CLASSES)
    assert all(thumb.reference == thumb.predicted for thumb in gallery.right)
    assert all(thumb.reference != thumb.predicted for thumb in gallery.wrong)
    assert gallery.num_right + gallery.num_wrong == len(chips)


def test_all_right_leaves_the_wrong_side_empty() -> None:
    store = folder_store(per_class=1, chip_px=16)
    labels = store.manifest.column("label").to_numpy()
    gallery = draw_gallery(store, np.arange(len(labels)), labels, CLASSES)
    assert gallery.wrong == []
    assert len(gallery.right) == len(CLASSES)


def test_other_than_8_bit_imagery_is_stretched() -> None:
    eight = folder_store(per_class=2, chip_px=16)
    floats = [eight.arrays[0].astype(np.float32) * 40 - 3]
    store = FakeStore(eight.manifest.to_pydict(), floats, [["a", "b", "c"]], CLASSES, nodata=-3.0)
    labels = store.manifest.column("label").to_numpy()
    gallery = draw_gallery(store, np.arange(len(labels)), labels, CLASSES)
    assert gallery.right[0].uri.startswith("data:image/")
