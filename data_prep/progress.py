"""Progress of long jobs: a callback, a bar on a terminal, or silence."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

#: Called as ``callback(what, done, total)``.
Callback = Callable[[str, int, int], None]


@contextmanager
def reporting(callback: Callback | None) -> Iterator[Callback]:
    """Give a function to report progress to.

    Parameters
    ----------
    callback
        Where reports go; None draws a bar on stderr if that is a terminal and else says nothing.
    """
    if callback is not None:
        yield callback
    elif not sys.stderr.isatty():
        yield _silent
    else:
        with _bar() as bar:
            yield _on_bar(bar)


def _silent(what: str, done: int, total: int) -> None:
    del what, done, total


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _on_bar(bar: Progress) -> Callback:
    task = bar.add_task("")

    def report(what: str, done: int, total: int) -> None:
        bar.update(task, description=what, completed=done, total=total)

    return report
