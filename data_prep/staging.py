"""Output folders that appear complete or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from data_prep.foreign_errors import writing
from data_prep.schema import PARTITION_FILE, STORE_FILE
from rsdgc.documents import DocumentError, read_json
from rsdgc.errors import DataError, RunError


class FolderKind(NamedTuple):
    """A kind of folder that is made as a whole, and may be replaced by another one of its kind."""

    name: str
    record: str  #: the file that tells what is in it
    keys: frozenset[str]  #: of the record, that no other program's file of that name has
    contents: frozenset[str]  #: names of everything in it; also suffixes, such as ``.npy``


STORE = FolderKind(
    "store",
    STORE_FILE,
    frozenset(("schema_version", "splits")),
    frozenset((STORE_FILE, "manifest.parquet", "sources.json", ".npy")),
)
PARTITION = FolderKind(
    "partition",
    PARTITION_FILE,
    frozenset(("schema_version", "scheme")),
    frozenset((PARTITION_FILE, "sites")),
)


@contextmanager
def staged_folder(
    out: str | os.PathLike[str], *, overwrite: bool = False, kind: FolderKind | None = None
) -> Iterator[Path]:
    """Yield a temporary sibling of ``out`` to write in; rename it to ``out`` at the end.

    On any error the sibling is removed and ``out`` stays as it was. ``out`` may be an empty folder;
    with ``overwrite``, also one of the same kind; without a kind, nothing is replaced. Anything
    else is never touched: DataError.
    """
    target = Path(os.path.abspath(out))
    partial = target.parent / f".{target.name}.partial-{os.getpid()}"
    with writing(target):
        check_free(target, overwrite=overwrite, kind=kind)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            publish(partial, target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def check_free(target: Path, *, overwrite: bool, kind: FolderKind | None) -> None:
    """Raise DataError unless a folder may be made at ``target``; see :func:`staged_folder`."""
    if target.exists() and not target.is_dir():
        raise DataError(f"{target} is a file: choose another output folder")
    if not target.exists() or not any(target.iterdir()):
        return
    if kind is None:
        raise DataError(f"{target} is not empty: choose another output folder")
    if not _is_record(target / kind.record, kind.keys):
        only = f" and not a {kind.name}, and --force replaces nothing else" if overwrite else ""
        raise DataError(f"{target} is not empty{only}: choose another output folder")
    if not overwrite:
        raise DataError(
            f"{target} exists already: remove it, choose another output folder, or replace the "
            f"{kind.name} with --force"
        )
    for path in sorted(target.iterdir()):
        if not {path.name, path.suffix} & kind.contents:
            raise DataError(
                f"{target} holds {path.name}, which is no part of a {kind.name}, and --force would "
                "delete it: move it elsewhere, or choose another output folder"
            )


def check_space(folder: Path, needed_bytes: int) -> None:
    """Raise RunError if a folder cannot grow to so many bytes, all that it holds included."""
    if not needed_bytes:
        return
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if needed_bytes > held + free:
        raise RunError(
            f"{folder.parent} has {free / 1e6:.1f} MB free, and at most "
            f"{(needed_bytes - held) / 1e6:.1f} MB are needed: free space there, choose another "
            "output folder (--out), or try with --no-check-space, as windows without labels or "
            "data take none"
        )


def _is_record(path: Path, keys: frozenset[str]) -> bool:
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
