"""What a strategy here fills in, and how its run is kept and taken up again."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from logging import WARNING
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message
from flwr.common import log
from flwr.serverapp.strategy import Strategy

from rsdgc.errors import RunError
from strategies.checkpoints import Arrays, Checkpoint, Checkpoints
from strategies.joiners import Joiners
from strategies.ledger import Ledger, SiteEntry
from strategies.parcels import Parcel
from strategies.post import Fields, Post
from strategies.roster import Roster, SiteCard


@dataclass(frozen=True)
class RoundRules:
    """Settings of the rounds that do not depend on how updates are compressed.

    Attributes
    ----------
    fraction : float
        Share of the sites drawn for a round.
    quorum : int
        Fewest accepted uploads for a round to change the model.
    seed : int
        Seed of the draw.
    learning_rate_at : callable
        Learning rate of a round, counted from 1.
    """

    fraction: float
    quorum: int
    seed: int
    learning_rate_at: Callable[[int], float]


class SiteStrategy(Strategy):
    """Base of the strategies: what each fills in; :class:`strategies.rounds.SiteRounds` uses it.

    Parameters
    ----------
    roster : Roster
        The sites, as :func:`strategies.roster.call_the_roll` found them.
    ledger : Ledger
        Where bytes and refusals are counted.
    rules : RoundRules
        Who is drawn, quorum, learning rate.
    checkpoints : Checkpoints, optional
        Where and when the run's state is kept; none by default.

    Attributes
    ----------
    confusion : int64[K, K] or None
        Of the final evaluation, all sites' test splits together; the reference in rows.
    rounds_combined : int
        Rounds that reached the quorum and so changed the model.
    resumed_round : int
        The last round that a resumed run found in its checkpoint; 0 for a new run.
    """

    def __init__(
        self,
        roster: Roster,
        ledger: Ledger,
        rules: RoundRules,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.roster = roster
        self.ledger = ledger
        self.rules = rules
        self.checkpoints = checkpoints
        self.confusion: np.ndarray | None = None
        self.rounds_combined = 0
        self.resumed_round = 0
        self._began = time.monotonic()
        self._seconds_before = 0.0
        self._joiners = Joiners(roster)
        self._post = Post()

    # ---- what a strategy fills in -------------------------------------------------------------

    @abstractmethod
    def parcel(self, card: SiteCard, *, whole: bool = False) -> Parcel:
        """Return the arrays that bring a site to the present model."""

    @abstractmethod
    def accept(self, card: SiteCard, reply: Message, entry: SiteEntry) -> None:
        """Check a reply and take its upload in; raises :class:`Refused`."""

    @abstractmethod
    def combine(self, server_round: int) -> None:
        """Form the next global model from the uploads accepted in this round."""

    @abstractmethod
    def arrays(self) -> ArrayRecord:
        """Return the global model, layer by layer."""

    @abstractmethod
    def take_arrays(self, arrays: ArrayRecord) -> None:
        """Start from a model."""

    @abstractmethod
    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Return what a checkpoint of this strategy must hold."""

    @abstractmethod
    def restore(self, arrays: Arrays, values: dict[str, Any]) -> None:
        """Take up what :meth:`state` returned."""

    def fields(self, card: SiteCard, kind: str) -> Fields:
        """Return fields of a site's task beside round, site and learning rate."""
        return {}

    def wants_whole(self, card: SiteCard, reply: Message) -> bool:
        """Return whether a site asks for the whole model instead of answering."""
        return False

    def ratios(self) -> dict[str, float]:
        """Compression ratios of this round by layer; empty for a dense method."""
        return {}

    def prepare(self) -> None:
        """Make ready what is sent, at the start of a round."""

    def discard(self) -> None:
        """Forget the uploads of a round without quorum."""

    def conclude(self) -> None:
        """Make the model final, after the last round and before it is scored."""

    # ---- checkpoints --------------------------------------------------------------------------

    def save(self, checkpoints: Checkpoints, server_round: int) -> None:
        """Write a checkpoint of the run after a round."""
        arrays, values = self.state()
        values["ledger"] = self.ledger.position()
        values["rounds_combined"] = self.rounds_combined
        values["seconds"] = self.seconds()
        try:
            checkpoints.save(Checkpoint(server_round, arrays, values))
        except RunError as error:  # the run can do without; the next one may succeed
            log(WARNING, "%s", error)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Take a checkpoint up: :meth:`start` goes on with the round after it."""
        self.ledger.return_to(checkpoint.values["ledger"])
        self.restore(checkpoint.arrays, checkpoint.values)
        self.rounds_combined = int(checkpoint.values["rounds_combined"])
        self._seconds_before = float(checkpoint.values["seconds"])
        self.resumed_round = checkpoint.round

    def kept_rounds(self) -> list[int]:
        """Return the rounds that the run could be resumed from; sites can go back to them.

        As many numbers as checkpoints are to be kept, 0 (the start) for those not there yet: the
        bytes of a message must not depend on when the run was last resumed.
        """
        if self.checkpoints is None:
            return []
        found = self.checkpoints.rounds()[-self.checkpoints.keep :]
        return [0] * (self.checkpoints.keep - len(found)) + found

    def seconds(self) -> float:
        """Wall clock of the run, without the time between a stop and its resumption."""
        return self._seconds_before + time.monotonic() - self._began
