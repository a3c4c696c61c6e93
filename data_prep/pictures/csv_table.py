"""Tables as CSV: those behind figures, to be kept by readers."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data_prep.pictures.images import data_uri

#: What spreadsheets take for the beginning of a formula; names come from other parties.
_FORMULA_MARKS = ("=", "+", "-", "@", "\t")

Cell = str | int | float | None


@dataclass(frozen=True)
class CsvTable:
    """Column names and rows; None is an empty cell."""

    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Any]] = ()  #: of :data:`Cell` values

    @property
    def text(self) -> str:
        """The table as CSV (RFC 4180, lines end in a line feed), numbers with six digits."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow([_plain(name) for name in self.columns])
        writer.writerows([_plain(cell) for cell in row] for row in self.rows)
        return buffer.getvalue()

    @property
    def uri(self) -> str:
        """The table as a file of its own, as a data URI."""
        return data_uri("text/csv", self.text.encode())


def _plain(cell: Cell) -> Cell:
    if isinstance(cell, float):
        return f"{cell:.6g}"
    if isinstance(cell, str) and cell.startswith(_FORMULA_MARKS):
        return "'" + cell
    return cell
