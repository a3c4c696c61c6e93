"""The data that a run uses when it is given none: the synthetic archive, ingested and split.

It is made once and kept in the application's own folder; the same sites and seed give the same
archive to the bit.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data_prep.ingest.scenes import ingest_scenes
from data_prep.partition import partition
from data_prep.synth import write_archive
from fl_app.home import home

SITES = 4
SEED = 0
VERSION = 1
"""Raised when the archive or its ingestion changes, so that an old copy is not taken for new."""


def default_folder() -> Path:
    """Return where the built-in data are, or will be once someone asks for them."""
    return home() / "data" / f"synthetic-v{VERSION}-{SITES}-{SEED}" / "sites"


def default_data() -> Path:
    """Return the folder of the built-in data, partitioned by site; make it if it is not there.

    Several processes may ask at once: one makes it, the others wait.
    """
    folder = default_folder().parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        with _lock(folder.with_suffix(".lock")):
            if not folder.exists():
                _make(folder)
    return folder / "sites"


def _make(folder: Path) -> None:
    work = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
    try:
        write_archive(work / "archive", sites=SITES, seed=SEED)
        ingest_scenes(work / "archive", work / "store", seed=SEED, name="synthetic")
        partition(work / "store", work / "sites", sites=SITES, scheme="folder", seed=SEED)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
