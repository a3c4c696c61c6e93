"""Replacing a run by a new one in the same folder, for ``--force``.

Only a folder that is a run's and nothing else is replaced: ``config.json`` must be a run's record,
for many programs write files of that name, and nothing may lie beside it that no run writes. The
old run is moved aside and deleted when the new one is complete. Until then it can be had back.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fl_app.runs.lock import HOLDER_FILE, LOCK_FILE, refuse_if_running
from fl_app.runs.records import (
    ADAPTERS_FILE,
    BEST_MODEL_FILE,
    CONFIG_FILE,
    INIT_WEIGHTS_FILE,
    MODEL_FILE,
    REPORT_FILE,
    SUMMARY_FILE,
    TRAFFIC_FILE,
    RunConfig,
)
from rsdgc.durable import DRAFT
from rsdgc.errors import RunFolderError, SettingError
from strategies.ledger import FILES as LEDGER_FILES

RUN_ENTRIES = frozenset(
    (
        *(CONFIG_FILE, SUMMARY_FILE, LOCK_FILE, HOLDER_FILE),
        *(*LEDGER_FILES, "privacy.jsonl", "normalization.json"),
        *(MODEL_FILE, BEST_MODEL_FILE, ADAPTERS_FILE, INIT_WEIGHTS_FILE),
        *("inputs.json", REPORT_FILE, "progress.json", "checkpoints", "state", "tracking"),
        TRAFFIC_FILE,
    )
)
"""Names of everything that a run leaves in its folder."""


def in_use(folder: Path) -> bool:
    """Return whether something is at a path that a new run would write over."""
    if not folder.is_dir():
        return folder.exists()
    # A run that ended before it wrote anything may have left its lock; that is in no one's way.
    return any(path.name not in (LOCK_FILE, HOLDER_FILE) for path in folder.iterdir())


def check_replaceable(folder: Path) -> None:
    """Raise :class:`SettingError` unless a folder is a run's and nothing else.

    Raises :class:`RunFolderError` if a process works in it.
    """
    try:
        if not folder.is_dir():
            raise SettingError(f"{folder} is a file: choose another --out")
        RunConfig.read(folder)
    except RunFolderError:
        raise SettingError(
            f"{folder} is not the folder of a run, and --force replaces nothing else: choose "
            "another --out"
        ) from None
    for path in sorted(folder.iterdir()):
        if path.name not in RUN_ENTRIES and not path.name.endswith(DRAFT):
            raise SettingError(
                f"{folder} holds {path.name}, which no run has written, and --force would delete "
                "it: move it elsewhere, or choose another --out"
            )
    refuse_if_running(folder)


@contextmanager
def replacing(folder: Path) -> Iterator[None]:
    """Move an old run, if there is one, out of the way of the new one that the block makes.

    If the new run is complete at the end, the old one is deleted. If the new run has not begun, the
    old one comes back. Between the two, both stay, and a line says where the old one is.
    """
    if not in_use(folder):
        yield
        return
    check_replaceable(folder)
    is_link, folder = folder.is_symlink(), folder.resolve()
    aside = _free_name(folder)
    folder.rename(aside)
    if is_link:  # a link to nothing would be in the new run's way
        folder.mkdir()
    try:
        yield
    finally:
        if (folder / SUMMARY_FILE).exists():
            shutil.rmtree(aside)
        elif not in_use(folder):
            if folder.is_dir():  # with a lock, at most
                shutil.rmtree(folder)
            aside.rename(folder)
        else:
            print(f"the run that was to be replaced is in {aside}", file=sys.stderr)


def _free_name(folder: Path) -> Path:
    number, aside = 1, folder.with_name(f"{folder.name}.replaced")
    while aside.exists():
        number += 1
        aside = folder.with_name(f"{folder.name}.replaced-{number}")
    return aside
