"""Small files of text that others may have written: JSON, TOML, CSV, read whole or refused.

A parser alone lets through what fails later and elsewhere: a half of a surrogate pair, which no
report can be written with, a number of a thousand digits, infinity, or lists nested so deeply that
Python's stack ends. Every file of these kinds that the project reads comes through here, whoever
wrote it. What such a file *means* is checked by its own module.
"""

from __future__ import annotations

import codecs
import csv
import errno
import io
import json
import math
import stat
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

MAX_BYTES = 64 * 2**20
"""Largest file that is read at once: the ``meta.json`` of ten thousand scenes has a twentieth."""
MAX_LINE_BYTES = 2**22
"""Longest line of a file that is read line by line: a round of ten thousand layers has a tenth."""
MAX_DEPTH = 64
"""Deepest nesting of lists and objects; the project's own files have less than ten levels."""
MAX_INTEGER = 2**64
"""Integers are below it in magnitude: Flower's numbers of runs and nodes take 64 bits."""
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


class DocumentError(ValueError):
    """The content of a file cannot be used; the text says why, in one line without the path."""


def read_bytes(path: Path) -> bytes:
    """Return the content of a regular file.

    A device or a pipe is not opened, because reading it may never end.

    Raises
    ------
    OSError
        The file is missing or cannot be read.
    DocumentError
        It is not a regular file, or larger than :data:`MAX_BYTES`.
    """
    size = _check_file(path)
    if size > MAX_BYTES:
        raise DocumentError(f"it has {size} bytes, and at most {MAX_BYTES} are read")
    return path.read_bytes()


def _check_file(path: Path) -> int:
    """Return a file's bytes; raise OSError or DocumentError if it is not a regular file."""
    facts = path.stat()
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(facts.st_mode):
        raise DocumentError("it is not a regular file")
    return facts.st_size


def read_text(path: Path) -> str:
    """Return the text of a file; raises as :func:`read_bytes`, and if it is not in UTF-8."""
    return _decode(read_bytes(path), "utf-8")


def read_marked_text(path: Path) -> str:
    """Return the text of a file that a person wrote; raises as :func:`read_text`.

    See :func:`decode_marked`.
    """
    return decode_marked(read_bytes(path))


def decode_marked(content: bytes) -> str:
    """Return a text in UTF-8, or in what its byte-order mark says: UTF-8 or UTF-16.

    Spreadsheets and editors put such a mark at the start.
    """
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return _decode(content[len(mark) :], encoding)
    return _decode(content, "utf-8")


def _decode(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding[:6].upper()
        raise DocumentError(f"it is not in {name} (byte {error.start}): save it as UTF-8") from None


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file of any size; raises as :func:`read_text`, and for a long line."""
    _check_file(path)
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE_BYTES + 1):
            if len(line) > MAX_LINE_BYTES:
                raise DocumentError(f"a line has more than {MAX_LINE_BYTES} bytes")
            try:
                yield line.decode()
            except UnicodeDecodeError:
                raise DocumentError("it is not in UTF-8") from None


def read_json(path: Path) -> Any:
    """Return the values of a JSON file; raises as :func:`read_text` and :func:`parse_json`."""
    return parse_json(read_text(path))


def parse_json(text: str, *, finite: bool = True) -> Any:
    """Return the values of a JSON text.

    Parameters
    ----------
    text
        The text.
    finite
        Whether NaN and infinity are refused, which JSON does not have and Python writes.

    Raises
    ------
    DocumentError
        The text is not JSON, is nested too deeply, or holds text or numbers that cannot be used.
    """
    values = _parse(json.loads, "JSON", text)
    check_values(values, finite=finite)
    return values


def read_toml(path: Path) -> dict[str, Any]:
    """Return the values of a TOML file; raises as :func:`read_text` and :func:`parse_toml`."""
    return parse_toml(read_text(path))


def parse_toml(text: str) -> dict[str, Any]:
    """Return the values of a TOML text; raises as :func:`parse_json`."""
    values: dict[str, Any] = _parse(tomllib.loads, "TOML", text)
    check_values(values)
    return values


def _parse(parser: Callable[[str], Any], kind: str, text: str) -> Any:
    try:
        return parser(text)
    except RecursionError:
        raise DocumentError("it is nested too deeply") from None
    except ValueError as error:
        raise DocumentError(f"it is not {kind}: {error}") from None


def parse_table(text: str, needed: Sequence[str] = ()) -> tuple[set[str], list[dict[str, str]]]:
    """Return the columns of a CSV text, and its rows by column; a cell that is missing is empty.

    Cells are divided by commas, or by the semicolons or tabs that a header without commas has.

    Raises
    ------
    DocumentError
        The text is not CSV, as with a quote that is never closed, or not valid Unicode; or it lacks
        one of the columns ``needed``.
    """
    if not is_text(text) or "\0" in text:
        raise DocumentError("it is not a table of text")
    header = text.partition("\n")[0]
    delimiter = next((mark for mark in ",;\t" if mark in header), ",")
    reader = csv.DictReader(io.StringIO(text), restval="", restkey="", delimiter=delimiter)
    try:
        rows = [{key: value for key, value in row.items() if key} for row in reader]
    except csv.Error as error:
        raise DocumentError(f"it is not a table: line {reader.line_num}: {error}") from None
    columns = set(reader.fieldnames or ())
    if missing := [name for name in needed if name not in columns]:
        raise DocumentError(f"it has no column {missing[0]}: it needs {', '.join(needed)}")
    return columns, rows


def is_text(text: str) -> bool:
    """Return whether a text can be written as UTF-8: it has no half of a surrogate pair."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_values(values: Any, *, finite: bool = True) -> None:
    """Raise :class:`DocumentError` if nested values hold text or numbers that cannot be used."""
    # Level by level, because recursion has an end of its own.
    level = [values]
    for _ in range(MAX_DEPTH):
        following: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                following += value
                following += value.values()
            elif isinstance(value, list):
                following += value
            else:
                _check_scalar(value, finite)
        if not following:
            return
        level = following
    raise DocumentError("it is nested too deeply")


def _check_scalar(value: Any, finite: bool) -> None:
    if isinstance(value, str):
        if not is_text(value):
            raise DocumentError(f"{shorten(value)} is not valid Unicode")
    elif isinstance(value, float):
        if finite and not math.isfinite(value):
            raise DocumentError(f"it holds {value}, which is not a number of JSON")
    elif isinstance(value, int) and abs(value) >= MAX_INTEGER:
        raise DocumentError("it holds an integer of more than 64 bits")


def shorten(value: object, length: int = 60) -> str:
    """Return a value as Python writes it, cut to a length, for an error message."""
    text = ascii(value)
    return text if len(text) <= length else f"{text[: length - 1]}…"


def explain_invalid(error: ValidationError) -> str:
    """Return field, reason and value of the first error that pydantic found, in one line."""
    first = error.errors(include_url=False)[0]
    parts = [part if isinstance(part, int) else shorten(part)[1:-1] for part in first["loc"]]
    where = ".".join(map(str, parts))
    reason = " ".join(first["msg"].removeprefix("Value error, ").split())
    # The project's own reasons name the value already.
    named = first["type"] in ("value_error", "missing", "extra_forbidden")
    scalar = isinstance(first["input"], str | int | float) and not named
    value = f" (it is {shorten(first['input'])})" if scalar else ""
    return f"{where}: {reason}{value}" if where else f"{reason}{value}"
