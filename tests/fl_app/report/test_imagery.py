from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fl_app.report import imagery
from fl_app.report.imagery import show_imagery
from fl_app.runs.records import read_run
from rsdgc.errors import DataError
from tests.data_prep.pictures.fake_store import FakeStore, folder_store, scene_store
from tests.fl_app.report.fake_run import make_run


def use(monkeypatch: pytest.MonkeyPatch, store: FakeStore) -> None:
    """Let the store stand for whatever is opened, and the labels for the predictions."""
    labels = store.manifest.column("label").to_numpy()
    monkeypatch.setattr(imagery, "open_data", lambda _path: SimpleNamespace(store=store))
    monkeypatch.setattr(imagery, "predict", lambda _run, _store, chips: labels[chips])


def test_scenes_become_a_map(
    tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, scene_store(chip_px=8))
    shown = show_imagery(read_run(run_folder), tmp_path)
    assert shown.map is not None
    assert shown.map.test_accuracy == 1.0
    assert not shown.pixels


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
