"""What the server knows of every site: the last upload accepted, the version it confirmed.

Momentum of the global model: the step of a round carries part of the steps before it.

With mean update ``s`` and momentum μ, ``u ← μ·u + s`` and ``w ← w + u`` (Hsu, Qi, Brown, "Measuring
the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019, FedAvgM).
What error feedback delays makes a compressed run trail a dense one by some rounds; momentum makes
up for them, and it costs no bytes.

The RS-DGC strategy: compressed both ways, with the layers' ratios steered from here.

Xie et al., "Exploring Neighborhood Statistics for Dynamic Gradient Compression on Remote Sensing
Image Interpretation", arXiv 2312.17530. Each round the server sends the sites the patches that
they lack of the published model, with the compression ratio of every layer; sites upload the
neighborhoods that their indicator ranks highest; the server adds the sparse uploads up, divides
by the total weight, publishes a patch, and works out the next ratios.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from logging import INFO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.common import log
from numpy.typing import NDArray

from rsdgc import ModelSpec, WeightedMean
from rsdgc.errors import RunError
from strategies import messages
from strategies.base import RoundSettings, SiteRounds
from strategies.checkpoints import Arrays, Checkpoints, plain_values, put_back
from strategies.downlink import Download, DownloadCache, PublishedModel
from strategies.ledger import Ledger, SiteEntry, content_bytes, layer_group
from strategies.outbox import ConfigFields
from strategies.rate_control import RateControl
from strategies.sites import SiteInfo, SiteManager
from strategies.validation import decode_upload, read_metric, read_num_examples, read_upload


@dataclass
class SyncState:
    """Two numbers a site, by name; a site that is not in them stands at zero.

    Attributes
    ----------
    accepted : dict of str to int
        Last round whose upload is in the model. A site that finds its last upload is not there
        takes it back.
    confirmed : dict of str to int
        Version that the site's last reply said its replica is at, on its disk. It may have got
        further since; what it has twice it passes over.
    """

    accepted: dict[str, int] = field(default_factory=dict)
    confirmed: dict[str, int] = field(default_factory=dict)

    def confirm(self, site: str, version: object, published: int) -> None:
        """Take a site at its word about its replica's version, if it is a possible one."""
        if isinstance(version, int) and 0 <= version <= published:
            self.confirmed[site] = version

    def to_json(self) -> dict[str, dict[str, int]]:
        """Return plain values."""
        return {"accepted": dict(self.accepted), "confirmed": dict(self.confirmed)}

    @classmethod
    def from_json(cls, content: Mapping[str, Mapping[str, int]]) -> SyncState:
        """Take up what :meth:`to_json` returned."""
        return cls(dict(content["accepted"]), dict(content["confirmed"]))


Flat = NDArray[np.float32]


class ServerMomentum:
    """The velocity of the global model.

    Parameters
    ----------
    momentum : float
        μ, 0 to below 1; 0 passes steps on as they are and keeps nothing.
    size : int
        Parameters of the model.

    Attributes
    ----------
    velocity : float32 [size], or [0] without momentum
        The last step taken.
    """

    def __init__(self, momentum: float, size: int) -> None:
        self.momentum = momentum
        self.velocity: Flat = np.zeros(size if momentum else 0, dtype=np.float32)

    def step(self, update: Flat) -> Flat:
        """Return the step of the global model for a round's mean update, both float32 [size].

        The step is this object's own memory when there is momentum: use it before the next.
        """
        if not self.momentum:
            return update
        self.velocity *= np.float32(self.momentum)
        self.velocity += update
        return self.velocity


class RsDgc(SiteRounds):
    """Aggregate neighborhood-sparsified updates and publish the model in patches.

    Parameters
    ----------
    roster, ledger, rules, checkpoints
        See :class:`strategies.base.SiteStrategy`.
    rates : RateControl
        Budget and policy of the uploads' ratios.
    model : PublishedModel
        The model before training, with the budget of its patches.
    closing : RateControl
        Budget of the last patch, after which the published model is the final one.
    server_momentum : float
        See :class:`strategies.rs_dgc.ServerMomentum`.
    """

    def __init__(
        self,
        roster: SiteManager,
        ledger: Ledger,
        rules: RoundSettings,
        rates: RateControl,
        model: PublishedModel,
        closing: RateControl,
        checkpoints: Checkpoints | None = None,
        *,
        server_momentum: float = 0.0,
    ) -> None:
        super().__init__(roster, ledger, rules, checkpoints)
        self.rates = rates
        self.model = model
        self.closing = closing
        self.books = SyncState()
        self._parcels = DownloadCache(model)
        self._momentum = ServerMomentum(server_momentum, rates.spec.size)
        self._mean = WeightedMean(rates.spec)
        self._taken: dict[str, int] = {}
        self._sent_ratios: dict[str, float] = {}
        self._overhead_bytes = 0
        rates.begin(model.weights, _report_bytes(len(roster.data.classes)))

    def summary(self) -> None:
        """Log who takes part and how updates are compressed."""
        super().summary()
        scheme, dense = self.rates.scheme, self.rates.spec.dense_bytes
        log(
            INFO,
            "uploads of %.0f bytes (%.4g× less than %d), patches of %.0f (%.4g×), "
            "%s neighborhoods, %s values, ratios: %s",
            self.rates.budget_bytes,
            dense / self.rates.budget_bytes,
            dense,
            self.model.rates.budget_bytes,
            dense / self.model.rates.budget_bytes,
            scheme.neighborhood,
            scheme.values,
            self.rates.policy,
        )

    def parcel(self, card: SiteInfo, *, whole: bool = False) -> Download:
        """Return the patches that a site lacks, or the whole model."""
        if whole:
            return self._parcels.whole()
        return self._parcels.since(self.books.confirmed.get(card.name, 0))

    def fields(self, card: SiteInfo, kind: str) -> ConfigFields:
        """Return where the model stands, the ratios, and the last upload accepted."""
        names = (layer.name for layer in self.rates.spec.layers)
        self._sent_ratios = dict(zip(names, self.rates.ratios.tolist(), strict=True))
        fields: ConfigFields = {
            messages.RUN: self.model.run_id.to_bytes(8, "little"),
            messages.VERSION: self.model.version,
            messages.FINGERPRINT: self.model.fingerprint,
            messages.RESUMED_ROUND: self.resumed_round,
            messages.KEPT_ROUNDS: messages.pack_rounds(self.kept_rounds()),
        }
        if kind == MessageType.TRAIN:
            fields[messages.ACCEPTED_ROUND] = self.books.accepted.get(card.name, 0)
            fields[messages.RATIOS] = [float(ratio) for ratio in self.rates.ratios]
            fields[messages.BUDGET_BYTES] = float(self.rates.target_bytes)
        return fields

    def wants_whole(self, card: SiteInfo, reply: Message) -> bool:
        """Return whether the site says that its replica is out of step."""
        if reply.has_error():
            return False
        record = reply.content.metric_records.get(messages.METRICS)
        return record is not None and messages.RESYNC in record

    def ratios(self) -> dict[str, float]:
        """Ratios that the sites were sent for this round."""
        return self._sent_ratios

    def accept(self, card: SiteInfo, reply: Message, entry: SiteEntry) -> None:
        """Check an upload and hold it, still encoded, until the round is complete."""
        weight = read_num_examples(reply, card)
        version, loss, seconds = (
            read_metric(reply, key)
            for key in (messages.VERSION, messages.TRAIN_LOSS, messages.SECONDS)
        )
        payload = read_upload(reply)
        update = decode_upload(
            payload,
            self.rates.spec,
            self.rates.scheme,
            self.model.run_id,
            entry.round,
            self.model.version,
        )
        self._mean.add(card.name, update, weight)  # nothing below may refuse: it is in the mean
        del reply.content[messages.UPDATE]  # held once, not twice: there may be many sites
        self.books.confirm(card.name, version, self.model.version)
        self._taken[card.name] = entry.bytes_up
        entry.num_examples = weight
        entry.train_loss = finite(loss)
        entry.seconds = finite(seconds) or 0.0
        entry.up_by_group = self._groups(update.layer_bytes, update.header_bytes, entry)

    def combine(self, server_round: int) -> None:
        """Add the uploads up, step the model, and set the next round's ratios."""
        mean = self._mean.mean()
        self.model.step(self._momentum.step(mean))
        for name in self._taken:
            self.books.accepted[name] = server_round
        measured = sum(self._taken.values()) / len(self._taken)
        self.rates.follow(self.model.weights, mean, measured)
        self._overhead_bytes = self._overhead()
        self.discard()

    def prepare(self) -> None:
        """Publish what the last round changed: not before, so that the last one has one patch."""
        if self.model.pending:
            self.model.publish(self._overhead_bytes)

    def discard(self) -> None:
        """Forget the uploads held; their sites take them back when they are next asked."""
        self._mean = WeightedMean(self.rates.spec)
        self._taken = {}

    def conclude(self) -> None:
        """Publish the last, larger patch: what it leads to is the final model, at every end."""
        before = self.model.distance()
        self.model.publish_more(self.closing)
        log(
            INFO,
            "last patch: the published model was %.2g of the true one away from it, now %.2g",
            before,
            self.model.distance(),
        )

    def arrays(self) -> ArrayRecord:
        """Return the published model, layer by layer."""
        return unflatten(self.model.published, self.rates.spec)

    def take_arrays(self, arrays: ArrayRecord) -> None:
        """Check that the model to start from is the one that the sites start from."""
        if not np.array_equal(flatten(arrays, self.rates.spec), self.model.published):
            raise RunError("the strategy was made for another initial model: pass the same one")

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Return both models, the log, the books, and where the rate controls stand."""
        model, log_ = self.model, [patch.payload for patch in self.model.log]
        arrays: Arrays = {
            "weights": model.weights,
            "published": model.published,
            "velocity": self._momentum.velocity,
            "log": np.frombuffer(b"".join(log_), np.uint8),
            "log_lengths": np.array([len(payload) for payload in log_], np.int64),
        }
        values: dict[str, Any] = {
            "version": model.version,
            "pending": model.pending,
            "overhead_bytes": self._overhead_bytes,
            "books": self.books.to_json(),
        }
        for name, rates in self._all_rates().items():
            own, values[name] = plain_values(rates)
            arrays |= {f"{name}.{key}": array for key, array in own.items()}
        return arrays, values

    def restore(self, arrays: Arrays, values: dict[str, Any]) -> None:
        """Take up what :meth:`state` returned."""
        ends = np.cumsum(arrays["log_lengths"]).tolist()
        content = arrays["log"].tobytes()
        patches = [content[a:b] for a, b in zip([0, *ends], ends, strict=False)]
        self.model.restore(
            arrays["weights"],
            arrays["published"],
            int(values["version"]),
            patches,
            pending=bool(values["pending"]),
        )
        self._momentum.velocity[:] = arrays["velocity"]
        self._overhead_bytes = int(values["overhead_bytes"])
        self.books = SyncState.from_json(values["books"])
        for name, rates in self._all_rates().items():
            start = f"{name}."
            own = {k.removeprefix(start): a for k, a in arrays.items() if k.startswith(start)}
            put_back(rates, own, values[name])

    def _all_rates(self) -> dict[str, RateControl]:
        return {"up": self.rates, "down": self.model.rates, "closing": self.closing}

    def _overhead(self) -> int:
        """Bytes of this round's messages beside the patch: the task, names and headers.

        Without the list of checkpoints: how many are kept must not enter the result.
        """
        tasks = [entry.down_by_group.get("task", 0) for entry in self._post.entries.values()]
        return round(sum(tasks) / max(1, len(tasks))) - 4 * len(self.kept_rounds())

    def _groups(
        self, layer_bytes: NDArray[np.int64], header_bytes: int, entry: SiteEntry
    ) -> dict[str, int]:
        groups = {"header": int(header_bytes)}
        for layer, count in zip(self.rates.spec.layers, layer_bytes, strict=True):
            group = layer_group(layer.name)
            groups[group] = groups.get(group, 0) + int(count)
        groups["report"] = entry.bytes_up - sum(groups.values())
        return groups


def _report_bytes(num_classes: int) -> int:
    """Return what a reply weighs beside its upload: names, headers, the report's counts."""
    counts = (messages.REFERENCE, messages.PREDICTED, messages.CORRECT)
    numbers = (messages.TRAIN_LOSS, messages.SCORE_LOSS, messages.SECONDS)
    metrics = MetricRecord(
        {
            messages.NUM_EXAMPLES: 0,
            messages.VERSION: 0,
            **dict.fromkeys(numbers, 0.0),
            **{name: [0] * num_classes for name in counts},
        }
    )
    upload = ArrayRecord({messages.PACKED: Array(np.zeros(0, np.uint8))})
    return content_bytes(RecordDict({messages.UPDATE: upload, messages.METRICS: metrics}))


def flatten(arrays: ArrayRecord, spec: ModelSpec) -> NDArray[np.float32]:
    """Join the arrays of a model to one vector float32[size], in the order of ``spec``."""
    parts = [arrays[layer.name].numpy().reshape(-1) for layer in spec.layers]
    return np.concatenate(parts).astype(np.float32, copy=False)


def unflatten(flat: NDArray[np.float32], spec: ModelSpec) -> ArrayRecord:
    """Cut a model vector float32[size] into named arrays."""
    views = spec.views(flat)
    return ArrayRecord(
        {
            layer.name: Array(view.reshape(layer.shape))
            for layer, view in zip(spec.layers, views, strict=True)
        }
    )


def finite(value: object) -> float | None:
    """Return a reported number, or None if it is not one."""
    if isinstance(value, int | float) and np.isfinite(value):
        return float(value)
    return None
