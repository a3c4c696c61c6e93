"""Tables on a terminal of any width: a number is never cut.

Where a table is too wide, its columns are folded: the first one stands at the left of every part,
and the parts below each other. Texts are wrapped within their columns.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

#: Width of a column of texts below which columns are rather folded.
LEAST_TEXT = 16
#: Characters of a file's lines: it need not fit a screen.
FILE_WIDTH = 200


class Column(NamedTuple):
    """A column's title, and whether it holds numbers, which are aligned to the right."""

    title: str
    number: bool = False


class _Terminal(Console):
    def on_broken_pipe(self) -> None:
        """Leave it to the command line what it means that nobody reads the output."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def terminal() -> Console:
    """Return the standard output, as wide as its window; wide where it is a file or a pipe."""
    console = _Terminal(emoji=False, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = FILE_WIDTH
    return console


def print_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    console: Console | None = None,
    lines_before: Collection[int] = (),
) -> None:
    """Print rows of as many texts as there are columns, with lines before some of the rows."""
    console = console or terminal()
    for number, part in enumerate(fold(columns, rows, console.width)):
        table = Table(title=title if not number else None)
        for index in part:
            column = columns[index]
            table.add_column(
                Text(column.title),  # brackets in names are not markup
                justify="right" if column.number else "left",
                overflow="fold",
                no_wrap=column.number,
                min_width=_least_width(columns, rows, index) if column.number else None,
            )
        for row_number, row in enumerate(rows):
            if row_number in lines_before:
                table.add_section()
            table.add_row(*(Text(row[index]) for index in part))
        console.print(table)


def fold(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int
) -> Iterator[list[int]]:
    """Yield the positions of the columns of each part; the first column is in all of them."""
    first = _least_width(columns, rows, 0)
    part, used = [0], 4 + first
    for index in range(1, len(columns)):
        more = 3 + _least_width(columns, rows, index)
        if used + more > width and len(part) > 1:
            yield part
            part, used = [0], 4 + first
        part.append(index)
        used += more
    yield part


def _least_width(columns: Sequence[Column], rows: Sequence[Sequence[str]], index: int) -> int:
    column = columns[index]
    longest = max(cell_len(text) for text in (column.title, *(row[index] for row in rows)))
    return longest if column.number else min(longest, LEAST_TEXT)
