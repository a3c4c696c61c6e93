"""Trackers that show what a run passes to them, and that fail in several ways."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping

from fl_app.tracking.tracker import TrackedRun


class Recorder:
    """Appends all that it is told to a file."""

    def __init__(self, run: TrackedRun) -> None:
        self._file = run.folder / "recorded.jsonl"
        self.identity = run.identity or "the first"
        self._write("open", run.identity, run.first_round, dict(run.facts))

    def log(self, round_number: int, figures: Mapping[str, float]) -> None:
        self._write("log", round_number, dict(figures))

    def flush(self) -> None:
        self._write("flush")

    def finish(self, figures: Mapping[str, float], *, complete: bool) -> None:
        self._write("finish", dict(figures), complete)

    def _write(self, *words: object) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(words) + "\n")


class NoStart(Recorder):
    def __init__(self, run: TrackedRun) -> None:
        raise ConnectionError("no server\nat example:5000")


class NoLog(Recorder):
    def log(self, round_number: int, figures: Mapping[str, float]) -> None:
        if round_number == 1:
            raise RuntimeError("disk full")
        super().log(round_number, figures)


class Hangs(Recorder):
    def log(self, round_number: int, figures: Mapping[str, float]) -> None:
        threading.Event().wait()
