"""Output folders that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.foreign_errors import writing
from data_prep.schema import PARTITION_FILE, STORE_FILE
from rsdgc.documents import DocumentError, read_json
from rsdgc.errors import DataError

#: What a store or a partition consists of, by the name of its record; shards are ``*.npy``.
_CONTENTS = {
    STORE_FILE: {STORE_FILE, "manifest.parquet", "sources.json"},
    PARTITION_FILE: {PARTITION_FILE, "sites"},
}
#: Keys that tell such a record from a file of the same name by another program.
_KEYS = {STORE_FILE: {"schema_version", "splits"}, PARTITION_FILE: {"schema_version", "scheme"}}


@contextmanager
def staged_folder(
    out: str | os.PathLike[str], *, overwrite: bool = False, record: str = STORE_FILE
) -> Iterator[Path]:
    """Yield a temporary sibling of ``out`` to write in; rename it to ``out`` at the end.

    On any error the sibling is removed and ``out`` stays as it was. ``out`` may be an empty folder;
    with ``overwrite``, also a store, or a partition, whichever has the ``record``. Anything else is
    never touched: DataError.
    """
    target = Path(os.path.abspath(out))
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    with writing(target):
        check_free(target, overwrite=overwrite, record=record)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            publish(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def check_free(target: Path, *, overwrite: bool, record: str = STORE_FILE) -> None:
    """Raise DataError unless a folder may be made at ``target``; see :func:`staged_folder`."""
    if target.exists() and not target.is_dir():
        raise DataError(f"{target} is a file: choose another output folder")
    if not target.exists() or not any(target.iterdir()):
        return
    kind = "store" if record == STORE_FILE else "partition"
    if not _is_record(target / record, _KEYS[record]):
        only = f" and not a {kind}, and --force replaces nothing else" if overwrite else ""
        raise DataError(f"{target} is not empty{only}: choose another output folder")
    if not overwrite:
        raise DataError(
            f"{target} exists already: remove it, choose another output folder, or replace the "
            f"{kind} with --force"
        )
    for path in sorted(target.iterdir()):
        if path.name not in _CONTENTS[record] and not (
            record == STORE_FILE and path.suffix == ".npy"
        ):
            raise DataError(
                f"{target} holds {path.name}, which is no part of a {kind}, and --force would "
                "delete it: move it elsewhere, or choose another output folder"
            )


def _is_record(path: Path, keys: set[str]) -> bool:
    """Tell whether a file is a record of this project's, of any version, damaged or not within."""
    try:
        values = read_json(path)
    except (OSError, DocumentError):
        return False
    return isinstance(values, dict) and keys <= values.keys()


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
