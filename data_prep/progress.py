"""Progress of long jobs: a callback, a bar on a terminal, or a line every half minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

#: Called as ``callback(what, done, total)``.
Callback = Callable[[str, int, int], None]
#: Seconds between two lines where there is no terminal: logs of an hour stay short.
LINE_SECONDS = 30.0


@contextmanager
def reporting(callback: Callback | None, *, unit: str = "items") -> Iterator[Callback]:
    """Yield a function to report progress to.

    Parameters
    ----------
    callback
        Where reports go; None draws a bar on stderr if that is a terminal, and otherwise
        writes lines there.
    unit
        What is counted: ``items`` or ``bytes``.
    """
    if callback is not None:
        yield callback
    elif not sys.stderr.isatty():
        yield _lines(unit)
    else:
        with _bar(unit) as bar:
            task = bar.add_task("")
            yield lambda what, done, total: bar.update(
                task, description=what, completed=done, total=total
            )


def _lines(unit: str) -> Callback:
    begin = last = time.monotonic()

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < LINE_SECONDS or not done:
            return
        last = now
        rate = done / (now - begin)
        left = (total - done) / rate
        scale, name = (1e6, "MB") if unit == "bytes" else (1, unit)
        amount = f"{done / scale:.0f} of {total / scale:.0f} {name}"
        print(f"{what}: {amount}, {rate / scale:.1f}/s, {left:.0f} s left", file=sys.stderr)

    return report


class _Rate(ProgressColumn):
    """Column with the items per second."""

    def render(self, task: Task) -> Text:
        """Return the rate; empty before there is one."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s")


def _bar(unit: str) -> Progress:
    counted: tuple[ProgressColumn, ...] = (
        (DownloadColumn(), TransferSpeedColumn())
        if unit == "bytes"
        else (MofNCompleteColumn(), _Rate())
    )
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *counted,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
