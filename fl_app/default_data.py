"""The data of a run that names none: a synthetic archive, ingested and partitioned.

It is generated once and kept in the home folder of rsdgc. The same sites and seed give the same
archive to the bit.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from fl_app.home import home

SITES = 4
SEED = 0
VERSION = 1
"""Increased when the archive or its ingestion changes, so that an old copy is not used."""


def default_folder() -> Path:
    """Return where the built-in data are, or will be after :func:`default_data`."""
    return home() / "data" / f"synthetic-v{VERSION}-{SITES}-{SEED}" / "sites"


def default_data() -> Path:
    """Return the folder of the built-in data, partitioned by site; generate it if it is missing.

    Several processes may call this at once: one generates the data, the others wait.
    """
    folder = default_folder().parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    if not folder.exists():
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():
                _generate(folder)
    return folder / "sites"


def _generate(folder: Path) -> None:
    # Most runs have data, and need not load GDAL.
    from data_prep.ingest.scenes import ingest_scenes  # noqa: PLC0415
    from data_prep.partition import partition  # noqa: PLC0415
    from data_prep.synth import write_archive  # noqa: PLC0415

    work = Path(tempfile.mkdtemp(prefix="generating-", dir=folder.parent))
    try:
        write_archive(work / "archive", sites=SITES, seed=SEED)
        ingest_scenes(work / "archive", work / "store", seed=SEED, name="synthetic")
        partition(work / "store", work / "sites", sites=SITES, scheme="folder", seed=SEED)
        work.rename(folder)  # last, so that a process that is killed leaves no half an archive
    finally:
        shutil.rmtree(work, ignore_errors=True)
