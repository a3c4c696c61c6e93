"""The RS-DGC strategy: sparse uploads in, a global model and the next layer-wise ratios out.

Xie et al., "Exploring Neighborhood Statistics for Dynamic Gradient Compression on Remote Sensing
Image Interpretation", arXiv 2312.17530. Each round the server sends the sites the global model
with the compression ratio of every layer; sites upload the neighborhoods that their indicator
ranks highest; the server adds the sparse uploads up, divides by the total weight, and works out
the next ratios.
"""

from __future__ import annotations

from logging import INFO

import numpy as np
from flwr.app import Array, ArrayRecord, Message
from flwr.common import log
from numpy.typing import NDArray

from rsdgc import ModelSpec, WeightedMean, protocol
from strategies.checks import metric, num_examples, packed_upload, upload
from strategies.ledger import Ledger, SiteEntry, layer_group
from strategies.rate_control import RateControl
from strategies.roster import Roster, SiteCard
from strategies.rounds import RoundRules, SiteRounds


class RsDgc(SiteRounds):
    """Aggregate neighborhood-sparsified updates and steer the layers' compression ratios.

    Parameters
    ----------
    roster, ledger, rules
        See :class:`strategies.rounds.SiteRounds`.
    rates : RateControl
        Budget and policy of the ratios.
    run_id : int
        Number of the run; uploads of another are refused.
    initial_arrays : ArrayRecord
        The model to start from; its names and shapes are the layers.
    """

    def __init__(
        self,
        roster: Roster,
        ledger: Ledger,
        rules: RoundRules,
        rates: RateControl,
        run_id: int,
        initial_arrays: ArrayRecord,
    ) -> None:
        super().__init__(roster, ledger, rules)
        self.rates = rates
        self.run_id = run_id
        self.weights = flatten(initial_arrays, rates.spec)
        self._arrays = initial_arrays
        self.accepted_round: dict[str, int] = {}
        self._mean = WeightedMean(rates.spec)
        self._taken: dict[str, int] = {}
        self._sent_ratios: dict[str, float] = {}
        rates.begin(self.weights)

    def summary(self) -> None:
        """Log who takes part and how updates are compressed."""
        super().summary()
        scheme = self.rates.scheme
        log(
            INFO,
            "uploads of %.0f bytes (%.4g× less than %d), %s neighborhoods, %s values, ratios: %s",
            self.rates.budget_bytes,
            self.rates.spec.dense_bytes / self.rates.budget_bytes,
            self.rates.spec.dense_bytes,
            scheme.neighborhood,
            scheme.values,
            self.rates.policy,
        )

    def pack(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the model as one float32 array: a handful of objects instead of hundreds."""
        if arrays is not self._arrays:
            self.weights = flatten(arrays, self.rates.spec)
        names = (layer.name for layer in self.rates.spec.layers)
        self._sent_ratios = dict(zip(names, self.rates.ratios.tolist(), strict=True))
        return ArrayRecord({protocol.PACKED: Array(self.weights)})

    def task(self, card: SiteCard) -> dict[str, int | float | str | list[float]]:
        """Return the ratios of all layers, and the last round accepted from this site."""
        return {
            protocol.ACCEPTED_ROUND: self.accepted_round.get(card.name, 0),
            protocol.RATIOS: [float(ratio) for ratio in self.rates.ratios],
            protocol.BUDGET_BYTES: float(self.rates.target_bytes),
        }

    def ratios(self) -> dict[str, float]:
        """Ratios that the sites were sent for this round."""
        return self._sent_ratios

    def accept(self, card: SiteCard, reply: Message, entry: SiteEntry) -> None:
        """Check an upload and hold it, still encoded, until the round is complete."""
        weight = num_examples(reply, card)
        payload = packed_upload(reply)
        update = upload(payload, self.rates.spec, self.rates.scheme, self.run_id, entry.round)
        self._mean.add(card.name, update, weight)
        self._taken[card.name] = entry.bytes_up
        entry.num_examples = weight
        entry.train_loss = finite(metric(reply, protocol.TRAIN_LOSS))
        entry.seconds = finite(metric(reply, protocol.SECONDS)) or 0.0
        entry.up_by_group = self._groups(update.layer_bytes, update.header_bytes, entry)

    def combine(self, server_round: int) -> ArrayRecord:
        """Add the uploads up, step the model, and set the next round's ratios."""
        step = self._mean.mean()
        self.weights = self.weights + step
        for name in self._taken:
            self.accepted_round[name] = server_round
        measured = sum(self._taken.values()) / len(self._taken)
        self.rates.follow(self.weights, step, measured)
        self.discard()
        self._arrays = unflatten(self.weights, self.rates.spec)
        return self._arrays

    def discard(self) -> None:
        """Forget the uploads held; their sites take them back when they are next asked."""
        self._mean = WeightedMean(self.rates.spec)
        self._taken = {}

    def _groups(
        self, layer_bytes: NDArray[np.int64], header_bytes: int, entry: SiteEntry
    ) -> dict[str, int]:
        groups = {"header": int(header_bytes)}
        for layer, count in zip(self.rates.spec.layers, layer_bytes, strict=True):
            group = layer_group(layer.name)
            groups[group] = groups.get(group, 0) + int(count)
        groups["report"] = entry.bytes_up - sum(groups.values())
        return groups


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
