"""The folder that a store is made in, beside the store: it stays when the process is killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from data_prep.foreign_errors import writing
from data_prep.ingest.sources import Sources
from data_prep.shards import UNCOPIED_BYTES
from data_prep.staging import STORE, check_free, check_space, publish
from data_prep.store import Store
from rsdgc.durable import sole_maker
from rsdgc.errors import DataError, RunError

KEY_FILE = "key"
#: Bytes of a sample, and of each of its bands, in the manifest and, while the store is made, in the
#: results of its job; bytes of the other records.
SAMPLE_RECORD_BYTES = 512
BAND_RECORD_BYTES = 40
RECORD_BYTES = 2**20


@dataclass(frozen=True)
class WorkFolder:
    """Where the results of jobs are kept, and where the store is put together."""

    results: Path
    store: Path


def disk_bytes(samples: int, bands: int, array_bytes: int) -> int:
    """Return the most space that making a store of some samples takes.

    Parts are moved into the store, and only the small part that is being joined to another one
    lies there twice. The manifest and its columns come on top.
    """
    records = samples * (SAMPLE_RECORD_BYTES + bands * BAND_RECORD_BYTES)
    return array_bytes + min(array_bytes, UNCOPIED_BYTES) + records + RECORD_BYTES


@contextmanager
def work_folder(
    out: str | os.PathLike[str],
    sources: Sources,
    *,
    overwrite: bool = False,
    needed_bytes: int = 0,
) -> Iterator[WorkFolder]:
    """Yield a folder to make a store in; rename the store to ``out`` at the end.

    What a killed process left is used again if its options and files (``sources``) are the same,
    and else removed. The sources are hashed meanwhile, in a thread, and recorded in the store.

    RunError if ``needed_bytes`` are not free there, with what is left of a killed process.
    """
    target = Path(os.path.abspath(out))
    # whatever reads a source turns its errors into DataError, so that those of other libraries
    # which come here are about the output
    with writing(target):
        check_free(target, overwrite=overwrite, kind=STORE)
        target.parent.mkdir(parents=True, exist_ok=True)
        # beside the store: a rename publishes it only within one file system
        folder = target.parent / f".{target.name}.ingest"
        with sole_maker(target):
            work = _prepare(folder, target, sources.key)
            try:
                check_space(folder, needed_bytes)
            except RunError:
                if not any(work.results.iterdir()):
                    shutil.rmtree(folder, ignore_errors=True)
                raise
            try:
                with sources.hashing() as hashed:
                    yield work
                    hashed.result().write(work.store)
                _check_readable(work.store, target)
                publish(work.store, target)
            except DataError:
                # data that is refused once is refused again; after anything else, such as Ctrl-C,
                # a full disk or a worker that died, the results of jobs stay and are used
                shutil.rmtree(folder, ignore_errors=True)
                raise
            shutil.rmtree(folder, ignore_errors=True)


def _check_readable(store: Path, target: Path) -> None:
    try:
        Store.open(store)
    except DataError as error:
        raise DataError(f"{target} is not made, as it could not be read: {error}") from error


def _prepare(folder: Path, target: Path, key: str) -> WorkFolder:
    """Make the folder, or keep what a killed process left of the same work."""
    stamp = folder / KEY_FILE
    if not (stamp.is_file() and stamp.read_text(encoding="utf-8") == key):
        if folder.exists() and not stamp.is_file() and any(folder.iterdir()):
            raise DataError(
                f"{folder} is where {target} would be made, and was not left by an ingestion: "
                "move it elsewhere, or choose another --out"
            )
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        stamp.write_text(key, encoding="utf-8")
    work = WorkFolder(folder / "parts", folder / "store")
    shutil.rmtree(work.store, ignore_errors=True)
    work.store.mkdir()
    work.results.mkdir(exist_ok=True)
    return work
