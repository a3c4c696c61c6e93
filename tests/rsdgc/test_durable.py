import errno
import os
from pathlib import Path

import pytest

from rsdgc.durable import make_folder, probe_folder, replace_bytes, replace_file
from rsdgc.errors import describe_os_error


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"one", b"two, longer", b""):
        replace_bytes(path, content)
        assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stands_when_the_new_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    replace_bytes(path, b"old")

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        replace_file(path, fail)
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="No space"):
                replace_bytes(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


def test_folders_are_made_once(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b", levels=2)
    make_folder(tmp_path / "a" / "b", levels=2)
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    probe_folder(tmp_path / "deep" / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "run", Path("/proc/run"), Path("/dev/null/run")):
        with pytest.raises(OSError, match=str(folder)) as caught:
            probe_folder(folder)
        assert caught.value.filename == str(folder)
        assert str(folder) in describe_os_error(caught.value)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "a/b: no space left on device: free some space and run the same command"),
        (errno.EROFS, "a/b: read-only file system: choose a folder on another disk"),
        (errno.ENOTDIR, "a/b: not a directory: a part of this path is a file"),
        (errno.EIO, "a/b: input/output error"),
    ],
)
def test_errors_of_the_system_are_one_line_with_a_remedy(number: int, text: str) -> None:
    assert describe_os_error(OSError(number, os.strerror(number), "a/b")).startswith(text)
