"""``report.html`` is renewed while a run goes on, by a process of the lowest priority.

Drawing takes a second or two of a CPU and the memory of matplotlib, so it is no work for the server
application: a round must not wait for it. A process a renewal leaves nothing behind.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from logging import WARNING
from pathlib import Path

from flwr.common import log

from rsdgc.errors import RsdgcError
from strategies.ledger import RoundEntry
from strategies.observer import RunObserver

FIRST_S = 20.0
"""Duration of a run before its report is first renewed: a shorter one has it at once."""
LEAST_INTERVAL_S = 30.0
PATIENCE = 30
"""Times the duration of a renewal that lie between two of them: 3 % of a CPU at most."""
LOWEST_PRIORITY = 19
_COMMAND = (sys.executable, "-m", "fl_app.live.report_renewal")
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class ReportRenewal(RunObserver):
    """Renews a run's report after some of its rounds.

    Parameters
    ----------
    folder : Path
        The run's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._began = time.monotonic()
        self._due = self._began + FIRST_S

    def round_ended(self, entry: RoundEntry, last_round: int) -> None:
        """Start a renewal if one is due and none is at work."""
        now = time.monotonic()
        if self._process is not None:
            if self._process.poll() is None:
                return
            # The end is noticed a round late, so the interval is rather too long.
            self._due = now + max(LEAST_INTERVAL_S, PATIENCE * (now - self._began))
            self._process = None
        if now < self._due:
            return
        self._began = now
        try:
            self._process = subprocess.Popen(  # noqa: S603  # our own command, no shell
                [*_COMMAND, str(self._folder), str(os.getpid())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},  # as in Flower's app
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            log(WARNING, "the report cannot be renewed (%s)", error.strerror)
            self._due = float("inf")

    def close(self) -> None:
        """End a renewal that is at work: the report of the whole run must come after it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def main(folder: Path) -> int:
    """Write the report of a run that goes on; return the exit code."""
    from fl_app.report.page import write_interim_report  # noqa: PLC0415

    try:
        write_interim_report(folder)
    except RsdgcError:  # no round has been scored, or the folder has gone
        return 1
    return 0


def _live_and_die_with(run_pid: int) -> None:
    """End with the run if it is killed: this must not write over the report of a resumed one."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != run_pid:  # it was killed before this line
        sys.exit(1)


if __name__ == "__main__":
    os.nice(LOWEST_PRIORITY)  # before the imports that take a second
    _live_and_die_with(int(sys.argv[2]))
    sys.exit(main(Path(sys.argv[1])))
