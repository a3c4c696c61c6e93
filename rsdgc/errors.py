"""Every error that this project raises deliberately.

::

    RsdgcError              one line: what is wrong, the value, the remedy
    ├── SettingError        a setting is unknown, out of range, or contradicts another
    ├── DataError           imagery, labels, a store or a partition cannot be used
    ├── WireError           bytes that came from a peer are not a valid update
    ├── StateError          a site's state files cannot be read or written
    └── RunError            a federated run cannot start, or did not finish
        └── RunFolderError  a run's folder is missing, damaged, or not fit for what is asked

Catch :class:`RsdgcError` to handle them all. Any other exception is a bug.
"""

from __future__ import annotations

import errno
import traceback
from pathlib import Path

from rsdgc.plain_text import one_line


class RsdgcError(Exception):
    """Base of all deliberate errors; the text is one line for a terminal.

    Paths and values in it may hold anything: see :func:`rsdgc.plain_text.one_line`.
    """

    def __str__(self) -> str:
        return one_line(super().__str__())


class SettingError(RsdgcError):
    """A setting is unknown, out of range, or contradicts another."""


class DataError(RsdgcError):
    """Imagery, labels, a store or a partition cannot be used."""


class WireError(RsdgcError):
    """Bytes that came from a peer are not a valid update."""


class StateError(RsdgcError):
    """A site's state files cannot be read or written."""


class RunError(RsdgcError):
    """A federated run cannot start, or did not finish."""


class RunFolderError(RunError):
    """A run's folder is missing, damaged, or not fit for what is asked."""


_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "a part of this path is a file; choose another path",
    errno.EISDIR: "name a file",
    errno.EEXIST: "choose another path",
    errno.ENOTEMPTY: "choose another path",
    errno.EACCES: "choose another path, or change its permissions",
    errno.EPERM: "choose another path, or change its permissions",
    errno.EROFS: "choose a folder on another disk",
    errno.ENOSPC: "free some space and run the same command again",
    errno.EDQUOT: "free some space and run the same command again",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ELOOP: "its links lead in a circle; choose another path",
    errno.EMFILE: "raise the limit with ulimit -n",
}


def describe_os_error(error: OSError) -> str:
    """Return an error of the operating system in one line: the path, what is wrong, the remedy."""
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    place = f"{' → '.join(names)}: " if names else ""
    remedy = _REMEDIES.get(error.errno or 0)
    text = f"{place}{reason[:1].lower()}{reason[1:]}" + (f": {remedy}" if remedy else "")
    return one_line(text)


def describe_error(error: BaseException, file: str | None = None) -> str:
    """Return an exception of a user's code in one line.

    It ends with the place in ``file`` that raised it, or with the last place if that is unknown.
    """
    lines = str(error).strip().splitlines() or [""]
    text = f"{type(error).__name__}: {lines[0]}".rstrip(": ")
    if isinstance(error, SyntaxError):  # names its place itself
        return text
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith("<frozen")]
    place = next((frame for frame in reversed(own) if frame.filename == file), None)
    place = place or (own[-1] if own else None)
    return f"{text}, at {Path(place.filename).name}:{place.lineno}" if place else text
