"""What a command shows of the run that it follows.

In a terminal that is a table which is drawn again and again, below the lines of the log; elsewhere
the lines alone, each at once.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from data_prep.terminal_table import terminal
from fl_app.flower.log_filter import print_line
from fl_app.live.progress import ProgressReader
from fl_app.live.run_table import run_view
from rsdgc.errors import RsdgcError
from rsdgc.time_text import human_seconds

REFRESHES_PER_S = 2
SPINNER_WIDTH = 2
"""The spinner and a space, before what is being started."""
_ROUND_LINE = re.compile(r"^(\S+Z )?round +\d+/\d+ \|")
_FOLDER_LINE = re.compile(r"^(\S+Z )?run folder: (.+)$")


class RunDisplay(Protocol):
    """Shows a run to whoever started or follows it."""

    def stage(self, text: str) -> None:
        """Show what is being started."""
        ...

    def show(self, line: str) -> None:
        """Show a line of the run's log."""
        ...


class PlainDisplay:
    """Prints the lines of the log, and nothing else."""

    def stage(self, text: str) -> None:
        """Show nothing: a file or a pipe gets the lines of the log."""

    def show(self, line: str) -> None:
        """Print the line at once."""
        print_line(line)


class TableDisplay:
    """Draws tables of rounds and sites below the lines of the log.

    A round's line is left out, because the table has it. Before the run has a folder, a line says
    what is being started.

    Parameters
    ----------
    console : Console
        The terminal.
    title : str
        Stands before the name of the run.
    """

    def __init__(self, console: Console, title: str = "") -> None:
        self._console = console
        self._title = title
        self._reader: ProgressReader | None = None
        self._spinner = Spinner("dots")
        self._stage, self._since = "starting", time.monotonic()
        #: whether the lines are drawn for the last time
        self.ended = False

    def stage(self, text: str) -> None:
        """Show what is being started."""
        self._stage, self._since = text, time.monotonic()

    def show(self, line: str) -> None:
        """Print a line above the table."""
        folder = _FOLDER_LINE.match(line)
        if folder and Path(folder[2]).is_dir():
            self._reader = ProgressReader(Path(folder[2]))
        if self._reader is None or not _ROUND_LINE.match(line):
            self._console.print(Text(line))

    def __rich__(self) -> RenderableType:
        """Return the lines as they are now."""
        if self._reader is None:
            return self._starting()
        try:
            progress = self._reader.read()
        except RsdgcError as error:  # the run itself does not read these files
            return Text(f"nothing to show: {error}")
        width, height = self._console.size
        return run_view(progress, width, height, title=self._title, whole=self.ended)

    def _starting(self) -> RenderableType:
        if self.ended:
            return Text("")
        seconds = human_seconds(time.monotonic() - self._since)
        words = Text(" · ".join(filter(None, (self._title, self._stage, seconds))))
        words.truncate(self._console.width - SPINNER_WIDTH, overflow="ellipsis")
        self._spinner.update(text=words)
        return self._spinner


@contextmanager
def run_display(title: str = "", console: Console | None = None) -> Iterator[RunDisplay]:
    """Show a run while the block lasts, as the standard output allows.

    The folder is that of the log's line ``run folder: …``. A ``console`` that is given counts as
    a terminal.
    """
    if console is None:
        console = terminal()
        if not sys.stdout.isatty() or console.is_dumb_terminal:
            yield PlainDisplay()
            return
    display = TableDisplay(console, title)
    with Live(display, console=console, refresh_per_second=REFRESHES_PER_S):
        try:
            yield display
        finally:
            display.ended = True
