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
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from logging import INFO, WARNING
from typing import Any

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from rsdgc.arrays import Float32, Int64
from rsdgc.clipping import DEFAULT_MULTIPLE, NormClip
from rsdgc.errors import RsdgcError, RunError
from rsdgc.frozen_part import FrozenPart
from rsdgc.plain_text import plain_line
from rsdgc.spec import in_branch
from strategies import messages
from strategies.best_model import BestModel
from strategies.checkpoints import Checkpoint, Checkpoints, State
from strategies.differential_privacy import PrivateMean
from strategies.downlink import Download
from strategies.ledger import (
    FROZEN_GROUP,
    ROLL_CALL,
    Ledger,
    SiteEntry,
    content_bytes,
    error_bytes,
)
from strategies.metrics import ClassCounts, Scores, sum_counts
from strategies.node_answer import modality_fields
from strategies.outbox import Outbox
from strategies.replies import (
    EvaluateReply,
    TrainReply,
    is_request,
    read_evaluate_reply,
    read_train_reply,
    refusing,
)
from strategies.reply_objects import ReplyLimits
from strategies.roll_call import SiteDiscovery
from strategies.round_log import RoundLog
from strategies.running_statistics import (
    GROUP,
    ReceivedArrays,
    RunningStatistics,
    mean_arrays,
    read_statistics,
)
from strategies.sites import SiteInfo, SiteManager
from strategies.suspension import Suspensions
from strategies.transport import UPLOAD_CHUNK_BYTES, send_and_receive
from strategies.validation import ReplyRefused

SMALL_REPLY_BYTES = 64 * 1024
"""Bytes of a reply beside its upload and its counts: names, headers, the other numbers."""

MAX_COUNT_BYTES = 10
"""Bytes of a count as protobuf writes it."""

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]


@dataclass(frozen=True)
class RoundSettings:
    """Settings of the rounds that do not depend on how updates are compressed.

    Each round draws a ``fraction`` of the connected sites, and changes the model if it accepts
    ``quorum`` uploads. ``learning_rate_at`` returns the learning rate of a round, counted from 1.
    Sites score the models of rounds 0, ``evaluate_every``, and so on. ``clip_updates`` is the
    multiple of :class:`rsdgc.clipping.NormClip`; 0 for no clipping.
    """

    fraction: float
    quorum: int
    seed: int
    learning_rate_at: Callable[[int], float]
    evaluate_every: int = 1
    #: refused replies in a row after which a site is set aside; 0: never
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
        #: the entries that stay at the sites, as the model that is delivered has them: their mean
        #: at the end of the run
        self.local = self.initial_local
        #: int64 [K, K]: confusion matrix of the final evaluation over all sites' test splits,
        #: reference in rows
        self.confusion: Int64 | None = None
        #: scores of the final evaluation at the sites that have these modalities and no others
        self.scores_by_modalities: dict[tuple[str, ...], Scores] = {}
        self.best = BestModel()  #: the best round's model, if sites have validation splits
        #: what shortens updates that are much longer than the others; with privacy, nothing: what
        #: one site sends must not decide how another's update is clipped
        self.clip = NormClip(0.0 if privacy else round_settings.clip_updates)
        self.rounds_combined = 0  #: rounds that reached the quorum and so changed the model
        #: the last round in the checkpoint that the run was resumed from; 0 for a new run
        self.resumed_round = 0
        #: which sites are set aside, as their replies were refused again and again
        self.suspensions = Suspensions(round_settings.suspend_after)
        self.frozen = frozen
        self.privacy = privacy
        self._suspended: set[str] = set()
        self._frozen_download: Download | None = None
        self._discovery = SiteDiscovery(site_manager)
        self._outbox = Outbox()
        self._timeout_s = 3600.0
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
        quorum leaves the model unchanged. After :meth:`resume` the run continues with the round
        after the checkpoint, and ``initial_arrays`` are not used.

        The result holds the final global model, and what ``aggregate_train``,
        ``aggregate_evaluate`` and ``evaluate_fn`` returned.
        """
        self.summary()
        self._timeout_s = timeout
        self._enter_left_out()
        result = Result()
        if self.resumed_round:
            arrays = self.arrays()
        else:
            arrays = initial_arrays
            self.initialize(arrays)
            _evaluate_centrally(evaluate_fn, 0, arrays, result)
        round_log = RoundLog(num_rounds, self.resumed_round)
        for server_round in range(self.resumed_round + 1, num_rounds + 1):
            start_time = time.monotonic()
            # A network that is down for a while must not use up the rounds of the run.
            self._discovery.wait_for(grid, self.round_settings.quorum, timeout)
            self.prepare_round()
            config = train_config or ConfigRecord()
            train = self.configure_train(server_round, arrays, config, grid)
            replies = self._send_and_receive(grid, server_round, "train", train)
            aggregated, metrics = self.aggregate_train(server_round, replies)
            if metrics is not None:
                result.train_metrics_clientapp[server_round] = metrics
            if aggregated is not None:
                # An override may have returned a model of its own, or replaced arrays in this one.
                if aggregated != self._aggregated:
                    self.replace_model(aggregated)
                arrays = aggregated
            suspended = self._suspend(server_round, replies)
            seconds = time.monotonic() - start_time
            self.ledger.close_round(self._outbox.end(), self.ratios(), seconds)
            self.ledger.suspend(suspended, len(self._suspended))
            self._enter_left_out()
            log(INFO, round_log.line(*self.ledger.rounds[-2:]))
            if self.checkpoints is not None and self.checkpoints.due(server_round):
                self.save(self.checkpoints, server_round)
            _evaluate_centrally(evaluate_fn, server_round, arrays, result)
        result.arrays = self.finalize_model()
        config = evaluate_config or ConfigRecord()
        evaluate = self.configure_evaluate(num_rounds, result.arrays, config, grid)
        replies = self._send_and_receive(grid, num_rounds, "evaluate", evaluate)
        metrics = self.aggregate_evaluate(num_rounds, replies)
        if metrics is not None:
            result.evaluate_metrics_clientapp[num_rounds] = metrics
        # The final evaluation is not a round of its own: it completes the last round.
        entries = self._outbox.end()
        self.ledger.refusals.update(e.reason for e in entries if e.reason)
        self.ledger.count(entries)
        self.ledger.score_round(num_rounds, self.ledger.final, self.ledger.final_val)
        return result

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
        if settings.scale_clip:
            config = ConfigRecord(
                {**config, messages.CLIP_SCALE: 1 / math.sqrt(max(1, len(sites)))}
            )
        return [self._message(MessageType.TRAIN, site, server_round, config) for site in sites]

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
        by_site = self._outbox.replies_by_site(replies)
        # By name, so that the result does not depend on the order of arrival.
        entries = sorted(self._outbox.entries.items())
        counts = [self._accept_reply(name, by_site.get(name), entry) for name, entry in entries]
        accepted = [entry for _, entry in entries if entry.accepted]
        scores = sum_counts(test for test, _ in counts)
        val = sum_counts(val for _, val in counts)
        self.ledger.score_round(server_round - 1, scores, val)
        # Before the step: the sites have scored the model that they received.
        self.best.offer(server_round - 1, val, self._sent_model)
        quorum = self.round_settings.quorum
        if len(accepted) < quorum:
            text = "round %d: %d uploads accepted, quorum is %d; the model is unchanged"
            log(WARNING, text, server_round, len(accepted), quorum)
            self.discard_uploads()
            self.running.discard()
            return None, None
        self.rounds_combined += 1
        self.running.aggregate()
        self.aggregate_uploads(server_round)
        arrays = self.arrays()
        self._aggregated = arrays.copy()
        refused = len(self._outbox.entries) - len(accepted)
        return arrays, _train_metrics(accepted, refused, len(self._suspended))

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return one message for each connected site, to score the final model."""
        sites = self.site_manager.connected(self._discovery.poll(grid))
        return [self._message(MessageType.EVALUATE, site, server_round, config) for site in sites]

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Add up the sites' confusion matrices, and score the sum."""
        by_site = self._outbox.replies_by_site(replies)
        received: list[ReceivedArrays] = []
        counts: dict[str, ClassCounts] = {}
        vals = []
        confusion = np.zeros((len(self.site_manager.data.classes),) * 2, np.int64)
        for name, entry in sorted(self._outbox.entries.items()):
            reply = self._accept_scores(name, by_site.get(name), entry, received)
            if reply is not None:
                counts[name], confusion = reply.test, confusion + reply.confusion
                vals.append(reply.val)
        self.local = self.initial_local | mean_arrays(received, self.initial_local)
        self.ledger.final_val = sum_counts(vals)
        self.best.offer(server_round, self.ledger.final_val, self._sent_model)
        scores = sum_counts(counts.values())
        if scores is None:
            return None
        self.confusion, self.ledger.final = confusion, scores
        for modalities, names in self.site_manager.sites_by_modalities().items():
            group = sum_counts(counts.get(name) for name in names)
            if group is not None:
                self.scores_by_modalities[modalities] = group
        loss = {} if scores.loss is None else {"loss": scores.loss}
        return MetricRecord({"accuracy": scores.accuracy, **loss})

    def _accept_scores(
        self,
        name: str,
        reply: Message | None,
        entry: SiteEntry,
        local: list[ReceivedArrays],
    ) -> EvaluateReply | None:
        """Return the scores of the final model at a site, or record why they are refused.

        The entries of the model that stay at the site are appended to ``local``, with its weight in
        their mean.
        """
        site = self.site_manager.sites[name]
        with refusing(entry):
            arrived = self._arrived(reply, entry)
            scores = read_evaluate_reply(arrived, site, len(self.site_manager.data.classes))
            if scores.local is not None:
                arrays, _ = read_statistics(scores.local, self.initial_local, "local entries")
                # Those of a branch that the site lacks are as built, and not part of the mean.
                own = self.initial_local | arrays
                own = _without_branches(own, self.site_manager.lacking(site))
                weight = min(site.num_train, self.site_manager.weight_limit(site))
                local.append((name, own, float(weight)))
            entry.accepted, entry.accuracy = True, scores.test.accuracy
            return scores
        return None

    def _suspend(self, server_round: int, replies: Iterable[Message]) -> list[SiteEntry]:
        """Set sites aside whose replies are refused again and again; return their entries."""
        by_site = self._outbox.replies_by_site(replies)
        started = self.suspensions.observe(server_round, self._outbox.entries, by_site)
        for entry in started:
            refused = self.suspensions.records[entry.site].refused
            text = "%s is %s (%d refused replies in a row)"
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

    # ---- messages of a round ------------------------------------------------------------------

    def _message(
        self, message_type: str, site: SiteInfo, server_round: int, config: ConfigRecord
    ) -> Message:
        task = {**config, messages.SITE: site.name, messages.ROUND: server_round}
        if message_type == MessageType.TRAIN:
            task[messages.LEARNING_RATE] = self.round_settings.learning_rate_at(server_round)
        modalities = self.site_manager.data.modalities
        # A site with all of them, in this order, knows them.
        if site.modalities != self.site_manager.data.modality_names:
            task |= modality_fields(modalities)
        if self.frozen is not None:
            task[messages.FROZEN] = self.frozen.digest
        task |= self.task_fields(site, message_type)
        return self._pack(message_type, site, ConfigRecord(task), self.download(site))

    def _pack(
        self, message_type: str, site: SiteInfo, task: ConfigRecord, download: Download
    ) -> Message:
        content = RecordDict({messages.TASK: task})
        if download.arrays is not None:
            content[messages.MODEL] = download.arrays
        running = self.running.record()
        if running is not None:
            content[messages.RUNNING] = running
        # Longer than a round, so that a reply that comes too late is seen and counted.
        return Message(content, site.node_id, message_type, ttl=2 * self._timeout_s)

    def _send_and_receive(
        self, grid: Grid, server_round: int, phase: str, configured: Iterable[Message]
    ) -> list[Message]:
        """Record and send the messages of a round; return the replies that came in time."""
        to_send = list(configured)
        self._outbox.begin()
        for message in to_send:
            task = message.content.config_records.get(messages.TASK, ConfigRecord())
            name = str(task.get(messages.SITE, ""))
            if name not in self.site_manager.sites:
                raise RunError(
                    f"a message names site '{name}', which is not part of the run: "
                    "configure_train and configure_evaluate must set 'site' in each task"
                )
            download = self.download(self.site_manager.sites[name])
            # Arrays that an override put in are not known by group: they count as the task's.
            unchanged = message.content.get(messages.MODEL) is download.arrays
            groups = (download.groups if unchanged else {}) | self.running.groups()
            self._outbox.add(message, name, server_round, phase, groups)
        replies = send_and_receive(
            grid,
            to_send,
            self._timeout_s,
            follow_up=self._answer_resync,
            unanswered=self._outbox.unanswered,
            limits=self._reply_limits(phase),
        )
        return [reply for reply in replies if reply is not None]

    def _reply_limits(self, phase: str) -> ReplyLimits:
        """Return what no valid reply to the messages of a round exceeds."""
        num_classes = len(self.site_manager.data.classes)
        counts = len(messages.CLASS_COUNTS + messages.VAL_CLASS_COUNTS) * num_classes
        arrays = 0
        if phase == "train":
            num_bytes, arrays = self.largest_upload()
            num_bytes += 2 * self.running.largest_bytes
        else:
            counts += num_classes**2
            num_bytes = 2 * sum(array.nbytes for array in self.initial_local.values())
        num_bytes = round(num_bytes) + SMALL_REPLY_BYTES
        arrays += 1 + num_bytes // UPLOAD_CHUNK_BYTES
        return ReplyLimits(num_bytes, arrays, SMALL_REPLY_BYTES + MAX_COUNT_BYTES * counts)

    def _answer_resync(self, index: int, reply: Message) -> Message | None:
        """Return a message with the whole model if a reply asks for it, once a round and site.

        A site without the frozen part is sent that, too. It lacks the weights that the run started
        from, so its own version 0 would not be the server's. So is a site without the reference of
        the channel transform.
        """
        sent = self._outbox.sent[index]
        frozen = self._requested_frozen_part(reply)
        reference = None
        if is_request(reply, messages.TRANSFORM):
            reference = self.transform_reference()
        if self._outbox.entries[sent.site].resynced:
            return None
        if frozen is not None:
            log(WARNING, "%s lacks the frozen part of the model: sending it", sent.site)
        elif reference is not None:
            log(WARNING, "%s lacks the reference of the transform: sending it", sent.site)
        elif self.requests_whole_model(reply):
            log(WARNING, "the replica of %s is out of sync: sending the whole model", sent.site)
        else:
            return None
        site = self.site_manager.sites[sent.site]
        download = self.download(site, whole=True)
        # The same task, so that an override's changes to it hold for the second message as well.
        task = sent.message.content.config_records[messages.TASK]
        message = self._pack(sent.message.metadata.message_type, site, task, download)
        groups = download.groups | self.running.groups()
        if frozen is not None:
            assert frozen.arrays is not None
            message.content[messages.FROZEN] = frozen.arrays
            groups |= frozen.groups
        if reference is not None:
            assert reference.arrays is not None
            message.content[messages.TRANSFORM] = reference.arrays
            groups |= reference.groups
        self._outbox.add_resync(index, reply, message, groups)
        return message

    def _requested_frozen_part(self, reply: Message) -> Download | None:
        """Return the frozen part if a reply asks for it; it is packed once."""
        if self.frozen is None or not is_request(reply, messages.FROZEN):
            return None
        if self._frozen_download is None:
            array = Array(np.frombuffer(self.frozen.pack(), np.uint8))
            arrays = ArrayRecord({messages.PACKED: array})
            self._frozen_download = Download(arrays, {FROZEN_GROUP: len(array.data)})
        return self._frozen_download

    def _accept_reply(
        self, name: str, reply: Message | None, entry: SiteEntry
    ) -> tuple[ClassCounts | None, ClassCounts | None]:
        """Accept a reply, or record why it is refused.

        Returns the counts on test and validation split that came with an accepted one.
        """
        site, data = self.site_manager.sites[name], self.site_manager.data
        with refusing(entry):
            arrived = self._arrived(reply, entry)
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
            running = _without_branches(running, self.site_manager.lacking(site))
            self.running.add(name, running, checked.num_examples)
            entry.accepted = True
            entry.num_examples = checked.num_examples
            entry.train_loss, entry.seconds = checked.train_loss, checked.seconds
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
            self._outbox.entries[name].accepted_share = share
            if share:
                text = (
                    "%s clipped in round %d: %.3g times as long as usual, its update counts by %.2g"
                )
                log(WARNING, text, name, server_round, norms[name] / reference, share)
            else:
                text = "%s left out of round %d by the aggregation rule"
                log(WARNING, text, name, server_round)
        self.clip.record(norms, shares)

    def _arrived(self, reply: Message | None, entry: SiteEntry) -> Message:
        """Return a reply, its bytes counted; raise :class:`ReplyRefused` if it did not come."""
        if reply is None:
            raise ReplyRefused("no reply", f"round {entry.round} ended before it came")
        if reply.has_content():
            entry.bytes_up += content_bytes(reply.content)
        else:
            entry.receive_error(error_bytes(reply))
        return reply

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


def _without_branches(
    arrays: Mapping[str, Float32], lacking: Collection[str]
) -> dict[str, Float32]:
    """Return the entries that a site has which lacks these modalities."""
    return {name: array for name, array in arrays.items() if not in_branch(name, lacking)}


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
