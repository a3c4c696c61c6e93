"""Atomic file replacement: a reader finds the old content or the new, never a mix.

The order of the steps guarantees it: write a draft beside the file, force the draft to disk, rename
it over the file, force the folder to disk. A process that is killed before the rename leaves the
old file, after it the new one. The last step makes the rename survive a loss of power.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rsdgc.errors import DataError

DRAFT = ".draft"
"""Suffix of a file that is being written. A draft that a killed process left may be deleted."""
PROBE_BYTES = 2**16
"""Written to see whether a disk has room at all."""
ACQUIRE_TIMEOUT_S = 1.0
"""Longest wait for a lock: :func:`is_locked` holds one for an instant."""


def replace_file(path: Path, write: Callable[[Path], object], *, durable: bool = True) -> None:
    """Replace a file by the one that ``write`` creates at the path that it is passed.

    Without ``durable`` nothing is forced to disk, which is quicker: after a loss of power the file
    may be empty.

    Raises
    ------
    OSError
        The file cannot be written; the old one is unchanged and the draft deleted.
    """
    # The process id keeps apart the drafts of two processes that write the same file.
    draft = path.with_name(f".{path.name}.{os.getpid()}{DRAFT}")
    try:
        write(draft)
        if durable:
            sync(draft)
        os.replace(draft, path)
    except Exception:
        draft.unlink(missing_ok=True)
        raise
    if durable:
        sync(path.parent)


def replace_bytes(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace a file by these bytes; see :func:`replace_file`."""
    replace_file(path, lambda draft: draft.write_bytes(content), durable=durable)


def replace_text(path: Path, text: str, *, durable: bool = True) -> None:
    """Replace a file by this text, in UTF-8; see :func:`replace_file`."""
    replace_bytes(path, text.encode(), durable=durable)


def is_locked(path: Path) -> bool:
    """Return whether a process holds an exclusive lock on a file; False if there is no file.

    The system releases a lock when its process ends, in whatever way. This function holds the lock
    itself for an instant, so code that takes a lock should wait for it a moment.
    """
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


@contextmanager
def sole_maker(target: Path) -> Iterator[None]:
    """Let no other process make ``target`` while the context lasts.

    ``.NAME.lock`` beside it is locked, and removed at the end. The system releases the lock of a
    process that is killed, so the file that this one leaves keeps nobody away.

    Raises
    ------
    DataError
        Another process is making it.
    """
    path = target.with_name(f".{target.name}.lock")
    lock = FileLock(path, timeout=ACQUIRE_TIMEOUT_S)
    try:
        lock.acquire()
    except Timeout:
        raise _being_made(target) from None
    try:
        yield
    finally:
        # Unlinked while it is held: whoever comes next makes a new file.
        path.unlink(missing_ok=True)
        lock.release()


def refuse_if_being_made(target: Path) -> None:
    """Raise :class:`DataError` if a process is in :func:`sole_maker` of ``target``."""
    if is_locked(target.with_name(f".{target.name}.lock")):
        raise _being_made(target)


def _being_made(target: Path) -> DataError:
    return DataError(f"another process is making {target}: wait for it, or choose another --out")


def sync(path: Path) -> None:
    """Force the content of a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path, levels: int = 1) -> None:
    """Make a folder, and force the names in its nearest ``levels`` parents to disk."""
    if path.is_dir():
        return
    path.mkdir(parents=True, exist_ok=True)
    for folder in list(path.parents)[:levels]:
        sync(folder)


def probe_folder(folder: Path) -> None:
    """Raise OSError unless files can be written below a folder, which need not exist yet.

    Something is written, because permissions do not tell of a disk that is full or read-only.
    Nothing stays.
    """
    try:
        place = folder.absolute()
        while not place.exists():
            place = place.parent
        with tempfile.TemporaryDirectory(prefix=".rsdgc-", dir=place) as probe:
            Path(probe, "probe").write_bytes(bytes(PROBE_BYTES))
    except OSError as error:  # named by the path that was asked for
        raise OSError(error.errno, error.strerror, str(folder)) from None
