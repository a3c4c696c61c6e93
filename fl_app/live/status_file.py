"""``progress.json``: what a run's server is doing, replaced with every reply of a site."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from logging import WARNING
from pathlib import Path

from flwr.common import log
from pydantic import TypeAdapter

from fl_app.runs.records import parse_record
from rsdgc.documents import DocumentError, read_text
from rsdgc.durable import replace_text
from rsdgc.errors import RunFolderError
from strategies.ledger import TRAIN, RoundEntry, utc_time
from strategies.observer import RunObserver

STATUS_FILE = "progress.json"


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """The state of the present round."""

    phase: str
    round: int
    last_round: int
    asked: list[str] = field(default_factory=list)  #: sites that were sent a message
    replied: list[str] = field(default_factory=list)  #: those of which a reply has come
    since: str = ""  #: when the messages were sent, in UTC (ISO 8601)
    #: mean duration of a round since the run was started or resumed; None before the first
    round_seconds: float | None = None
    #: the last round that has ended: history.jsonl gets its line with the scores, one round later
    latest: RoundEntry | None = None


_STATUS = TypeAdapter(RunStatus)


def read_status(folder: Path) -> RunStatus | None:
    """Return what a run's server is doing, or was doing when it ended; None if it has no file.

    Raises :class:`RunFolderError` if the file is damaged.
    """
    path = folder / STATUS_FILE
    try:
        return parse_record(_STATUS, read_text(path), str(path))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read ({error.strerror})") from None
    except DocumentError as error:
        raise RunFolderError(f"{path} is damaged: {error}: delete it") from None


class StatusWriter(RunObserver):
    """Writes ``progress.json`` as a run goes on.

    A file that cannot be written costs a warning, and not the run. It is not forced to disk: after
    a loss of power nobody needs it.
    """

    def __init__(self, folder: Path, rounds: int) -> None:
        self._path = folder / STATUS_FILE
        self._status = RunStatus(phase=TRAIN, round=1, last_round=rounds)
        self._start_time = time.monotonic()
        self._ended = 0
        self._failed = False

    def messages_sent(self, phase: str, server_round: int, sites: Sequence[str]) -> None:
        """Begin a round, or the final evaluation."""
        self._write(
            replace(
                self._status,
                phase=phase,
                round=server_round,
                asked=list(sites),
                replied=[],
                since=utc_time(),
            )
        )

    def site_replied(self, site: str) -> None:
        """Count a site."""
        self._write(replace(self._status, replied=[*self._status.replied, site]))

    def round_ended(self, entry: RoundEntry, last_round: int) -> None:
        """Keep a round until the ledger has scored it."""
        self._ended += 1
        self._write(
            replace(
                self._status,
                last_round=last_round,
                round_seconds=(time.monotonic() - self._start_time) / self._ended,
                latest=replace(entry, ratios={}),  # a line of all layers, which nobody shows
            )
        )

    def close(self) -> None:
        """Delete the file of a run that is complete: its summary says everything."""
        self._path.unlink(missing_ok=True)

    def _write(self, status: RunStatus) -> None:
        self._status = status
        try:
            replace_text(self._path, json.dumps(asdict(status)), durable=False)
        except OSError as error:
            if not self._failed:
                log(WARNING, "%s cannot be written (%s)", self._path, error.strerror)
            self._failed = True
