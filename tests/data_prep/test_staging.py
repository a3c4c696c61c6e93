from __future__ import annotations

from pathlib import Path

import pytest

from data_prep.staging import PARTITION, STORE, staged_folder
from rsdgc.errors import DataError


def test_nothing_is_left_after_an_error(tmp_path: Path) -> None:
    def fail() -> None:
        with staged_folder(tmp_path / "deep" / "out") as folder:
            (folder / "half").write_text("x")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list((tmp_path / "deep").iterdir()) == []


RECORDS = {
    "meta.json": '{"schema_version": 2, "splits": {}, "name": "NAME"}',
    "partition.json": '{"schema_version": 2, "scheme": "iid", "name": "NAME"}',
}


KINDS = {"meta.json": STORE, "partition.json": PARTITION}


@pytest.mark.parametrize("record", RECORDS)
def test_a_store_is_replaced_by_a_store_and_a_partition_by_a_partition(
    tmp_path: Path, record: str
) -> None:
    out, text, kind = tmp_path / "out", RECORDS[record], KINDS[record]
    with staged_folder(out, kind=kind) as folder:
        (folder / record).write_text(text)
    with pytest.raises(DataError, match="exists already"), staged_folder(out, kind=kind):
        pass
    with pytest.raises(KeyError), staged_folder(out, overwrite=True, kind=kind):
        raise KeyError
    assert (out / record).read_text() == text
    other = next(name for name in RECORDS if name != record)
    with (
        pytest.raises(DataError, match="and --force replaces nothing else"),
        staged_folder(out, overwrite=True, kind=KINDS[other]),
    ):
        pass
    with staged_folder(out, overwrite=True, kind=kind) as folder:
        (folder / record).write_text(text.replace("NAME", "new"))
    assert "new" in (out / record).read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("meta.json", "{}"),
        ("meta.json", '{"version": 3, "splits": ["train"]}'),
        ("partition.json", '{"scheme": "gpt"}'),
        ("meta.json", "not JSON"),
    ],
)
def test_records_of_other_programs_are_not_taken_for_ours(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / name).write_text(text)
    with (
        pytest.raises(DataError, match="replaces nothing else"),
        staged_folder(tmp_path, overwrite=True, kind=KINDS[name]),
    ):
        pass
    assert (tmp_path / name).read_text() == text


def test_what_a_user_has_put_into_a_store_is_not_deleted(tmp_path: Path) -> None:
    for name in ("meta.json", "optical-000.npy", "notes.md"):
        (tmp_path / name).write_text(RECORDS["meta.json"])
    with (
        pytest.raises(DataError, match=r"holds notes\.md"),
        staged_folder(tmp_path, overwrite=True, kind=KINDS["meta.json"]),
    ):
        pass


def test_foreign_folders_and_files_are_never_touched(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    photos = tmp_path / "photos"
    with pytest.raises(DataError, match="not empty"), staged_folder(photos, overwrite=True):
        pass
    with pytest.raises(DataError, match="is a file"), staged_folder(photos / "cat.jpg"):
        pass
