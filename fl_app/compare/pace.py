"""How long the runs of a comparison take, and so how long the rest of them will."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rsdgc.time_text import time_left


class Pace:
    """Estimates the time left from the runs that this command has finished.

    Parameters
    ----------
    num_runs : int
        Runs that are left at the start.
    """

    def __init__(self, num_runs: int) -> None:
        self._num_runs = num_runs
        self._seconds: list[float] = []

    @contextmanager
    def run(self) -> Iterator[None]:
        """Time a run; one that fails does not count."""
        start_time = time.monotonic()
        yield
        self._seconds.append(time.monotonic() - start_time)

    def left_text(self) -> str:
        """Return the estimate, as ``, 12 min left``; nothing before the first run has ended."""
        if not self._seconds:
            return ""
        left = statistics.fmean(self._seconds) * (self._num_runs - len(self._seconds))
        return f", {time_left(left)}"
