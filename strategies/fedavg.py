"""Dense FedAvg under the same ledger: the baseline of every claim.

Models are averaged by Flower's own code, or combined by another rule of :mod:`rsdgc.aggregation`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvgM
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from rsdgc import Aggregator, ModelSpec, SparseUpdate, WeightedMean
from rsdgc.arrays import Float32, l2_norm
from rsdgc.clipping import counted_weight
from rsdgc.errors import RunError, WireError
from rsdgc.frozen_part import FrozenPart
from rsdgc.spec import in_branch
from strategies import messages
from strategies.base import RoundSettings, SiteStrategy
from strategies.checkpoints import Checkpoints, State
from strategies.differential_privacy import PrivateMean
from strategies.downlink import Download
from strategies.ledger import WHOLE_MODEL, Ledger, SiteEntry, layer_group
from strategies.model_record import array_values, to_record, to_vector
from strategies.received_arrays import rebuilt_array, received_floats
from strategies.replies import INVALID_UPLOAD, TrainReply
from strategies.running_statistics import RunningStatistics
from strategies.sites import SiteInfo, SiteManager
from strategies.validation import ReplyRefused


class DenseFedAvg(SiteStrategy):
    """Whole float32 models in both directions, averaged by Flower's ``FedAvg`` or ``FedAvgM``.

    Parameters
    ----------
    site_manager, ledger, round_settings, checkpoints, running, initial_local, frozen
        See :class:`strategies.base.SiteStrategy`.
    server_momentum : float
        Momentum of the global model, 0 to below 1; 0 is ``FedAvg``.
    run_id : int
        By which sites find the entries of the model that stay with them; without such entries
        sites keep no state.
    privacy : PrivateMean, optional
        Takes the place of the average.
    aggregator : callable
        Creates a round's aggregation rule for a model; see :mod:`rsdgc.aggregation`. Flower's own
        averaging by default. The rule takes the memory of a model for each site.
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
        server_momentum: float = 0.0,
        run_id: int = 0,
        privacy: PrivateMean | None = None,
        aggregator: Callable[[ModelSpec], Aggregator] = WeightedMean,
    ) -> None:
        super().__init__(
            *(site_manager, ledger, round_settings, checkpoints, running, initial_local, frozen),
            privacy=privacy,
        )
        self._run_id = run_id
        # Without momentum FedAvgM returns the plain average, so one class serves both.
        self._fedavg = FedAvgM(
            weighted_by_key=messages.NUM_EXAMPLES, server_momentum=server_momentum
        )
        self._make_aggregator = aggregator
        # Accepted models by site, of the layers that each site has, and their weights.
        self._uploads: dict[str, tuple[ArrayRecord, int]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._download = Download(None, {})

    def replace_model(self, arrays: ArrayRecord) -> None:
        """Make a model the global one, whose shapes the replies must have."""
        self._fedavg.current_arrays = arrays
        self._shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        size = sum(len(array.data) for array in arrays.values())
        self._download = Download(arrays, {WHOLE_MODEL: size})

    def arrays(self) -> ArrayRecord:
        """Return the global model."""
        assert self._download.arrays is not None  # set by initialize or restore
        return self._download.arrays

    def download(self, site: SiteInfo, *, whole: bool = False) -> Download:
        """Return the whole model."""
        return self._download

    def task_fields(self, site: SiteInfo, message_type: str) -> dict[str, Any]:
        """Return how a site finds its state, if it has any."""
        return self.origin_fields(self._run_id) if self.initial_local else {}

    def largest_upload(self) -> tuple[float, int]:
        """Return the bytes and arrays of two models: room for what describes each array."""
        return 2.0 * self.ledger.dense_bytes, 2 * len(self._shapes)

    def accept(self, site: SiteInfo, reply: TrainReply, entry: SiteEntry) -> None:
        """Check that the reply is a model of the site's layers with finite values, and keep it."""
        model = self._read_model(reply.update, site)
        # From here on the upload counts: nothing below may refuse it.
        self._uploads[site.name] = model, reply.num_examples
        groups: Counter[str] = Counter()
        for name, array in model.items():
            groups[layer_group(name)] += len(array.data)
        groups["report"] = entry.bytes_up - groups.total()
        entry.up_by_group = dict(groups)

    def _read_model(self, record: ArrayRecord, site: SiteInfo) -> ArrayRecord:
        """Return the model of a reply built anew, its layers in the order of the global one."""
        lacking = self.site_manager.lacking(site)
        names = [name for name in self._shapes if not in_branch(name, lacking)]
        if set(record) != set(names):
            raise ReplyRefused(INVALID_UPLOAD, "its layers are not the model's")
        layers = {}
        for name in names:
            data = record[name].data
            try:
                values = received_floats(record[name], self._shapes[name])
            except WireError as error:
                raise ReplyRefused(INVALID_UPLOAD, f"layer {name!r}: {error}") from None
            # One NaN would end in every weight of the average.
            if not np.isfinite(values).all():
                raise ReplyRefused(INVALID_UPLOAD, f"layer {name!r} is not finite")
            layers[name] = rebuilt_array(values, data)
        return ArrayRecord(layers)

    def aggregate_uploads(self, server_round: int) -> None:
        """Combine the models, each layer over the sites that have it.

        A site's update is its model minus the one that it was sent. The part of an update that
        clipping cuts off is lost: a site without error feedback does not send it again.
        """
        norms = {name: self._distance(model) for name, (model, _) in self._uploads.items()}
        weights = {name: weight for name, (_, weight) in self._uploads.items()}
        shares: Mapping[str, float] = self.clip.shares(norms, weights)
        if self.privacy is not None:
            uploads = [(self._private_average(self.privacy, server_round), 1)]
        elif self._make_aggregator is not WeightedMean:
            combined, shares = self._combine(shares)
            uploads = [(combined, 1)]
        elif shares or any(len(model) < len(self._shapes) for model, _ in self._uploads.values()):
            uploads = [(self._average_by_layer(shares), 1)]
        else:
            # In the order of the sites' names: sums of floats depend on the order.
            uploads = list(self._uploads.values())
        self.record_shares(server_round, norms, shares)
        # Not the sites' own replies: Flower wants the same metrics in all of them, and some sites
        # have a validation split.
        replies = [
            Message(_content(*upload), dst_node_id=0, message_type=MessageType.TRAIN)
            for upload in uploads
        ]
        arrays, _ = self._fedavg.aggregate_train(server_round, replies)
        self.discard_uploads()
        assert arrays is not None  # a quorum is at least one reply
        self.replace_model(arrays)

    def _private_average(self, privacy: PrivateMean, server_round: int) -> ArrayRecord:
        """Return the global model, changed by the private mean of the sites' changes."""
        before = {name: array_values(array) for name, array in self.arrays().items()}
        absent = {name: np.zeros(shape, np.float32) for name, shape in self._shapes.items()}

        def change(model: ArrayRecord) -> Float32:
            changes = absent | {
                name: array_values(array) - before[name] for name, array in model.items()
            }
            return np.concatenate([changes[name].reshape(-1) for name in before])

        released = privacy.release(
            (change(model) for model, _ in self._uploads.values()),
            asked=len(self._exchange.entries),
            size=sum(array.size for array in before.values()),
            server_round=server_round,
        )
        ends = np.cumsum([array.size for array in before.values()])[:-1]
        changes = np.split(released, ends)
        return ArrayRecord(
            {
                # A sum of arrays without dimensions is no array.
                name: Array(np.asarray(array + part.reshape(array.shape)))
                for (name, array), part in zip(before.items(), changes, strict=True)
            }
        )

    def _distance(self, model: ArrayRecord) -> float:
        """Return the Euclidean norm of a site's update."""
        sent = self.arrays()
        return math.hypot(
            *(
                l2_norm((array_values(a) - array_values(sent[n])).reshape(-1))
                for n, a in model.items()
            )
        )

    def _combine(self, shares: Mapping[str, float]) -> tuple[ArrayRecord, Mapping[str, float]]:
        """Return the model that the aggregation rule leads to, and the shares of the updates."""
        spec = ModelSpec.from_shapes(self._shapes)
        rule, sent = self._make_aggregator(spec), to_vector(self.arrays(), spec)
        for name, (model, weight) in self._uploads.items():
            trained = sent.copy()
            for layer, view in zip(spec.layers, spec.views(trained), strict=True):
                if layer.name in model:
                    view[:] = array_values(model[layer.name]).reshape(-1)
            present = spec.present_layers(self.site_manager.lacking(self.site_manager.sites[name]))
            rule.add(name, SparseUpdate.from_dense(spec, trained - sent), weight, present)
        rule.clip(shares)
        velocity = self._fedavg.momentum_vector
        if velocity is not None:
            # Flower's is that of the gradient, which points the other way.
            rule.compare_with(lambda: -np.concatenate([layer.reshape(-1) for layer in velocity]))
        return to_record(sent + rule.combine(), spec), rule.accepted_shares

    def _average_by_layer(self, shares: Mapping[str, float]) -> ArrayRecord:
        """Return the mean of the models; layers that the same sites have are averaged together.

        A model whose update counts by a share only has that share of its weight. So a mean of the
        updates would be divided by what counts (:attr:`rsdgc.Aggregator.counted_weight`).
        """
        groups: dict[tuple[str, ...], list[str]] = {}
        for layer in self._shapes:
            holders = tuple(name for name, (model, _) in self._uploads.items() if layer in model)
            groups.setdefault(holders, []).append(layer)
        sent = self.arrays()
        averaged = dict(sent)  # a layer that no site has stays as it is
        for holders, layers in groups.items():
            if not holders:
                continue
            uploads: list[tuple[ArrayRecord, float]] = [
                (model, weight * shares.get(name, 1.0))
                for name, (model, weight) in self._uploads.items()
                if name in holders
            ]
            weights = {name: float(self._uploads[name][1]) for name in holders}
            rest = counted_weight(weights, shares) - math.fsum(weight for _, weight in uploads)
            if rest > 0:  # what is too little to count as a mean changes the model by less
                uploads.append((sent, rest))
            contents = [
                _content(ArrayRecord({layer: model[layer] for layer in layers}), weight)
                for model, weight in uploads
            ]
            averaged |= dict(aggregate_arrayrecords(contents, messages.NUM_EXAMPLES))
        return ArrayRecord(averaged)

    def discard_uploads(self) -> None:
        """Forget the models of the replies."""
        self._uploads = {}

    def state(self) -> State:
        """Return the model and its velocity."""
        model = {name: array_values(array) for name, array in self.arrays().items()}
        velocity = self._fedavg.momentum_vector or []
        parts = {"model": State(model), "velocity": State(dict(zip(model, velocity, strict=False)))}
        return State.join(parts, {"layers": list(model)})

    def restore(self, state: State) -> None:
        """Continue from what :meth:`state` returned."""
        layers, model, velocity = state.texts("layers"), state.part("model"), state.part("velocity")
        missing = set(layers) - set(model.arrays)
        if missing:
            raise RunError(f"it has no array {min(missing)}")
        arrays = {name: model.array(name, model.arrays[name]) for name in layers}
        steps = [velocity.array(name, arrays[name]) for name in layers if velocity.arrays]
        self.replace_model(ArrayRecord({name: Array(array) for name, array in arrays.items()}))
        self._fedavg.momentum_vector = steps or None


def _content(model: ArrayRecord, weight: float) -> RecordDict:
    """Return a model and its weight as Flower's functions take them."""
    metrics = MetricRecord({messages.NUM_EXAMPLES: weight})
    return RecordDict({messages.UPDATE: model, messages.METRICS: metrics})
