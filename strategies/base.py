"""What a strategy here fills in, and how its run is kept and taken up again.

What every strategy here shares: who is asked, what came back, what was counted.

A round is one train message to each site drawn and one reply from each. The reply carries the
upload and, for the model as it was received, the counts that make its accuracy; so the figures of
round r arrive with the replies of round r + 1, and those of the last with a final evaluation. A
site whose replica is not what the patches start from says so instead, and is sent the whole model
within the same round.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from logging import INFO, WARNING
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from rsdgc.errors import RunError
from strategies import messages, metrics
from strategies.checkpoints import Arrays, Checkpoint, Checkpoints
from strategies.downlink import Download
from strategies.ledger import Ledger, SiteEntry, content_bytes
from strategies.outbox import ConfigFields, Outbox
from strategies.round_log import RoundLog
from strategies.sites import SiteDiscovery, SiteInfo, SiteManager
from strategies.transport import error_summary, send_and_receive
from strategies.validation import ReplyRefused


@dataclass(frozen=True)
class RoundSettings:
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
    """Base of the strategies: what each fills in; :class:`strategies.base.SiteRounds` uses it.

    Parameters
    ----------
    roster : SiteManager
        The sites, as :func:`strategies.sites.discover_sites` found them.
    ledger : Ledger
        Where bytes and refusals are counted.
    rules : RoundSettings
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
        roster: SiteManager,
        ledger: Ledger,
        rules: RoundSettings,
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
        self._joiners = SiteDiscovery(roster)
        self._post = Outbox()

    # ---- what a strategy fills in -------------------------------------------------------------

    @abstractmethod
    def parcel(self, card: SiteInfo, *, whole: bool = False) -> Download:
        """Return the arrays that bring a site to the present model."""

    @abstractmethod
    def accept(self, card: SiteInfo, reply: Message, entry: SiteEntry) -> None:
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

    def fields(self, card: SiteInfo, kind: str) -> ConfigFields:
        """Return fields of a site's task beside round, site and learning rate."""
        return {}

    def wants_whole(self, card: SiteInfo, reply: Message) -> bool:
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


__all__ = ["RoundSettings", "SiteRounds"]

CONNECTION_POLL_S = 0.5
"""Between two looks for sites that are not connected."""


class SiteRounds(SiteStrategy):
    """The loop over rounds, with a ledger of bytes and of refusals.

    Parameters
    ----------
    roster, ledger, rules, checkpoints
        See :class:`strategies.base.SiteStrategy`.
    """

    # ---- Flower's interface -------------------------------------------------------------------

    def summary(self) -> None:
        """Log who takes part."""
        data = self.roster.data
        log(
            INFO,
            "%d sites, %d classes, %d bands, %d px chips, data '%s'%s",
            len(self.roster.sites),
            len(data.classes),
            data.bands,
            data.chip_px,
            data.dataset,
            " (synthetic)" if data.synthetic else "",
        )

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run all rounds and a final evaluation; see Flower's ``Strategy.start``.

        The result's ``arrays`` are the final global model. A round in which fewer sites than the
        quorum delivered leaves the model as it was. A strategy that took up a checkpoint goes on
        with the round after it, and leaves ``initial_arrays`` aside.
        """
        self.summary()
        result = Result(arrays=initial_arrays)
        if self.resumed_round == 0:
            self.take_arrays(initial_arrays)
            self._evaluate_centrally(evaluate_fn, 0, result)
        progress = RoundLog(num_rounds, self.resumed_round)
        for server_round in range(self.resumed_round + 1, num_rounds + 1):
            began = time.monotonic()
            self._train(grid, server_round, timeout, train_config or ConfigRecord())
            self._close(server_round, time.monotonic() - began, progress)
            if self.checkpoints is not None and self.checkpoints.due(server_round):
                self.save(self.checkpoints, server_round)
            self._evaluate_centrally(evaluate_fn, server_round, result)
        self.conclude()
        self._final_evaluation(grid, num_rounds, timeout, evaluate_config, result)
        result.arrays = self.arrays()
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one train message for each site drawn from those that are connected.

        ``arrays`` is Flower's; the model that travels is this strategy's own.
        """
        self.prepare()
        present = self._joiners.look(grid)
        cards = self.roster.draw(self.rules.fraction, self.rules.seed, server_round, present)
        return self._address(MessageType.TRAIN, cards, server_round, config)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check every reply, take in what is valid, and form the next global model.

        What is refused is named in the ledger and changes nothing. Replies are taken in the
        order of the sites' names, so that the result does not depend on their arrival.
        """
        return (self.arrays() if self.collect(server_round, replies) else None), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message for each site, to score the global model on its test split."""
        cards = self.roster.everyone(self._joiners.look(grid))
        return self._address(MessageType.EVALUATE, cards, server_round, config)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Add up the sites' confusion matrices."""
        answered = self._post.by_site(replies)
        for name, reply in answered.items():
            entry = self._post.entries[name]
            entry.accepted = not reply.has_error()
            entry.bytes_up += 0 if reply.has_error() else content_bytes(reply.content)
        confusion, scores = metrics.sum_confusion(answered, len(self.roster.data.classes))
        if scores is None:
            return None
        self.confusion = confusion
        self.ledger.final = scores
        return MetricRecord({"accuracy": scores.accuracy, "loss": scores.loss})

    # ---- inside -------------------------------------------------------------------------------

    def _train(self, grid: Grid, number: int, timeout: float, config: ConfigRecord) -> None:
        self._post.ttl_s = 2 * timeout  # longer than a round, so that a late reply is seen
        self._wait_for_quorum(grid, timeout)
        messages = list(self.configure_train(number, ArrayRecord(), config, grid))
        replies = send_and_receive(
            grid,
            messages,
            timeout,
            follow_up=lambda index, reply: self._second_try(index, reply, config),
            overdue=self._post.overdue,
        )
        self.collect(number, [reply for reply in replies if reply is not None])

    def _wait_for_quorum(self, grid: Grid, timeout: float) -> None:
        """Wait while fewer sites are connected than a round needs, as long as a round may take.

        A network that is down for a while must not use the run's rounds up.
        """
        deadline = time.monotonic() + timeout
        while True:
            there = len(self.roster.everyone(self._joiners.look(grid)))
            if there >= self.rules.quorum or time.monotonic() >= deadline:
                return
            time.sleep(min(CONNECTION_POLL_S, timeout))

    def _address(
        self, kind: str, cards: list[SiteInfo], number: int, config: ConfigRecord
    ) -> list[Message]:
        self._post.begin("train" if kind == MessageType.TRAIN else "evaluate")
        for card in cards:
            self._post.write(
                kind, card, number, self._task(kind, card, number, config), self.parcel(card)
            )
        return [letter.message for letter in self._post.letters]

    def _task(self, kind: str, card: SiteInfo, number: int, config: ConfigRecord) -> ConfigFields:
        task: ConfigFields = {messages.SITE: card.name, messages.ROUND: number}
        if kind == MessageType.TRAIN:
            task[messages.LEARNING_RATE] = self.rules.learning_rate_at(number)
        return {**config, **task, **self.fields(card, kind)}

    def _second_try(self, index: int, reply: Message, config: ConfigRecord) -> Message | None:
        """Return a letter with the whole model to a site that asks for it, once a round."""
        letter = self._post.letters[index]
        entry = self._post.entries[letter.card.name]
        if entry.resynced or not self.wants_whole(letter.card, reply):
            return None
        log(WARNING, "%s is out of step: it is sent the whole model", letter.card.name)
        task = self._task(letter.kind, letter.card, letter.round, config)
        return self._post.write_again(letter, task, self.parcel(letter.card, whole=True), reply)

    def collect(self, server_round: int, replies: Iterable[Message]) -> bool:
        """Take a round's replies in; return whether the model changed."""
        answered = self._post.by_site(replies)
        accepted = 0
        for letter in self._post.letters:
            name = letter.card.name
            entry = self._post.entries[name]
            try:
                if name not in answered:
                    raise ReplyRefused("no reply", f"round {server_round} ended before it came")
                self._take(letter.card, answered[name], entry)
                accepted += 1
            except ReplyRefused as refusal:
                entry.reason = refusal.reason
                log(WARNING, "%s refused in round %d: %s", name, server_round, refusal)
        scores = metrics.score_received_model(answered, len(self.roster.data.classes))
        self.ledger.score_round(server_round - 1, scores)
        if accepted < self.rules.quorum:
            log(
                WARNING,
                "round %d: %d of at least %d uploads; the model stays as it was",
                server_round,
                accepted,
                self.rules.quorum,
            )
            self.discard()
            return False
        self.rounds_combined += 1
        self.combine(server_round)
        return True

    def _take(self, card: SiteInfo, reply: Message, entry: SiteEntry) -> None:
        if reply.has_error():
            raise ReplyRefused("error at the site", error_summary(reply.error.reason))
        entry.bytes_up += content_bytes(reply.content)
        self.accept(card, reply, entry)
        entry.accepted = True

    def _close(self, server_round: int, seconds: float, progress: RoundLog) -> None:
        entries = [*self._post.entries.values(), *self._post.late()]
        self.ledger.close_round(entries, self.ratios(), seconds)
        log(INFO, progress.line(self.ledger.rounds[server_round - 1 :]))

    def _final_evaluation(
        self,
        grid: Grid,
        server_round: int,
        timeout: float,
        config: ConfigRecord | None,
        result: Result,
    ) -> None:
        config = config or ConfigRecord()
        messages = self.configure_evaluate(server_round, ArrayRecord(), config, grid)
        replies = send_and_receive(
            grid,
            list(messages),
            timeout,
            follow_up=lambda index, reply: self._second_try(index, reply, config),
            overdue=self._post.overdue,
        )
        metrics = self.aggregate_evaluate(server_round, [r for r in replies if r is not None])
        if metrics is not None:
            result.evaluate_metrics_clientapp[server_round] = metrics
        self.ledger.count([*self._post.entries.values(), *self._post.late()])
        self.ledger.score_round(server_round, self.ledger.final)

    def _evaluate_centrally(
        self,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None,
        server_round: int,
        result: Result,
    ) -> None:
        if evaluate_fn is None:
            return
        metrics = evaluate_fn(server_round, self.arrays())
        if metrics is not None:
            result.evaluate_metrics_serverapp[server_round] = metrics
