"""Output folders that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.schema import PARTITION_FILE, STORE_FILE
from rsdgc.errors import DataError


@contextmanager
def staged_folder(out: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of ``out`` to write in; rename it to ``out`` at the end.

    On any error the sibling is removed and ``out`` stays as it was. ``out`` may be an empty folder;
    with ``overwrite``, also a store or a partition. Anything else is never touched: DataError.
    """
    target = Path(os.path.abspath(out))
    check_free(target, overwrite=overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        publish(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(target: Path, *, overwrite: bool) -> None:
    """Raise DataError unless a folder may be made at ``target``; see :func:`staged_folder`."""
    if target.exists() and not target.is_dir():
        raise DataError(f"{target} is a file: choose another output folder")
    if not target.exists() or not any(target.iterdir()):
        return
    if not any((target / marker).is_file() for marker in (STORE_FILE, PARTITION_FILE)):
        raise DataError(f"{target} is not empty: choose another output folder")
    if not overwrite:
        raise DataError(
            f"{target} exists already: remove it, choose another output folder, or replace a store "
            "with ingest --force"
        )


def publish(partial: Path, target: Path) -> None:
    """Rename ``partial`` to ``target``; an older ``target`` comes back if that fails."""
    # a folder cannot be renamed over one that holds files, so the old one moves away first
    old = target.parent / f".{target.name}.old-{os.getpid()}"
    if target.exists():
        target.rename(old)
    try:
        partial.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
