"""What every strategy here shares: who is asked, what came back, what was counted.

A round is one train message to each site drawn and one reply from each. The reply carries the
upload and, for the model as it was received, the counts that make its accuracy; so the figures of
round r arrive with the replies of round r + 1, and those of the last with a final evaluation. A
site whose replica is not what the patches start from says so instead, and is sent the whole model
within the same round.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from logging import INFO, WARNING

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from rsdgc import protocol
from strategies import tally
from strategies.basis import RoundRules, SiteStrategy
from strategies.checks import Refused
from strategies.exchange import exchange, last_line
from strategies.ledger import SiteEntry, content_bytes
from strategies.post import Fields
from strategies.progress import Progress
from strategies.roster import SiteCard

__all__ = ["RoundRules", "SiteRounds"]

WAIT_S = 0.5
"""Between two looks for sites that are not connected."""


class SiteRounds(SiteStrategy):
    """The loop over rounds, with a ledger of bytes and of refusals.

    Parameters
    ----------
    roster, ledger, rules, checkpoints
        See :class:`strategies.basis.SiteStrategy`.
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
        progress = Progress(num_rounds, self.resumed_round)
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
        confusion, scores = tally.confusion(answered, len(self.roster.data.classes))
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
        replies = exchange(
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
            time.sleep(min(WAIT_S, timeout))

    def _address(
        self, kind: str, cards: list[SiteCard], number: int, config: ConfigRecord
    ) -> list[Message]:
        self._post.begin("train" if kind == MessageType.TRAIN else "evaluate")
        for card in cards:
            self._post.write(
                kind, card, number, self._task(kind, card, number, config), self.parcel(card)
            )
        return [letter.message for letter in self._post.letters]

    def _task(self, kind: str, card: SiteCard, number: int, config: ConfigRecord) -> Fields:
        task: Fields = {protocol.SITE: card.name, protocol.ROUND: number}
        if kind == MessageType.TRAIN:
            task[protocol.LEARNING_RATE] = self.rules.learning_rate_at(number)
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
                    raise Refused("no reply", f"round {server_round} ended before it came")
                self._take(letter.card, answered[name], entry)
                accepted += 1
            except Refused as refusal:
                entry.reason = refusal.reason
                log(WARNING, "%s refused in round %d: %s", name, server_round, refusal)
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
            return False
        self.rounds_combined += 1
        self.combine(server_round)
        return True

    def _take(self, card: SiteCard, reply: Message, entry: SiteEntry) -> None:
        if reply.has_error():
            raise Refused("error at the site", last_line(reply.error.reason))
        entry.bytes_up += content_bytes(reply.content)
        self.accept(card, reply, entry)
        entry.accepted = True

    def _close(self, server_round: int, seconds: float, progress: Progress) -> None:
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
        replies = exchange(
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
