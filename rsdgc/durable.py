"""Files that are replaced whole: a reader finds the old content or the new, never a mix.

The order is what does it: write beside, force to disk, rename over, force the folder's names to
disk. A process that is killed between any two of these leaves the old file; after the rename, the
new one. The last step is for a loss of power.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from collections.abc import Callable

DRAFT = ".draft"
"""Ends the name of a file that is being written; what a killed process left may be deleted."""


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replace a file by what ``write`` puts at the path it is given.

    Parameters
    ----------
    path : Path
        The file; its folder exists.
    write : callable
        Called once with the path of the draft.

    Raises
    ------
    OSError
        It could not be written; the old file stands and the draft is gone.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}{DRAFT}")  # two processes may write at once
    try:
        write(draft)
        sync(draft)
        os.replace(draft, path)
    except Exception:
        draft.unlink(missing_ok=True)
        raise
    sync(path.parent)


def replace_bytes(path: Path, content: bytes) -> None:
    """Replace a file by these bytes; see :func:`replace_file`."""
    replace_file(path, lambda draft: draft.write_bytes(content))


def replace_text(path: Path, text: str) -> None:
    """Replace a file by this text, in UTF-8; see :func:`replace_file`."""
    replace_bytes(path, text.encode())


def is_locked(path: Path) -> bool:
    """Return whether a process holds an exclusive lock on a file; False where there is no file.

    The system releases a lock when the process that holds it ends, however it ends. For an
    instant the probe holds the lock itself, so whoever takes a lock should wait for it a moment.
    """
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def sync(path: Path) -> None:
    """Force a file's content, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path, levels: int = 1) -> None:
    """Make a folder and force the names of its last ``levels`` parents to disk."""
    if path.is_dir():
        return
    path.mkdir(parents=True, exist_ok=True)
    for folder in list(path.parents)[:levels]:
        sync(folder)
