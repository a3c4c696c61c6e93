"""Files of a party's folder: made once, whole, with the right permissions, never over another."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from rsdgc.errors import SettingError

PRIVATE = 0o600
PUBLIC = 0o644


def make_private_folder(path: Path) -> None:
    """Make a folder that only its owner can enter; close one that is there to others."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)


def write_once(path: Path, content: bytes | str, mode: int = PUBLIC) -> bool:
    """Write a file unless there is one; return whether it was written.

    The file appears whole or not at all, and a key that exists is never replaced.

    Parameters
    ----------
    path : Path
        Where.
    content : bytes or str
        What; text is written as UTF-8.
    mode : int
        Permissions, from the moment when the file appears.
    """
    if path.exists():
        return False
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        draft.unlink()
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # fails where another process was quicker, unlike a rename
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def read_secret(path: Path) -> bytes:
    """Return a private key's file.

    Raises
    ------
    SettingError
        It cannot be read, or others than its owner can read it.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        content = path.read_bytes()
    except OSError as error:
        raise SettingError(
            f"private key {path} cannot be read ({error.strerror}): is this the party's own "
            "folder, and do you run as its owner?"
        ) from None
    if mode & 0o077:
        raise SettingError(
            f"private key {path} is open to others (mode {mode:04o}): chmod 600 {path}"
        )
    return content
