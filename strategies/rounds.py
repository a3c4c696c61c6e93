"""What every strategy here shares: who is asked, what came back, what was counted.

A round is one train message to each site drawn and one reply from each. The reply carries the
upload and, for the model as it was received, the counts that make its accuracy; so the figures of
round r arrive with the replies of round r + 1, and those of the last with a final evaluation.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from logging import INFO, WARNING

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from rsdgc import protocol
from strategies import tally
from strategies.checks import Refused
from strategies.exchange import exchange, last_line
from strategies.ledger import Ledger, SiteEntry, content_bytes
from strategies.progress import Progress
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


class SiteRounds(Strategy):
    """Base of the strategies: the loop over rounds, with a ledger of bytes and of refusals.

    Parameters
    ----------
    roster : Roster
        The sites, as :func:`strategies.roster.call_the_roll` found them.
    ledger : Ledger
        Where bytes and refusals are counted.
    rules : RoundRules
        Who is drawn, quorum, learning rate.

    Attributes
    ----------
    confusion : int64[K, K] or None
        Of the final evaluation, all sites' test splits together; the reference in rows.
    rounds_combined : int
        Rounds that reached the quorum and so changed the model.
    """

    def __init__(self, roster: Roster, ledger: Ledger, rules: RoundRules) -> None:
        self.roster = roster
        self.ledger = ledger
        self.rules = rules
        self.confusion: np.ndarray | None = None
        self.rounds_combined = 0
        self._sent: list[tuple[Message, SiteCard]] = []
        self._entries: dict[str, SiteEntry] = {}

    # ---- what a strategy fills in -------------------------------------------------------------

    @abstractmethod
    def task(self, card: SiteCard) -> dict[str, int | float | str | list[float]]:
        """Return fields of a site's task beside round, site and learning rate."""

    @abstractmethod
    def accept(self, card: SiteCard, reply: Message, entry: SiteEntry) -> None:
        """Check a reply and take its upload in; raises :class:`Refused`."""

    @abstractmethod
    def combine(self, server_round: int) -> ArrayRecord:
        """Return the next global model from the uploads accepted in this round."""

    def ratios(self) -> dict[str, float]:
        """Compression ratios of this round by layer; empty for a dense method."""
        return {}

    def pack(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the global model as it travels to the sites."""
        return arrays

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
        quorum delivered leaves the model as it was.
        """
        self.summary()
        result = Result(arrays=initial_arrays)
        progress = Progress(num_rounds)
        _evaluate_centrally(evaluate_fn, 0, result)
        for server_round in range(1, num_rounds + 1):
            began = time.monotonic()
            messages = self.configure_train(
                server_round, result.arrays, train_config or ConfigRecord(), grid
            )
            replies = exchange(grid, list(messages), timeout)
            arrays, metrics = self.aggregate_train(
                server_round, [reply for reply in replies if reply is not None]
            )
            if arrays is not None:
                result.arrays = arrays
            if metrics is not None:
                result.train_metrics_clientapp[server_round] = metrics
            self._close(server_round, time.monotonic() - began, progress)
            _evaluate_centrally(evaluate_fn, server_round, result)
        self._final_evaluation(grid, num_rounds, timeout, evaluate_config, result)
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one train message for each site drawn."""
        cards = self.roster.draw(self.rules.fraction, self.rules.seed, server_round)
        return self._address(MessageType.TRAIN, cards, server_round, arrays, config, with_task=True)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check every reply, take in what is valid, and form the next global model.

        What is refused is named in the ledger and changes nothing. Replies are taken in the
        order of the sites' names, so that the result does not depend on their arrival.
        """
        answered = self._by_site(replies)
        accepted = 0
        for _, card in self._sent:
            entry = self._entries[card.name]
            try:
                if card.name not in answered:
                    raise Refused("no reply", f"round {server_round} ended before it came")
                self._take(card, answered[card.name], entry)
                accepted += 1
            except Refused as refusal:
                entry.reason = refusal.reason
                log(WARNING, "%s refused in round %d: %s", card.name, server_round, refusal)
        scores = tally.received_model(answered, len(self.roster.data.classes))
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
            return None, None
        self.rounds_combined += 1
        return self.combine(server_round), None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message for each site, to score the global model on its test split."""
        return self._address(
            MessageType.EVALUATE, self.roster.everyone(), server_round, arrays, config
        )

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Add up the sites' confusion matrices."""
        confusion, scores = tally.confusion(self._by_site(replies), len(self.roster.data.classes))
        if scores is None:
            return None
        self.confusion = confusion
        self.ledger.final = scores
        return MetricRecord({"accuracy": scores.accuracy, "loss": scores.loss})

    def discard(self) -> None:
        """Forget the uploads of a round without quorum."""

    # ---- inside -------------------------------------------------------------------------------

    def _address(
        self,
        kind: str,
        cards: list[SiteCard],
        server_round: int,
        arrays: ArrayRecord,
        config: ConfigRecord,
        *,
        with_task: bool = False,
    ) -> list[Message]:
        model = self.pack(arrays)
        self._sent, self._entries = [], {}
        for card in cards:
            task = {**config, protocol.SITE: card.name, protocol.ROUND: server_round}
            if with_task:
                task[protocol.LEARNING_RATE] = self.rules.learning_rate_at(server_round)
                task.update(self.task(card))
            content = RecordDict({protocol.MODEL: model, protocol.TASK: ConfigRecord(task)})
            message = Message(content=content, message_type=kind, dst_node_id=card.node_id)
            self._sent.append((message, card))
            self._entries[card.name] = SiteEntry(server_round, card.name, content_bytes(content))
        return [message for message, _ in self._sent]

    def _by_site(self, replies: Iterable[Message]) -> dict[str, Message]:
        owners = {message.metadata.message_id: card.name for message, card in self._sent}
        found: dict[str, Message] = {}
        for reply in replies:
            name = owners.get(reply.metadata.reply_to_message_id)
            if name is not None:
                found.setdefault(name, reply)
        return found

    def _take(self, card: SiteCard, reply: Message, entry: SiteEntry) -> None:
        if reply.has_error():
            raise Refused("error at the site", last_line(reply.error.reason))
        entry.bytes_up = content_bytes(reply.content)
        self.accept(card, reply, entry)
        entry.accepted = True

    def _close(self, server_round: int, seconds: float, progress: Progress) -> None:
        entries = [self._entries[card.name] for _, card in self._sent]
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
        messages = self.configure_evaluate(
            server_round, result.arrays, config or ConfigRecord(), grid
        )
        replies = exchange(grid, list(messages), timeout)
        metrics = self.aggregate_evaluate(server_round, [r for r in replies if r is not None])
        if metrics is not None:
            result.evaluate_metrics_clientapp[server_round] = metrics
        self.ledger.score_round(server_round, self.ledger.final)


def _evaluate_centrally(
    evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None,
    server_round: int,
    result: Result,
) -> None:
    if evaluate_fn is None:
        return
    metrics = evaluate_fn(server_round, result.arrays)
    if metrics is not None:
        result.evaluate_metrics_serverapp[server_round] = metrics
