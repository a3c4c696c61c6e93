"""Errors of other libraries and of the system, each turned into one line with a remedy.

GDAL and PROJ (through rasterio and pyogrio), GEOS, Arrow and the system each raise exceptions of
their own, and some of them plain ``ValueError``. Whatever reads a file runs within :func:`reading`,
and whatever writes one within :func:`writing`. What they do not know is a defect of this project
and stays what it is.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rsdgc.errors import DataError, RsdgcError, RunError, SettingError
from rsdgc.plain_text import plain_line

#: Packages whose exceptions are about files and places, not about this project's code.
LIBRARIES = frozenset(("affine", "rasterio", "pyogrio", "shapely", "pyarrow"))
#: Errors of the system and of Python; rasterio raises SystemError where GDAL gives no reason.
SYSTEM_ERRORS = (OSError, UnicodeError, MemoryError, SystemError)
#: PROJ names a CRS by pages of JSON.
_PROJJSON = re.compile(r"'\{.*?\"type\": \"(\w+)\",\s+\"name\": \"([^\"]*)\".*?\}'(?= to |$)", re.S)
#: Characters of a cause: the remedy after it must not be cut.
MAX_CAUSE = 400


def is_foreign(error: BaseException) -> bool:
    """Tell whether an exception is another library's, or was raised within its code."""
    if isinstance(error, RsdgcError):
        return False
    if isinstance(error, SYSTEM_ERRORS):
        return True
    if any(_package(kind.__module__) in LIBRARIES for kind in type(error).__mro__):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    name = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return isinstance(error, Exception) and _package(str(name)) in LIBRARIES


def cause_of(error: BaseException) -> str:
    """Return the innermost cause of an error in one line, without the remedy."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # what GDAL's own programs would be told to do
    error_text = str(error).partition("; It might help")[0]
    text = _PROJJSON.sub(lambda match: f"{match[2]} ({match[1]})", error_text).strip()
    line = text.split("\n", maxsplit=1)[0].rstrip(". ")  # a colon and a remedy follow
    return plain_line(line, MAX_CAUSE) or type(error).__name__


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors of other libraries over a file, or over a scene, into DataError."""
    try:
        yield
    except Exception as error:
        if not is_foreign(error):
            raise
        raise DataError(cannot_read(path, error)) from error


def cannot_read(path: str | os.PathLike[str], error: BaseException) -> str:
    """Say in one line that a file cannot be read, why, and what helps."""
    # GDAL names the file as well
    cause = cause_of(error).removeprefix(f"{path}: ").removeprefix(f"'{path}' ")
    return f"{path} cannot be read: {cause}: {_read_remedy(cause, error)}"


#: What a cause says, in small letters, and what helps.
_READ_REMEDIES = (
    (("permission denied",), "give this user the right to read it"),
    (("no such file", "not found"), "copy the missing file there"),
    (("coordinate operation", "projection", "proj:"), "name its CRS with --crs or --label-crs"),
    (
        ("not recognized", "supported file format"),
        "convert it to GeoTIFF (polygons: to GeoPackage), or remove it",
    ),
    (("memory", "unable to allocate"), "leave it out, or use fewer --processes"),
)


def _read_remedy(cause: str, error: BaseException) -> str:
    if isinstance(error, UnicodeError):
        return "name files and texts in UTF-8"
    words = cause.lower()
    for signs, remedy in _READ_REMEDIES:
        if any(sign in words for sign in signs):
            return remedy
    return "copy it again, or remove it"


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn errors over an output into RunError; into SettingError where it cannot be there."""
    try:
        yield
    except Exception as error:
        if not is_foreign(error):
            raise
        raise _cannot_write(target, error) from error


def _cannot_write(target: Path, error: BaseException) -> RsdgcError:
    cause, number = cause_of(error), getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in cause:
        return RunError(
            f"{target} cannot be written: {cause}: free space there, or choose another output "
            "folder (--out)"
        )
    if number in (errno.EACCES, errno.EPERM, errno.EROFS):
        return SettingError(
            f"{target} cannot be written: {cause}: choose an output folder (--out) where you may "
            "write"
        )
    if number in (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP):
        return SettingError(
            f"{target} cannot be written: {cause}: choose another output folder (--out)"
        )
    if isinstance(error, UnicodeError):
        return DataError(
            f"{target} cannot be written: a name in the archive is not UTF-8 ({cause}): rename it"
        )
    if isinstance(error, MemoryError) or number in (errno.EMFILE, errno.ENOMEM):
        return RunError(f"{target} cannot be written: {cause}: use fewer --processes")
    return RunError(
        f"{target} cannot be written: {cause}: try again, or choose another output folder (--out)"
    )


def _package(module: str) -> str:
    return module.partition(".")[0]
