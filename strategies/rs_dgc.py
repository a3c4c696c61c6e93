"""The RS-DGC strategy: compressed in both directions, with layer ratios steered by the server.

Xie et al., "Exploring Neighborhood Statistics for Dynamic Gradient Compression on Remote Sensing
Image Interpretation", arXiv 2312.17530. In each round the server sends every site the patches of
the published model that it lacks, and the compression ratio of each layer. Sites upload the
neighborhoods that their indicator ranks highest. The server aggregates the sparse uploads, steps
the model, publishes a patch, and computes the next ratios.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from logging import INFO, WARNING
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common import log

from rsdgc import Aggregator, ModelSpec, Stamp, WeightedMean
from rsdgc.arrays import Bools, Float32
from rsdgc.channel_transform import ChannelTransform
from rsdgc.errors import RunError, WireError
from rsdgc.frozen_part import FrozenPart
from rsdgc.ratios import share_of_layers
from strategies import messages
from strategies.base import RoundSettings, SiteStrategy
from strategies.checkpoints import Checkpoints, State
from strategies.differential_privacy import PrivateMean
from strategies.downlink import Download, DownloadCache, PublishedModel
from strategies.ledger import Ledger, SiteEntry, content_bytes, update_bytes
from strategies.model_record import to_record, to_vector
from strategies.rate_control import RateControl, typical_bytes
from strategies.replies import INVALID_UPLOAD, TrainReply, is_request, read_upload
from strategies.running_statistics import GROUP, RunningStatistics
from strategies.sites import SiteInfo, SiteManager
from strategies.validation import ReplyRefused

UPLOAD_ALLOWANCE = 4.0
"""An upload of more than so many times the bytes that it should have is refused.

With the values of ``rs-dgc`` encoded uploads are within 1 % of their target. With others they may
miss it by the factor that corrects the ratios (:data:`strategies.rate_control.MAX_LEVEL`).
"""

LARGEST_STATISTICS_SHARE = 0.5
"""Share of a message that running statistics may take without a warning."""


@dataclass
class SyncState:
    """Where each site stands, by name; 0 for a site that is absent.

    ``accepted`` is the last round whose upload is in the model: a site whose last upload is not in
    it adds the upload back to its residual. ``shares`` has, of uploads that are in it by a share
    only, that share: the site adds the rest back. ``missed`` counts the uploads that were asked for
    since, and not accepted. ``confirmed`` is the version of the replica on the
    site's disk, by its last reply. The site may be further by now; it skips patches that it has.
    """

    accepted: dict[str, int] = field(default_factory=dict)
    confirmed: dict[str, int] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    missed: dict[str, int] = field(default_factory=dict)

    def settle(self, server_round: int, accepted: Collection[str], asked: Iterable[str]) -> None:
        """Record which uploads of a round are in the model, of those that were asked for."""
        for site in asked:
            self.missed[site] = self.missed.get(site, 0) + 1
        for site in accepted:
            self.accepted[site] = server_round
            self.missed.pop(site, None)
            self.shares.pop(site, None)


class ServerMomentum:
    """Momentum of the global model: each step carries a part of the steps before it.

    With the aggregated update ``s`` and momentum μ, ``u ← μ·u + s`` and ``w ← w + u`` (FedAvgM:
    Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification", 2019). Error feedback delays updates, so a compressed run trails a dense one
    by some rounds. Momentum makes up for them, and costs no bytes.

    Parameters
    ----------
    momentum : float
        μ, 0 to below 1; with 0 updates pass unchanged and nothing is kept.
    size : int
        Parameters of the model.
    """

    def __init__(self, momentum: float, size: int) -> None:
        self.momentum = momentum
        # The last step, u.
        self.velocity: Float32 = np.zeros(size if momentum else 0, dtype=np.float32)

    def step(self, update: Float32) -> Float32:
        """Return a round's step, float32 [size]; with momentum it is :attr:`velocity` itself."""
        if not self.momentum:
            return update
        self.velocity *= np.float32(self.momentum)
        self.velocity += update
        return self.velocity


def last_step(momentum: ServerMomentum, transform: ChannelTransform | None) -> Float32:
    """Return the model's last step in the basis of the uploads, float32 [size]; a new array."""
    last = momentum.velocity.copy()
    if transform is not None:
        transform.forward(last)
    return last


class RsDgc(SiteStrategy):
    """Aggregate neighborhood-sparsified updates and publish the model in patches.

    Parameters
    ----------
    site_manager, ledger, round_settings, checkpoints, running, initial_local, frozen
        See :class:`strategies.base.SiteStrategy`.
    rates : RateControl
        Budget and ratios of the uploads.
    model : PublishedModel
        The model before training, with the budget of its patches.
    final_rates : RateControl
        Budget of the last patch; the published model after it is the final one.
    server_momentum : float
        See :class:`strategies.rs_dgc.ServerMomentum`.
    aggregator : callable
        Creates a round's aggregation rule for a model; see :mod:`rsdgc.aggregation`.
    privacy : PrivateMean, optional
        Takes the place of the rule.
    """

    def __init__(
        self,
        site_manager: SiteManager,
        ledger: Ledger,
        round_settings: RoundSettings,
        rates: RateControl,
        model: PublishedModel,
        final_rates: RateControl,
        checkpoints: Checkpoints | None = None,
        running: RunningStatistics | None = None,
        initial_local: Mapping[str, Float32] | None = None,
        frozen: FrozenPart | None = None,
        *,
        server_momentum: float = 0.0,
        aggregator: Callable[[ModelSpec], Aggregator] = WeightedMean,
        privacy: PrivateMean | None = None,
    ) -> None:
        super().__init__(
            *(site_manager, ledger, round_settings, checkpoints, running, initial_local, frozen),
            privacy=privacy,
        )
        self.rates = rates
        self.model = model
        self.final_rates = final_rates
        self.sync = SyncState()
        self._downloads = DownloadCache(model)
        self._momentum = ServerMomentum(server_momentum, rates.spec.size)
        self._make_aggregator = aggregator
        self._uploads = aggregator(rates.spec)
        # Bytes of the round's replies by site, and which part of an upload they are: that of a site
        # that lacks a modality is smaller.
        self._uploaded: dict[str, tuple[int, float]] = {}
        self._ratios: dict[str, float] = {}
        self._overhead_bytes = 0
        # Of a report's bytes, those of the scores; the other reports do not have them.
        report_bytes, self._score_bytes = _report_bytes(site_manager)
        unscored = 1 - 1 / round_settings.evaluate_every
        report_bytes -= round(unscored * self._score_bytes)
        statistics_bytes = self.running.expected_bytes
        rates.begin(model.weights, report_bytes + statistics_bytes)
        if statistics_bytes:
            model.rates.begin(model.weights, statistics_bytes)

    def summary(self) -> None:
        """Log who takes part and how updates are compressed."""
        super().summary()
        scheme, dense = self.rates.scheme, self.rates.spec.dense_bytes
        up, down = self.rates.budget_bytes, self.model.rates.budget_bytes
        log(
            INFO,
            "uploads of %.0f bytes (%.4g× less than %d), patches of %.0f (%.4g×), "
            "%s neighborhoods, %s values, ratios: %s, transform: %s",
            *(up, dense / up, dense, down, dense / down),
            *(scheme.neighborhood, scheme.values, self.rates.policy, scheme.transform),
        )
        statistics_bytes = self.running.expected_bytes
        if statistics_bytes:
            log(INFO, "running statistics: %d bytes of every upload and patch", statistics_bytes)
        if statistics_bytes > LARGEST_STATISTICS_SHARE * min(up, down):
            log(
                WARNING,
                "running statistics take %d of the %.0f bytes of a message: raise budget and "
                "budget-down%s",
                statistics_bytes,
                min(up, down),
                self.running.remedy,
            )

    # ---- what is sent -------------------------------------------------------------------------

    def initialize(self, arrays: ArrayRecord) -> None:
        """Check that the initial model is the one that the sites start from."""
        if not np.array_equal(to_vector(arrays, self.rates.spec), self.model.published):
            raise RunError("the initial model differs from the strategy's: pass the same one")

    def prepare_round(self) -> None:
        """Publish the change of the last round, and fix the ratios of this one."""
        # Not earlier: the change of the run's last round goes out once, in the last patch.
        if self.model.pending:
            self.model.publish(self._overhead_bytes)
        names = (layer.name for layer in self.rates.spec.layers)
        self._ratios = dict(zip(names, self.rates.ratios.tolist(), strict=True))

    def download(self, site: SiteInfo, *, whole: bool = False) -> Download:
        """Return the patches that a site lacks, or the whole model."""
        if whole:
            return self._downloads.whole()
        return self._downloads.since(self.sync.confirmed.get(site.name, 0))

    def task_fields(self, site: SiteInfo, message_type: str) -> dict[str, Any]:
        """Return the version of the model, the ratios, and the last upload accepted."""
        fields: dict[str, Any] = {
            **self.origin_fields(self.model.run_id),
            messages.VERSION: self.model.version,
            messages.FINGERPRINT: self.model.fingerprint,
        }
        if self.model.reference is not None:
            fields[messages.TRANSFORM] = self.model.reference_fingerprint
        if message_type == MessageType.TRAIN:
            fields[messages.ACCEPTED_ROUND] = self.sync.accepted.get(site.name, 0)
            if site.name in self.sync.shares:
                fields[messages.ACCEPTED_SHARE] = self.sync.shares[site.name]
            fields[messages.RATIOS] = self.rates.ratios.tolist()
            fields[messages.BUDGET_BYTES] = float(self.rates.target_bytes)
        return fields

    def ratios(self) -> dict[str, float]:
        """Return the ratios that the sites were sent for this round."""
        return self._ratios

    def published_version(self) -> int | None:
        """Return the version of the published model."""
        return self.model.version

    def transform_reference(self) -> Download | None:
        """Return the reference of the channel transform; None if updates are not transformed."""
        return self._downloads.reference()

    def requests_whole_model(self, reply: Message) -> bool:
        """Return whether the site reports that its replica is out of sync."""
        return is_request(reply, messages.RESYNC)

    # ---- what comes back ----------------------------------------------------------------------

    def largest_upload(self) -> tuple[float, int]:
        """Return a multiple of the upload that the sites are asked for; it is one packed array."""
        return UPLOAD_ALLOWANCE * self.rates.expected_bytes, 1

    def accept(self, site: SiteInfo, reply: TrainReply, entry: SiteEntry) -> None:
        """Check an upload and keep it, still encoded, until the round is complete."""
        stamp = Stamp(self.model.run_id, entry.round, self.model.version)
        update = read_upload(reply.update, self.rates.spec, self.rates.scheme, stamp)
        try:
            self._uploads.add(site.name, update, reply.num_examples, self._present(site))
        except WireError as error:
            raise ReplyRefused(INVALID_UPLOAD, str(error)) from None
        # From here on the upload counts: nothing below may refuse it.
        self.sync.confirmed[site.name] = reply.version
        share = share_of_layers(
            self.rates.spec, self.rates.scheme, self.rates.ratios, self._present(site)
        )
        self._uploaded[site.name] = entry.bytes_up, share
        groups = update_bytes(update)
        groups["report"] = entry.bytes_up - groups.total()
        entry.up_by_group = dict(groups)

    def aggregate_uploads(self, server_round: int) -> None:
        """Aggregate the uploads, step the model, and set the next round's ratios."""
        update = self._combine_uploads(server_round)
        transform, step = self.model.transform, update
        if transform is not None:
            step = update.copy()
            transform.inverse(step)
        self.model.step(self._momentum.step(step))
        self.sync.settle(server_round, self._uploaded, self._exchange.entries)
        self.sync.shares.update(self._uploads.accepted_shares)
        measured_bytes = typical_bytes(list(self._uploaded.values()))
        # As if each report had its share of the scores: the budget is the mean over the rounds, and
        # must not follow the reports that have scores, or those that have none.
        every = self.round_settings.evaluate_every
        scored = messages.is_scored(server_round, every)
        measured_bytes += (1 / every - scored) * self._score_bytes
        if self.privacy is not None:
            # Sizes follow the data, and what the sites are told next must not.
            measured_bytes = self.rates.reply_bytes
        self.rates.adjust(self.model.weights, update, measured_bytes)
        self._overhead_bytes = self._task_bytes()
        self._forget_uploads()

    def _combine_uploads(self, server_round: int) -> Float32:
        uploads = self._uploads
        if self.privacy is None:
            uploads.clip(self.clip.shares(uploads.norms, uploads.weights, self.sync.missed))
            if self._momentum.momentum:
                uploads.compare_with(lambda: last_step(self._momentum, self.model.transform))
            change = uploads.combine()
            self.record_shares(server_round, uploads.norms, uploads.accepted_shares)
            return change
        return self.privacy.release(
            (update.to_dense() for update, _ in uploads.updates()),
            asked=len(self._exchange.entries),
            size=self.rates.spec.size,
            server_round=server_round,
        )

    def discard_uploads(self) -> None:
        """Forget the uploads; their sites add them back when they are next asked."""
        self.sync.settle(0, (), self._exchange.entries)
        self._forget_uploads()

    def _forget_uploads(self) -> None:
        self._uploads = self._make_aggregator(self.rates.spec)
        self._uploaded = {}

    def arrays(self) -> ArrayRecord:
        """Return the true model, layer by layer; sites get the change with the next patch."""
        return to_record(self.model.weights, self.rates.spec)

    def replace_model(self, arrays: ArrayRecord) -> None:
        """Replace the true model; sites get the change with the next patches."""
        self.model.replace(to_vector(arrays, self.rates.spec))

    def published(self) -> ArrayRecord:
        """Return the published model, which the sites hold."""
        return to_record(self.model.published, self.rates.spec)

    def finalize_model(self) -> ArrayRecord:
        """Publish the last, larger patch; return the published model, which all sites end with."""
        before = self.model.distance()
        self.model.publish_within(self.final_rates)
        text = "last patch: relative distance of published and true model %.2g before, %.2g after"
        log(INFO, text, before, self.model.distance())
        return self.published()

    # ---- checkpoints --------------------------------------------------------------------------

    def state(self) -> State:
        """Return models, log, ratios, momentum, and where each site stands."""
        parts = {
            "model": self.model.state(),
            "upload_rates": self.rates.state(),
            "patch_rates": self.model.rates.state(),
            "momentum": State({"velocity": self._momentum.velocity}),
            "sync": State(values=asdict(self.sync)),
        }
        return State.join(parts, {"overhead_bytes": self._overhead_bytes})

    def restore(self, state: State) -> None:
        """Continue from what :meth:`state` returned."""
        self.model.restore(state.part("model"))
        self.rates.restore(state.part("upload_rates"))
        self.model.rates.restore(state.part("patch_rates"))
        velocity = self._momentum.velocity
        velocity[:] = state.part("momentum").array("velocity", velocity)
        sync = state.part("sync")
        self.sync = SyncState(sync.counts("accepted"), sync.counts("confirmed"))
        if "shares" in sync.values:  # checkpoints of earlier versions have none
            self.sync.shares = sync.shares("shares")
            self.sync.missed = sync.counts("missed")
        self._overhead_bytes = state.integer("overhead_bytes")

    def _present(self, site: SiteInfo) -> Bools:
        """Return which layers a site has, bool [num_layers]."""
        return self.rates.spec.present_layers(self.site_manager.lacking(site))

    def _task_bytes(self) -> int:
        """Return the mean bytes of this round's messages without patch and list of checkpoints."""
        # The list grows with checkpoint-keep, a setting that must not enter the result.
        sizes = [
            entry.down_by_group.get("task", 0) + entry.down_by_group.get(GROUP, 0)
            for entry in self._exchange.entries.values()
        ]
        return round(sum(sizes) / max(1, len(sizes))) - 4 * len(self._kept_rounds())


def _report_bytes(sites: SiteManager) -> tuple[int, float]:
    """Return the bytes of a reply without its upload, and of its scores alone; means over sites.

    They are those of names, headers and the report's counts.
    """
    counts = [0] * len(sites.data.classes)
    numbers = (messages.TRAIN_LOSS, messages.SCORE_LOSS, messages.SECONDS)
    report = MetricRecord({messages.NUM_EXAMPLES: 0, messages.VERSION: 0})
    report.update(dict.fromkeys(numbers, 0.0))
    report.update(dict.fromkeys(messages.CLASS_COUNTS, counts))
    upload = ArrayRecord({messages.PACKED: Array(np.zeros(0, np.uint8))})
    reply_bytes = content_bytes(RecordDict({messages.UPDATE: upload, messages.METRICS: report}))
    test = MetricRecord({messages.SCORE_LOSS: 0.0, **dict.fromkeys(messages.CLASS_COUNTS, counts)})
    val = MetricRecord({messages.VAL_LOSS: 0.0, **dict.fromkeys(messages.VAL_CLASS_COUNTS, counts)})
    having_val = [site.num_val > 0 for site in sites.sites.values()]
    val_bytes = val.count_bytes() * sum(having_val) / max(1, len(having_val))
    return reply_bytes + round(val_bytes), test.count_bytes() + val_bytes
