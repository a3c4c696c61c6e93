"""What an adapter to a tracking program is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Fact = str | int | float | bool


@dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker is opened for."""

    name: str  #: of its folder
    folder: Path  #: where the tracker may write; exists
    facts: Mapping[str, Fact]  #: settings and data, by name
    #: ``identity`` of the tracker that was opened for the run before it was resumed; else empty
    identity: str
    #: the first round that is logged. If the tracker :attr:`~Tracker.replaces`, what the earlier
    #: one has of this and later rounds is to be replaced; otherwise it has nothing of them.
    first_round: int


class Tracker(Protocol):
    """Passes the figures of one run to a tracking program.

    All methods are called in one thread. They may take their time, and raise what they like.
    """

    identity: str
    """By which the run is found again when it is resumed."""
    replaces: bool
    """Whether rounds that were logged can be replaced by those that a resumed run repeats."""

    def __init__(self, run: TrackedRun) -> None:
        """Open a new run, or the earlier one of ``run.identity``."""

    def log(self, round_number: int, figures: Mapping[str, float]) -> None:
        """Log figures by name, such as ``score/accuracy``: once, when the round has its scores.

        Bytes of a reply that comes late are logged in a call of their own.
        """
        ...

    def flush(self) -> None:
        """Write what was logged to where it stays."""
        ...

    def finish(self, figures: Mapping[str, float], *, complete: bool) -> None:
        """Close the run; ``figures`` are those of a complete one, as its summary has them."""
        ...
