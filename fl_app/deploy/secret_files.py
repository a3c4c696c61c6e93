"""Files of a party's folder: complete, with the right permissions, and never overwritten."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from rsdgc.errors import SettingError

PRIVATE = 0o600
PUBLIC = 0o644


def make_private_folder(path: Path) -> None:
    """Make a folder that only its owner can enter; close an existing one to other users."""
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(0o700)


def write_once(path: Path, content: bytes | str, mode: int = PUBLIC) -> bool:
    """Write a file unless it exists; return whether it was written.

    Unlike :func:`rsdgc.durable.replace_bytes`, this never replaces a file, so that no call can
    destroy a key.

    Parameters
    ----------
    path : Path
        The file.
    content : bytes or str
        Its content; text is written as UTF-8.
    mode : int
        Permissions, which hold from the moment the file appears.
    """
    if path.exists():
        return False
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        draft.unlink()
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)  # the user's umask may have cleared bits of the mode
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.link(draft, path)  # unlike a rename, this fails if another process made the file
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True


def read_secret(path: Path) -> bytes:
    """Return the content of a private key's file.

    Raises
    ------
    SettingError
        The file cannot be read, or is open to users other than its owner.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        content = path.read_bytes()
    except OSError as error:
        raise SettingError(
            f"private key {path} cannot be read ({error.strerror}): run this in the folder of "
            "this machine, as its owner"
        ) from None
    if mode & 0o077:
        raise SettingError(
            f"private key {path} is open to other users (mode {mode:04o}): run chmod 600 {path}"
        )
    return content
