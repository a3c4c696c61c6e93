from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.staging import staged_folder
from rsdgc.errors import DataError


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with staged_folder(tmp_path / "deep" / "out") as folder:
            (folder / "half").write_text("x")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list((tmp_path / "deep").iterdir()) == []


def test_only_stores_are_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with staged_folder(out) as folder:
        (folder / "meta.json").write_text("old")
    with pytest.raises(DataError, match="exists already"), staged_folder(out):
        pass
    with pytest.raises(KeyError), staged_folder(out, overwrite=True):
        raise KeyError
    assert (out / "meta.json").read_text() == "old"
    with staged_folder(out, overwrite=True) as folder:
        (folder / "meta.json").write_text("new")
    assert (out / "meta.json").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_foreign_folders_and_files_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    photos = tmp_path / "photos"
    with pytest.raises(DataError, match="not empty"), staged_folder(photos, overwrite=True):
        pass
    with pytest.raises(DataError, match="is a file"), staged_folder(photos / "cat.jpg"):
        pass
