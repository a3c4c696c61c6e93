"""Dense FedAvg with Flower's own averaging, under the same ledger: the baseline of every claim."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvgM
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from rsdgc.arrays import Float32
from rsdgc.frozen_part import FrozenPart
from rsdgc.spec import in_branch
from strategies import messages
from strategies.base import RoundSettings, SiteStrategy
from strategies.checkpoints import Checkpoints, State
from strategies.downlink import Download
from strategies.ledger import WHOLE_MODEL, Ledger, SiteEntry, layer_group
from strategies.running_statistics import RunningStatistics
from strategies.sites import SiteInfo, SiteManager
from strategies.validation import ReplyRefused, finite_or_none, read_metric, read_num_examples


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
    ) -> None:
        super().__init__(
            *(site_manager, ledger, round_settings, checkpoints, running, initial_local, frozen)
        )
        self._run_id = run_id
        # Without momentum FedAvgM returns the plain average, so one class serves both.
        self._fedavg = FedAvgM(
            weighted_by_key=messages.NUM_EXAMPLES, server_momentum=server_momentum
        )
        self._replies: list[Message] = []
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._download = Download(None, {})

    def replace_model(self, arrays: ArrayRecord) -> None:
        """Make a model the global one, whose shapes the replies must have."""
        self._fedavg.current_arrays = arrays
        self._shapes = _shapes(arrays)
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

    def accept(self, site: SiteInfo, reply: Message, entry: SiteEntry) -> None:
        """Check that the reply is a model of the site's layers with finite values."""
        entry.num_examples = read_num_examples(reply, site.num_train)
        record = reply.content.array_records.get(messages.UPDATE)
        expected = {name: self._shapes[name] for name in self._layers_of(site)}
        if record is None or _shapes(record) != expected:
            raise ReplyRefused("not a valid upload", "its layers are not the model's")
        entry.train_loss = finite_or_none(read_metric(reply, messages.TRAIN_LOSS))
        entry.seconds = finite_or_none(read_metric(reply, messages.SECONDS)) or 0.0
        # Last, as it decodes the whole model. One NaN would end in every weight of the average.
        if not all(np.isfinite(array.numpy()).all() for array in record.values()):
            raise ReplyRefused("not a valid upload", "it holds values that are not finite")
        groups: Counter[str] = Counter()
        for name, array in record.items():
            groups[layer_group(name)] += len(array.data)
        groups["report"] = entry.bytes_up - groups.total()
        entry.up_by_group = dict(groups)
        self._replies.append(reply)

    def aggregate_uploads(self, server_round: int) -> None:
        """Average with Flower's own aggregation, each layer over the sites that have it."""
        # The replies are in the order of the sites' names: sums of floats depend on the order.
        replies = self._replies
        if any(len(reply.content[messages.UPDATE]) < len(self._shapes) for reply in replies):
            replies = [self._average_by_layer()]
        arrays, _ = self._fedavg.aggregate_train(server_round, replies)
        self.discard_uploads()
        assert arrays is not None  # a quorum is at least one reply
        self.replace_model(arrays)

    def _average_by_layer(self) -> Message:
        """Return a reply that stands for all of them: layers that the same sites have, averaged."""
        models = [reply.content.array_records[messages.UPDATE] for reply in self._replies]
        groups: dict[tuple[bool, ...], list[str]] = {}
        for name in self._shapes:
            groups.setdefault(tuple(name in model for model in models), []).append(name)
        averaged = dict(self.arrays())  # a layer that no site has stays as it is
        for holders, names in groups.items():
            contents = [
                RecordDict(
                    {
                        messages.UPDATE: ArrayRecord({name: model[name] for name in names}),
                        messages.METRICS: reply.content[messages.METRICS],
                    }
                )
                for model, reply, holds in zip(models, self._replies, holders, strict=True)
                if holds
            ]
            if contents:
                averaged |= dict(aggregate_arrayrecords(contents, messages.NUM_EXAMPLES))
        content = RecordDict(
            {
                messages.UPDATE: ArrayRecord(averaged),
                messages.METRICS: MetricRecord({messages.NUM_EXAMPLES: 1}),
            }
        )
        return Message(content, dst_node_id=0, message_type=MessageType.TRAIN)

    def _layers_of(self, site: SiteInfo) -> list[str]:
        lacking = self.site_manager.lacking(site)
        return [name for name in self._shapes if not in_branch(name, lacking)]

    def discard_uploads(self) -> None:
        """Forget the models of the replies."""
        self._replies = []

    def state(self) -> State:
        """Return the model and its velocity."""
        model = {name: array.numpy() for name, array in self.arrays().items()}
        velocity = self._fedavg.momentum_vector or []
        parts = {"model": State(model), "velocity": State(dict(zip(model, velocity, strict=False)))}
        return State.join(parts, {"layers": list(model)})

    def restore(self, state: State) -> None:
        """Continue from what :meth:`state` returned."""
        layers = state.values["layers"]
        model, velocity = state.part("model").arrays, state.part("velocity").arrays
        self.replace_model(ArrayRecord({name: Array(model[name]) for name in layers}))
        self._fedavg.momentum_vector = [velocity[name] for name in layers] if velocity else None


def _shapes(arrays: ArrayRecord) -> dict[str, tuple[int, ...]]:
    return {name: tuple(array.shape) for name, array in arrays.items()}
