"""The folder that a store is made in, beside where it will be: kept when the process is killed."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from data_prep.staging import check_free, publish
from rsdgc.errors import DataError, RsdgcError

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY_FILE = "key"


@dataclass(frozen=True)
class WorkFolder:
    """Where parts are kept, and where the store is put together."""

    parts: Path
    store: Path


@contextmanager
def work_folder(
    out: str | os.PathLike[str], key: str, *, overwrite: bool = False
) -> Iterator[WorkFolder]:
    """Give a folder to make a store in; rename the store to ``out`` at the end.

    What a killed process has left is taken over if its key is the same, and else removed. After an
    error that was raised on purpose nothing stays; after anything else (Ctrl-C, no space, a kill)
    the parts do.

    Parameters
    ----------
    out
        The store to make.
    key
        What the store depends on: options and files.
    overwrite
        Replace an existing store.

    Raises
    ------
    DataError
        ``out`` may not be made, or another process is making it.
    """
    target = Path(os.path.abspath(out))
    check_free(target, overwrite=overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    home = target.parent / f".{target.name}.ingest"
    with _lock(target.parent / f".{target.name}.lock", target):
        _take_over(home, key)
        work = WorkFolder(home / "parts", home / "store")
        shutil.rmtree(work.store, ignore_errors=True)
        work.store.mkdir()
        work.parts.mkdir(exist_ok=True)
        try:
            yield work
            publish(work.store, target)
        except RsdgcError as error:
            # a process that died is no verdict on the data: its parts can be used again
            if isinstance(error, DataError):
                shutil.rmtree(home, ignore_errors=True)
            raise
        shutil.rmtree(home, ignore_errors=True)


def _take_over(home: Path, key: str) -> None:
    stamp = home / KEY_FILE
    if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == key):
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir()
        stamp.write_text(key, encoding="utf-8")


@contextmanager
def _lock(path: Path, target: Path) -> Iterator[IO[str]]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(
                f"another process is making {target}: wait for it, or choose another folder"
            ) from error
        try:
            yield file
        finally:
            path.unlink(missing_ok=True)
