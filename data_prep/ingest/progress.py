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
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from rsdgc.time_text import time_left

#: Called as ``callback(what, done, total)``, in bytes.
Callback = Callable[[str, int, int], None]
#: Seconds between two lines where there is no terminal: logs of an hour stay short.
LINE_SECONDS = 30.0


@contextmanager
def reporting(callback: Callback | None) -> Iterator[Callback]:
    """Yield ``callback``, or a function that reports on stderr: a bar on a terminal, else lines."""
    if callback is not None:
        yield callback
    elif not sys.stderr.isatty():
        yield _line_writer()
    else:
        columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        text = TextColumn("{task.description}")
        with Progress(
            text, BarColumn(), *columns, console=Console(stderr=True), transient=True
        ) as bar:
            task = bar.add_task("")
            yield lambda what, done, total: bar.update(
                task, description=what, completed=done, total=total
            )


def _line_writer() -> Callback:
    begin = last = time.monotonic()

    def report(what: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < LINE_SECONDS or not done:
            return
        last = now
        rate = done / (now - begin)
        left = (total - done) / rate
        amount = f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
        print(f"{what}: {amount}, {rate / 1e6:.1f}/s, {time_left(left)}", file=sys.stderr)

    return report
