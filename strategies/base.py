"""The rounds of a run, shared by all strategies of this package.

A round is one train message to each site drawn, and one reply from each. The reply carries the
upload and, for the model that the site received, the counts that its accuracy is computed from.
So the scores of round r arrive with the replies of round r + 1, and those of the last round with
a final evaluation. A site whose replica does not match the patches says so instead, and is sent
the whole model within the same round.
"""

from __future__ import annotations

import math
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from logging import INFO, WARNING
from typing import Any

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
)
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from rsdgc.arrays import Float32
from rsdgc.clipping import DEFAULT_MULTIPLE, NormClip
from rsdgc.errors import RsdgcError, RunError
from rsdgc.frozen_part import FrozenPart
from rsdgc.plain_text import plain_line
from rsdgc.spec import without_branches
from strategies import messages
from strategies.best_model import BestModel
from strategies.checkpoints import Checkpoint, Checkpoints, State
from strategies.differential_privacy import PrivateMean
from strategies.downlink import Download
from strategies.final_evaluation import FinalEvaluation
from strategies.ledger import (
    ROLL_CALL,
    Ledger,
    SiteEntry,
)
from strategies.metrics import ClassCounts, sum_counts
from strategies.observer import RunObserver
from strategies.replies import TrainReply, count_arrival, read_train_reply, refusing
from strategies.roll_call import SiteDiscovery
from strategies.round_exchange import RoundExchange
from strategies.round_log import RoundLog
from strategies.running_statistics import (
    GROUP,
    RunningStatistics,
)
from strategies.sites import SiteInfo, SiteManager
from strategies.suspension import Suspensions

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]


@dataclass(frozen=True)
class RoundSettings:
    """Settings of the rounds that do not depend on how updates are compressed.

    Each round draws a ``fraction`` of the connected sites, and changes the model if it accepts
    ``quorum`` uploads. ``learning_rate_at`` returns the learning rate of the n-th round that
    changes the model, from 1. Sites score the models of rounds 0, ``evaluate_every``, and so on.
    ``clip_updates`` is the multiple of :class:`rsdgc.clipping.NormClip`; 0 for no clipping.
    """

    fraction: float
    quorum: int
    seed: int
    learning_rate_at: Callable[[int], float]
    evaluate_every: int = 1
    #: refused or missing replies in a row after which a site is set aside; 0: never
    suspend_after: int = 0
    clip_updates: float = DEFAULT_MULTIPLE
    #: whether sites multiply their largest gradient norm by 1/√N, for N sites of a round
    scale_clip: bool = False


class SiteStrategy(Strategy):
    """Base of the strategies: the loop over rounds, with a byte ledger and checkpoints.

    :meth:`start` uses Flower's four hooks in the way of Flower's own strategies, so a subclass may
    override any of them::

        class WithoutNight(RsDgc):
            def configure_train(self, server_round, arrays, config, grid):
                train = super().configure_train(server_round, arrays, config, grid)
                return [m for m in train if m.content["task"]["site"] != "night"]

    Parameters
    ----------
    site_manager : SiteManager
        The sites, as :func:`strategies.roll_call.discover_sites` returned them.
    ledger : Ledger
        Counts bytes and refusals.
    round_settings : RoundSettings
        Draw, quorum and learning rate.
    checkpoints : Checkpoints, optional
        Where and when the state of the run is saved; never by default.
    running : RunningStatistics, optional
        Those of the model; none by default.
    initial_local : mapping of str to float32 array, optional
        Entries of the model before training that stay at the sites; none by default.
    frozen : FrozenPart, optional
        What sites have of the model and are not sent; they do not compare it by default.
    privacy : PrivateMean, optional
        The mean with noise that takes the place of the aggregation rule; none by default.
    """

    def __init__(
        self,
        site_manager: SiteManager,
        ledger: Ledger,
        round_settings: RoundSettings,
        checkpoints: Checkpoints | None = None,
        running: RunningStatistics | None = None,
        initial_local: Mapping[str, Float32] | None = None,
        frozen: FrozenPart | None = None,
        *,
        privacy: PrivateMean | None = None,
    ) -> None:
        self.site_manager = site_manager
        self.ledger = ledger
        self.round_settings = round_settings
        self.checkpoints = checkpoints
        self.running = running or RunningStatistics()
        self.initial_local = dict(initial_local or {})
        self.final = FinalEvaluation(self.initial_local)
        self.best = BestModel()  #: the best round's model, if sites have validation splits
        #: what shortens updates that are much longer than the others; with privacy, nothing: what
        #: one site sends must not decide how another's update is clipped
        self.clip = NormClip(0.0 if privacy else round_settings.clip_updates)
        self.rounds_combined = 0  #: rounds that reached the quorum and so changed the model
        #: the last round in the checkpoint that the run was resumed from; 0 for a new run
        self.resumed_round = 0
        #: which sites are set aside, as their replies were refused again and again
        self.suspensions = Suspensions(round_settings.suspend_after)
        self.privacy = privacy
        self.observer = RunObserver()  #: is told of messages and rounds as they happen
        self._suspended: set[str] = set()
        self._discovery = SiteDiscovery(site_manager)
        self._exchange = RoundExchange(self, site_manager, self.running, self.initial_local, frozen)
        # What the last round's aggregate_train returned, to notice what an override changes in it.
        self._aggregated = ArrayRecord()
        self._start_time = time.monotonic()
        self._seconds_before = 0.0

    # ---- what a strategy implements -----------------------------------------------------------

    @abstractmethod
    def download(self, site: SiteInfo, *, whole: bool = False) -> Download:
        """Return the arrays that bring a site to the present model; the same ones if repeated."""

    @abstractmethod
    def accept(self, site: SiteInfo, reply: TrainReply, entry: SiteEntry) -> None:
        """Check an upload and keep it; raise :class:`ReplyRefused` if it cannot be used."""

    @abstractmethod
    def aggregate_uploads(self, server_round: int) -> None:
        """Update the global model with the uploads accepted in this round."""

    @abstractmethod
    def discard_uploads(self) -> None:
        """Forget the uploads of a round without a quorum."""

    @abstractmethod
    def largest_upload(self) -> tuple[float, int]:
        """Return bytes and arrays that no valid upload of this round exceeds."""

    @abstractmethod
    def arrays(self) -> ArrayRecord:
        """Return the global model, layer by layer."""

    @abstractmethod
    def replace_model(self, arrays: ArrayRecord) -> None:
        """Make a model the global one, as one that a subclass's ``aggregate_train`` returned."""

    @abstractmethod
    def state(self) -> State:
        """Return what a checkpoint of this strategy must hold."""

    @abstractmethod
    def restore(self, state: State) -> None:
        """Continue from what :meth:`state` returned."""

    def initialize(self, arrays: ArrayRecord) -> None:
        """Start a new run from a model."""
        self.replace_model(arrays)

    def prepare_round(self) -> None:
        """Prepare what is sent, at the start of a round."""

    def task_fields(self, site: SiteInfo, message_type: str) -> dict[str, Any]:
        """Return the fields of a site's task apart from site, round and learning rate."""
        return {}

    def origin_fields(self, run_id: int) -> dict[str, Any]:
        """Return the fields of a task by which a site finds its state of this run."""
        return {
            messages.RUN: run_id.to_bytes(8, "little"),
            messages.RESUMED_ROUND: self.resumed_round,
            messages.KEPT_ROUNDS: messages.pack_rounds(self._kept_rounds()),
        }

    def requests_whole_model(self, reply: Message) -> bool:
        """Return whether a reply asks for the whole model instead of carrying an upload."""
        return False

    def published_version(self) -> int | None:
        """Return the version that sites' replicas may have at most; None without replicas."""
        return None

    def transform_reference(self) -> Download | None:
        """Return the reference of the channel transform; None if updates are not transformed."""
        return None

    def ratios(self) -> dict[str, float]:
        """Return this round's compression ratios by layer; empty for a dense method."""
        return {}

    def published(self) -> ArrayRecord:
        """Return the trained part of the model that the sites have been sent."""
        return self.arrays()

    def finalize_model(self) -> ArrayRecord:
        """Complete the model after the last round, before it is scored, and return it."""
        return self.arrays()

    # ---- the run ------------------------------------------------------------------------------

    def summary(self) -> None:
        """Log who takes part."""
        data, num_sites = self.site_manager.data, len(self.site_manager.sites)
        text = "%d sites, %d classes, %d bands, %d px chips, data '%s'%s"
        source = (data.dataset, " (synthetic)" if data.synthetic else "")
        log(INFO, text, num_sites, len(data.classes), data.bands, data.chip_px, *source)
        for modality in data.modality_names:
            sites = self.site_manager.connected()
            without = [site.name for site in sites if modality not in site.modalities]
            if without:
                log(INFO, "sites without %s: %s", modality, ", ".join(without))

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFn | None = None,
    ) -> Result:
        """Run all rounds and a final evaluation; see Flower's ``Strategy.start``.

        It differs from Flower's in three ways. Sites score the model that a train message brings
        them, so there is one evaluation round, at the end. A round with fewer uploads than the
        quorum leaves the model unchanged and does not count: the run has one more, but at most
        twice ``num_rounds``. After :meth:`resume` the run continues with the round
        after the checkpoint, and ``initial_arrays`` are not used.

        The result holds the final global model, and what ``aggregate_train``,
        ``aggregate_evaluate`` and ``evaluate_fn`` returned.
        """
        self.summary()
        self._exchange.timeout_s = timeout
        self._enter_left_out()
        result = Result()
        if self.resumed_round:
            arrays = self.arrays()
        else:
            arrays = initial_arrays
            self.initialize(arrays)
            _evaluate_centrally(evaluate_fn, 0, arrays, result)
        round_log, server_round = RoundLog(self.resumed_round), self.resumed_round
        while server_round < self._last_round(num_rounds, server_round):
            server_round += 1
            start_time = time.monotonic()
            # A network that is down for a while must not use up the rounds of the run.
            self._discovery.wait_for(grid, self.round_settings.quorum, timeout)
            self.prepare_round()
            config = train_config or ConfigRecord()
            train = self.configure_train(server_round, arrays, config, grid)
            replies = self._exchange.send(
                grid, server_round, MessageType.TRAIN, train, self.observer
            )
            aggregated, metrics = self.aggregate_train(server_round, replies)
            if metrics is not None:
                result.train_metrics_clientapp[server_round] = metrics
            if aggregated is not None:
                self.rounds_combined += 1
                # An override may have returned a model of its own, or replaced arrays in this one.
                if aggregated != self._aggregated:
                    self.replace_model(aggregated)
                arrays = aggregated
            suspended = self._suspend(server_round, replies)
            times = time.monotonic() - start_time, self._exchange.sent_at - start_time
            self.ledger.close_round(self._exchange.outbox.end(), self.ratios(), *times)
            self.ledger.suspend(suspended, len(self._suspended))
            self._enter_left_out()
            last_round = self._last_round(num_rounds, server_round)
            log(INFO, round_log.line(last_round, *self.ledger.rounds[-2:]))
            self.observer.round_ended(self.ledger.rounds[-1], last_round)
            if self.checkpoints is not None and self.checkpoints.due(server_round):
                self.save(self.checkpoints, server_round)
            _evaluate_centrally(evaluate_fn, server_round, arrays, result)
        result.arrays = self.finalize_model()
        config = evaluate_config or ConfigRecord()
        evaluate = self.configure_evaluate(server_round, result.arrays, config, grid)
        replies = self._exchange.send(
            grid, server_round, MessageType.EVALUATE, evaluate, self.observer
        )
        metrics = self.aggregate_evaluate(server_round, replies)
        if metrics is not None:
            result.evaluate_metrics_clientapp[server_round] = metrics
        # The final evaluation is not a round of its own: it completes the last round.
        entries = self._exchange.outbox.end()
        self.ledger.refusals.update(e.reason for e in entries if e.reason)
        self.ledger.count(entries)
        self.ledger.score_round(server_round, self.final.scores, self.final.val, entries)
        return result

    def _last_round(self, num_rounds: int, server_round: int) -> int:
        """Return the number of the last round, after this one.

        A round without a quorum is made up for. The run takes at most twice its number of rounds.
        """
        return num_rounds + min(num_rounds, server_round - self.rounds_combined)

    def seconds(self) -> float:
        """Return the duration of the run, without the time between a stop and its resumption."""
        return self._seconds_before + time.monotonic() - self._start_time

    # ---- Flower's hooks -----------------------------------------------------------------------

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one train message for each site drawn from those that are connected.

        ``arrays`` is part of Flower's interface and not used: what travels is :meth:`download`.
        An override may leave messages out, change their tasks, or add messages. Each must name
        its site in the task.
        """
        settings = self.round_settings
        # Polled here again, as sites may have left while the round waited for its quorum.
        nodes = self._discovery.poll(grid)
        names = [site.name for site in self.site_manager.connected(nodes)]
        needed = math.ceil(settings.quorum / settings.fraction)
        self._suspended = without = self.suspensions.absent(server_round, names, needed)
        sites = self.site_manager.draw(
            settings.fraction, settings.seed, server_round, nodes, without
        )
        # The schedule is that of the rounds that changed the model.
        rate = settings.learning_rate_at(self.rounds_combined + 1)
        task = {**config, messages.ROUND: server_round, messages.LEARNING_RATE: rate}
        if settings.scale_clip:
            task[messages.CLIP_SCALE] = 1 / math.sqrt(max(1, len(sites)))
        return [self._exchange.message(MessageType.TRAIN, site, task) for site in sites]

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check every reply, accept the valid ones, and update the global model.

        Refused replies are counted in the ledger by reason and change nothing.

        Returns
        -------
        arrays : ArrayRecord or None
            The new global model; None if the quorum was not reached. If an override returns
            another one, that becomes the global model.
        metrics : MetricRecord or None
            Samples and mean train loss of the accepted uploads, and how many were clipped or left
            out if there are any.
        """
        by_site = self._exchange.outbox.replies_by_site(replies)
        # By name, so that the result does not depend on the order of arrival.
        entries = sorted(self._exchange.entries.items())
        counts = [self._accept_reply(name, by_site.get(name), entry) for name, entry in entries]
        accepted = [entry for _, entry in entries if entry.accepted]
        scores = sum_counts(test for test, _ in counts)
        val = sum_counts(val for _, val in counts)
        self.ledger.score_round(server_round - 1, scores, val, accepted)
        # Before the step: the sites have scored the model that they received.
        self.best.offer(server_round - 1, val, self._sent_model)
        quorum = self.round_settings.quorum
        if len(accepted) < quorum:
            text = "round %d: %d uploads accepted, quorum is %d; the model is unchanged"
            log(WARNING, text, server_round, len(accepted), quorum)
            self.discard_uploads()
            self.running.discard()
            return None, None
        self.running.aggregate()
        self.aggregate_uploads(server_round)
        arrays = self.arrays()
        self._aggregated = arrays.copy()
        refused = len(self._exchange.entries) - len(accepted)
        return arrays, _train_metrics(accepted, refused, len(self._suspended))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message for each connected site, to score the final model."""
        sites = self.site_manager.connected(self._discovery.poll(grid))
        task = {**config, messages.ROUND: server_round}
        return [self._exchange.message(MessageType.EVALUATE, site, task) for site in sites]

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Add up the sites' confusion matrices, and score the sum."""
        by_site = self._exchange.outbox.replies_by_site(replies)
        self.final.aggregate(by_site, self._exchange.entries, self.site_manager)
        self.best.offer(server_round, self.final.val, self._sent_model)
        scores = self.final.scores
        if scores is None:
            return None
        loss = {} if scores.loss is None else {"loss": scores.loss}
        return MetricRecord({"accuracy": scores.accuracy, **loss})

    def _suspend(self, server_round: int, replies: Iterable[Message]) -> list[SiteEntry]:
        """Set sites aside whose replies are refused again and again; return their entries."""
        by_site = self._exchange.outbox.replies_by_site(replies)
        started = self.suspensions.observe(server_round, self._exchange.entries, by_site)
        for entry in started:
            refused = self.suspensions.records[entry.site].refused
            text = "%s is %s (%d replies in a row were refused or did not come)"
            log(WARNING, text, entry.site, entry.reason, refused)
        return started

    def _enter_left_out(self) -> None:
        """Enter into the ledger which nodes the roll call has left out since the last time."""
        nodes = self.site_manager.nodes
        number = len(self.ledger.rounds) - 1
        entries = [
            SiteEntry(number, left.name, phase=ROLL_CALL, reason=f"{left.reason}: {left.detail}")
            for left in nodes.news
        ]
        nodes.news.clear()
        self.ledger.count(entries)

    def _accept_reply(
        self, name: str, reply: Message | None, entry: SiteEntry
    ) -> tuple[ClassCounts | None, ClassCounts | None]:
        """Accept a reply, or record why it is refused.

        Returns the counts on test and validation split that came with an accepted one.
        """
        site, data = self.site_manager.sites[name], self.site_manager.data
        with refusing(entry):
            arrived = count_arrival(reply, entry)
            checked = read_train_reply(
                arrived,
                site,
                len(data.classes),
                scored=messages.is_scored(entry.round, self.round_settings.evaluate_every),
                published=self.published_version(),
            )
            limit = self.site_manager.weight_limit(site)
            checked = replace(checked, num_examples=min(checked.num_examples, limit))
            del arrived.content[messages.UPDATE]  # or every upload would be in memory twice
            # Checked before the upload counts.
            running, running_bytes = self.running.read(checked.running)
            self.accept(site, checked, entry)
            running = without_branches(running, self.site_manager.lacking(site))
            self.running.add(name, running, checked.num_examples)
            entry.accepted = True
            entry.num_examples = checked.num_examples
            entry.train_loss = checked.train_loss
            entry.record_work(checked.seconds)
            entry.accuracy = None if checked.test is None else checked.test.accuracy
            if running_bytes:
                entry.up_by_group["report"] -= running_bytes
                entry.up_by_group[GROUP] = running_bytes
            return checked.test, checked.val
        return None, None

    def record_shares(
        self, server_round: int, norms: Mapping[str, float], shares: Mapping[str, float]
    ) -> None:
        """Record which share of its length each accepted update counts by, 1 by default.

        ``norms`` are the updates' Euclidean norms by site. A share is below 1 if norm clipping
        has shortened the update, and 0 if the aggregation rule has left it out.
        """
        reference = self.clip.reference(norms)
        for name, share in sorted(shares.items()):
            self._exchange.entries[name].accepted_share = share
            if share:
                text = (
                    "%s clipped in round %d: %.3g times as long as usual, its update counts by %.2g"
                )
                log(WARNING, text, name, server_round, norms[name] / reference, share)
            else:
                text = "%s left out of round %d by the aggregation rule"
                log(WARNING, text, name, server_round)
        self.clip.record(norms, shares)

    def _sent_model(self) -> ArrayRecord:
        """Return the model that the sites have been sent, with its running statistics."""
        running = {name: Array(array) for name, array in self.running.current.items()}
        return ArrayRecord({**self.published(), **running})

    # ---- checkpoints --------------------------------------------------------------------------

    def _kept_rounds(self) -> list[int]:
        return [] if self.checkpoints is None else self.checkpoints.kept_rounds()

    def save(self, checkpoints: Checkpoints, server_round: int) -> None:
        """Write a checkpoint of the run after a round."""
        parts = {
            "strategy": self.state(),
            "running": self.running.state(),
            "ledger": self.ledger.state(),
            "best": self.best.state(),
            "sites": self.site_manager.state(),
            "suspensions": self.suspensions.state(),
            "clip": State(values={"medians": self.clip.medians}),
        }
        if self.privacy is not None:
            parts["privacy"] = self.privacy.state()
        run = {"rounds_combined": self.rounds_combined, "seconds": self.seconds()}
        try:
            checkpoints.save(Checkpoint(server_round, State.join(parts, run)))
        except RunError as error:  # the run does not need it, and the next one may succeed
            log(WARNING, "%s", error)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint: :meth:`start` runs the rounds after it."""
        state = checkpoint.state
        try:
            self.restore(state.part("strategy"))
            # Checkpoints of earlier versions lack these parts.
            parts: dict[str, Any] = {
                "running": self.running,
                "best": self.best,
                "sites": self.site_manager,
                "suspensions": self.suspensions,
            }
            for name, part in parts.items():
                if name in state.values:
                    part.restore(state.part(name))
            if "clip" in state.values:
                self.clip.medians = state.part("clip").numbers("medians")
            if self.privacy is not None:
                self.privacy.restore(state.part("privacy"))
        except RunError:
            raise
        # A strategy of the user's own need not check what it restores.
        except (RsdgcError, LookupError, ValueError, TypeError, AttributeError) as error:
            raise RunError(f"it does not fit the run ({plain_line(str(error))})") from error
        self.rounds_combined = state.integer("rounds_combined")
        self._seconds_before = state.number("seconds")
        # Last, because it cuts off what the files hold of later rounds.
        self.ledger.restore(state.part("ledger"))
        self.resumed_round = checkpoint.round


def _evaluate_centrally(
    evaluate_fn: EvaluateFn | None, server_round: int, arrays: ArrayRecord, result: Result
) -> None:
    metrics = None if evaluate_fn is None else evaluate_fn(server_round, arrays)
    if metrics is not None:
        result.evaluate_metrics_serverapp[server_round] = metrics


def _train_metrics(entries: list[SiteEntry], refused: int, suspended: int) -> MetricRecord | None:
    """Return the samples and the mean train loss of accepted uploads, and who is missing."""
    losses = [(e.num_examples, e.train_loss) for e in entries if e.train_loss is not None]
    num_examples = sum(weight for weight, _ in losses)
    if not num_examples:
        return None
    mean_loss = sum(weight * loss for weight, loss in losses) / num_examples
    metrics = MetricRecord({messages.NUM_EXAMPLES: num_examples, messages.TRAIN_LOSS: mean_loss})
    clipped = sum(entry.clipped for entry in entries)
    counts = {"clipped": clipped, "refused": refused, "suspended": suspended}
    metrics.update({name: count for name, count in counts.items() if count})
    return metrics
