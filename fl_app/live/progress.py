"""What a run has done and is doing, read from its folder again and again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from fl_app.live.status_file import RunStatus, read_status
from fl_app.runs.growing_records import growing_ledger
from fl_app.runs.lock import LOCK_FILE, lock_holder
from fl_app.runs.provisional import provisional_summary
from fl_app.runs.records import CONFIG_FILE, SUMMARY_FILE, Run, RunConfig, RunSummary
from rsdgc.errors import RunFolderError
from strategies.ledger import EVALUATE, ROLL_CALL, SUSPENDED, TRAIN, RoundEntry, SiteEntry

RunState = Literal["starting", "running", "complete", "interrupted"]

RECENT_ROUNDS = 5
"""Rounds whose mean duration stands for the next ones, where the server has no mean yet."""


def check_run_folder(folder: Path) -> None:
    """Raise :class:`RunFolderError` unless a run has begun in a folder."""
    if not any((folder / name).exists() for name in (CONFIG_FILE, LOCK_FILE)):
        raise RunFolderError(
            f"{folder} is not a run folder; name one that `rsdgc simulate` or `rsdgc server run` "
            "works in"
        )


@dataclass
class SiteProgress:
    """What one site has done since the start of the run."""

    name: str
    bytes_up: int = 0
    bytes_down: int = 0
    dense_models: int = 0  #: models that dense FedAvg would have sent and received
    accuracy: float | None = None  #: of the last model that it scored, on its test split
    train_loss: float | None = None
    seconds: float | None = None  #: of its last work
    outcome: str = ""  #: of its last message: ``accepted``, or why not

    def add(self, entry: SiteEntry) -> None:
        """Count a message."""
        if entry.phase == ROLL_CALL:
            self.outcome = f"left out: {entry.reason}"
            return
        if entry.phase == SUSPENDED:
            self.outcome = entry.reason
            return
        self.bytes_up += entry.bytes_up
        self.bytes_down += entry.bytes_down
        self.dense_models += entry.dense_up + entry.dense_down
        if entry.accuracy is not None:
            self.accuracy = entry.accuracy
        if entry.phase == TRAIN:
            self.outcome = "accepted" if entry.accepted else entry.reason
            self.train_loss = entry.train_loss if entry.accepted else self.train_loss
            self.seconds = entry.seconds if entry.accepted else self.seconds

    def compression(self, dense_bytes: float) -> float | None:
        """Return how many times fewer bytes it has sent and received than dense FedAvg would."""
        sent = self.bytes_up + self.bytes_down
        return self.dense_models * dense_bytes / sent if sent and dense_bytes else None


@dataclass
class Progress:
    """A run at one moment."""

    folder: Path
    state: RunState = "starting"
    config: RunConfig | None = None
    status: RunStatus | None = None
    #: by round; the last one may lack its scores, and line 0 is the model before training
    history: list[RoundEntry] = field(default_factory=list)
    site_entries: list[SiteEntry] = field(default_factory=list)
    sites: dict[str, SiteProgress] = field(default_factory=dict)
    summary: RunSummary | None = None
    now: float = field(default_factory=time.time)  #: seconds since 1970

    @property
    def ended(self) -> list[RoundEntry]:
        """The rounds that have ended."""
        return [entry for entry in self.history if entry.round]

    @property
    def last_round(self) -> int:
        """Number of rounds that the run will have, as far as is known."""
        if self.state == "complete" and self.ended:
            return self.ended[-1].round
        if self.status is not None:
            return self.status.last_round
        return int(self.config.settings.get("rounds", 0)) if self.config else 0

    @property
    def waits_for(self) -> list[str]:
        """Sites that were sent a message and have not replied."""
        if self.state != "running" or self.status is None or not self._in_exchange:
            return []
        replied = set(self.status.replied)
        return [site for site in self.status.asked if site not in replied]

    @property
    def _in_exchange(self) -> bool:
        """Whether the messages of the status are those of a round that has not ended."""
        assert self.status is not None
        ended = self.status.latest.round if self.status.latest else 0
        return bool(self.status.asked) and (
            self.status.phase == EVALUATE or self.status.round > ended
        )

    @property
    def stage(self) -> str:
        """What the run is doing, in a few words."""
        if self.state == "complete":
            return "complete"
        done = self.ended[-1].round if self.ended else 0
        if self.state == "interrupted":
            return f"ended after round {done} of {self.last_round}, not complete"
        if self.config is None:
            return "waiting for sites"
        if self.status is None or not self.status.asked:
            return f"preparing round {done + 1} of {self.last_round}"
        if self.status.phase == EVALUATE:
            return "final evaluation" if self.waits_for else "writing the model and the report"
        return f"round {self.status.round} of {self.last_round}"

    @property
    def share_of_round(self) -> float:
        """Share of the asked sites that have replied, from 0 to 1."""
        if self.status is None or not self.status.asked:
            return 0.0
        return 1.0 - len(self.waits_for) / len(self.status.asked)

    @property
    def share(self) -> float:
        """Share of the run that is done, from 0 to 1."""
        if self.state == "complete":
            return 1.0
        done = float(self.ended[-1].round) if self.ended else 0.0
        if self.waits_for and self.status is not None and self.status.phase != EVALUATE:
            done += self.share_of_round
        return min(1.0, done / self.last_round) if self.last_round else 0.0

    @property
    def round_seconds(self) -> float | None:
        """Duration of a round, as far as is known."""
        if self.status is not None and self.status.round_seconds is not None:
            return self.status.round_seconds
        recent = [entry.seconds for entry in self.ended[-RECENT_ROUNDS:]]
        return sum(recent) / len(recent) if recent else None

    @property
    def seconds_in_round(self) -> float | None:
        """Seconds since the messages of this round were sent."""
        if not self.waits_for or self.status is None or not self.status.since:
            return None
        try:
            since = datetime.fromisoformat(self.status.since)
        except ValueError:
            return None
        return max(0.0, self.now - since.replace(tzinfo=since.tzinfo or UTC).timestamp())

    @property
    def seconds_left(self) -> float | None:
        """Estimate of the time to the end of the last round; None where nothing is known."""
        if self.state != "running" or self.round_seconds is None:
            return None
        done = self.ended[-1].round if self.ended else 0
        left = self.round_seconds * (self.last_round - done)
        return max(0.0, left - min(self.seconds_in_round or 0.0, self.round_seconds))

    @property
    def scored(self) -> RoundEntry | None:
        """The last round whose model has been scored."""
        scored = [entry for entry in self.history if entry.accuracy is not None]
        return scored[-1] if scored else None

    @property
    def dense_bytes(self) -> float:
        """Bytes of the whole model, by what dense FedAvg would have sent in a round."""
        rounds = [entry for entry in self.ended if entry.asked]
        # The last one's include the final evaluation.
        entry = rounds[0] if rounds else RoundEntry(0)
        return entry.dense_bytes_down / entry.asked if entry.asked else 0.0

    def run(self) -> Run | None:
        """Return the records as a report shows them; None before the first round is scored."""
        if self.config is None or not self.history:
            return None
        summary = self.summary or provisional_summary(self.config, self.history)
        return Run(self.folder, self.config, summary, self.history, self.site_entries)


class ProgressReader:
    """Reads a run's folder; each :meth:`read` costs what is new.

    Parameters
    ----------
    folder : Path
        The run's, which need not have begun.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._history, self._visits = growing_ledger(folder)
        self._holder = ""
        self._clear()

    def _clear(self) -> None:
        self._rounds: list[RoundEntry] = []
        self._entries: list[SiteEntry] = []
        self._sites: dict[str, SiteProgress] = {}
        self._config: RunConfig | None = None
        self._summary: RunSummary | None = None
        self._history.restart()
        self._visits.restart()

    def read(self) -> Progress:
        """Return the run as it is now; :class:`RunFolderError` if a file is damaged."""
        holder, at_work = self._look_at_lock()
        # Whoever resumes a run, or replaces it, may cut the files or write others.
        if holder != self._holder or self._history.was_cut or self._visits.was_cut:
            self._clear()
            self._holder = holder
        if self._config is None and (self.folder / CONFIG_FILE).exists():
            self._config = RunConfig.read(self.folder)
            self._sites = {name: SiteProgress(name) for name in self._config.data.sites}
        if self._summary is None and (self.folder / SUMMARY_FILE).exists():
            self._summary = RunSummary.read(self.folder)
        status = read_status(self.folder)
        self._rounds += self._history.read_new()
        for entry in self._visits.read_new():
            self._entries.append(entry)
            self._sites.setdefault(entry.site, SiteProgress(entry.site)).add(entry)
        history = list(self._rounds)
        latest = None if status is None else status.latest
        if latest is not None and latest.round > (history[-1].round if history else -1):
            history.append(latest)
        return Progress(
            self.folder,
            self._state(at_work=at_work),
            self._config,
            status,
            history,
            self._entries,
            self._sites,
            self._summary,
        )

    def _look_at_lock(self) -> tuple[str, bool]:
        """Return who works, or was the last to work, in the folder, and whether it is at work.

        Who may read the folder only cannot probe its lock, and takes the run to go on.
        """
        try:
            holder = lock_holder(self.folder)
        except OSError:  # of another user, on a disk that is mounted read-only, or just deleted
            return self._holder, True
        return ("", False) if holder is None else (f"{holder.run_id} {holder.pid}", holder.at_work)

    def _state(self, *, at_work: bool) -> RunState:
        if self._summary is not None:
            return "complete"
        if self._config is None:
            return "starting"
        return "running" if at_work else "interrupted"
