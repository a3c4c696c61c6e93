"""Rows of a CSV file that a person wrote: a list of images, a remapping of labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rsdgc.documents import DocumentError, parse_table, read_marked_text
from rsdgc.errors import DataError


def read_rows(
    path: Path, needed: Sequence[str], *, filled: Sequence[str], remedy: str
) -> list[tuple[str, dict[str, str]]]:
    """Return the rows of a CSV file by column, each with its place (file and line) for messages.

    Parameters
    ----------
    path
        The file.
    needed, filled
        Columns that it must have, and those of them that no row may leave empty.
    remedy
        What helps if the file cannot be read, for the message.

    Raises
    ------
    DataError
        The file cannot be read, lacks a column, or a row lacks a value.
    """
    try:
        _, rows = parse_table(read_marked_text(path), needed)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {remedy}") from error
    except DocumentError as error:
        raise DataError(f"{path} cannot be used: {error}: {remedy}") from error
    placed = [(f"{path}, line {line}", row) for line, row in enumerate(rows, start=2)]
    for place, row in placed:
        if empty := [name for name in filled if not row[name].strip()]:
            raise DataError(f"{place}: {empty[0]} is empty: fill it in")
    return placed
