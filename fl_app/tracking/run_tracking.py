"""Tracking in the background: each tracker has a thread that reads the run's ledger.

What is in the ledger's files reaches a tracker once, whenever that is: a tracker that was named
only when the run was resumed gets the rounds before, too. A round is logged when its scores are
known. ``tracking/NAME.json`` in the run folder says up to which round that has happened. A run that
is resumed from a checkpoint repeats rounds: a tracker that cannot replace what it has is not given
them again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from logging import WARNING
from pathlib import Path

from flwr.common import log
from pydantic import TypeAdapter

from fl_app.runs.growing_records import growing_ledger
from fl_app.runs.records import SUMMARY_FILE, RunConfig, RunSummary, parse_record
from fl_app.tracking import TRACKERS
from fl_app.tracking.tracked_figures import (
    round_figures,
    run_facts,
    site_figures,
    summary_figures,
)
from fl_app.tracking.tracker import TrackedRun, Tracker
from rsdgc.documents import read_text
from rsdgc.durable import replace_text
from rsdgc.errors import describe_error
from rsdgc.plain_text import plain_line
from rsdgc.registry import Registry

FOLDER = "tracking"
POLL_S = 2.0
CLOSE_TIMEOUT_S = 60.0
"""For a tracker to log what is left at the end of a run; a server may be slow, or away."""


@dataclass(frozen=True)
class TrackedSoFar:
    """What a tracker has of a run."""

    identity: str = ""
    round: int = -1  #: the last one whose line of ``history.jsonl`` was logged


_SO_FAR = TypeAdapter(TrackedSoFar)


class RunTracking:
    """The trackers of a run, each in a thread of its own.

    Parameters
    ----------
    folder : Path
        The run's.
    names : sequence of str
        Of :data:`fl_app.tracking.TRACKERS`, or paths of classes.
    resumed_round : int
        The last round of the checkpoint that the run was resumed from; 0 for a new run.
    """

    def __init__(self, folder: Path, names: Sequence[str], resumed_round: int = 0) -> None:
        self._threads = [_TrackerThread(folder, name, resumed_round) for name in names]
        for thread in self._threads:
            thread.start()

    def close(self, *, complete: bool) -> None:
        """Let the trackers log what is left, and end them; a slow one is given up."""
        for thread in self._threads:
            thread.end(complete=complete)
        for thread in self._threads:
            thread.join(CLOSE_TIMEOUT_S)
            if thread.is_alive():
                text = "tracking=%s has not finished within %g s; the run goes on without it"
                log(WARNING, text, thread.tracker_name, CLOSE_TIMEOUT_S)


class _TrackerThread(threading.Thread):
    def __init__(self, folder: Path, name: str, resumed_round: int) -> None:
        # A daemon: a tracker that hangs must not keep the process of a run that has ended.
        super().__init__(name=f"tracking {name}", daemon=True)
        self.tracker_name = name
        self._run_folder = folder
        self._resumed_round = resumed_round
        self._history, self._visits = growing_ledger(folder)
        self._ended = threading.Event()
        self._complete = False
        self._so_far = TrackedSoFar()
        self._waiting: dict[int, dict[str, float]] = {}
        """Figures by round, of rounds that are not scored yet."""

    def end(self, *, complete: bool) -> None:
        self._complete = complete
        self._ended.set()

    def run(self) -> None:
        try:
            self._track()
        except Exception as error:  # whatever a tracking program raises
            text = "tracking=%s has failed (%s); the run goes on without it"
            log(WARNING, text, self.tracker_name, plain_line(describe_error(error), 300))

    def _track(self) -> None:
        # A path may have characters that a file's name must not have.
        safe_name = self.tracker_name.replace(":", ".")
        place = self._run_folder / FOLDER / safe_name
        place.mkdir(parents=True, exist_ok=True)
        state_path = place.with_name(f"{safe_name}.json")
        if state_path.exists():
            self._so_far = parse_record(_SO_FAR, read_text(state_path), str(state_path))
        config = RunConfig.read(self._run_folder)
        registry: Registry[type[Tracker]] = Registry("tracker")
        tracker = registry[TRACKERS.get(self.tracker_name, self.tracker_name)]
        first = self._so_far.round + 1
        if getattr(tracker, "replaces", False):
            first = min(first, self._resumed_round)  # the checkpoint's round was not scored yet
        opened = tracker(
            TrackedRun(
                self._run_folder.name, place, run_facts(config), self._so_far.identity, first
            )
        )
        while True:
            ended = self._ended.wait(POLL_S)
            last = self._log_new(opened, first)
            if last > self._so_far.round or opened.identity != self._so_far.identity:
                opened.flush()
                self._so_far = TrackedSoFar(opened.identity, last)
                replace_text(state_path, json.dumps(asdict(self._so_far)))
            if ended:
                break
        figures = {}
        if self._complete and (self._run_folder / SUMMARY_FILE).exists():
            figures = summary_figures(RunSummary.read(self._run_folder))
        opened.finish(figures, complete=self._complete)

    def _log_new(self, tracker: Tracker, first: int) -> int:
        """Log the rounds that are complete now; return the last round that is."""
        last = self._so_far.round
        for entry in self._history.read_new():
            self._waiting.setdefault(entry.round, {}).update(round_figures(entry))
            last = max(last, entry.round)
        for visit in self._visits.read_new():
            for number, figures in site_figures(visit):
                self._waiting.setdefault(number, {}).update(figures)
        for number in sorted(number for number in self._waiting if number <= last):
            figures = self._waiting.pop(number)
            if number >= first:
                tracker.log(number, figures)
        return last
