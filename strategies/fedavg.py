"""Dense FedAvg, Flower's own, under the same ledger: the other side of every claim."""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message
from flwr.serverapp.strategy import FedAvgM

from strategies import messages
from strategies.base import RoundSettings, SiteRounds
from strategies.checkpoints import Arrays, Checkpoints
from strategies.downlink import Download
from strategies.ledger import WHOLE_MODEL, Ledger, SiteEntry, layer_group
from strategies.rs_dgc import finite
from strategies.sites import SiteInfo, SiteManager
from strategies.validation import ReplyRefused, read_metric, read_num_examples

VELOCITY = "velocity."
"""Before a layer's name in a checkpoint."""


class DenseFedAvg(SiteRounds):
    """Whole float32 models both ways, averaged by Flower's ``FedAvg``, or ``FedAvgM``.

    Parameters
    ----------
    roster, ledger, rules, checkpoints
        See :class:`strategies.base.SiteStrategy`.
    server_momentum : float
        Of the global model, 0 to below 1; 0 is ``FedAvg``.
    """

    def __init__(
        self,
        roster: SiteManager,
        ledger: Ledger,
        rules: RoundSettings,
        checkpoints: Checkpoints | None = None,
        *,
        server_momentum: float = 0.0,
    ) -> None:
        super().__init__(roster, ledger, rules, checkpoints)
        self._fedavg = FedAvgM(
            weighted_by_key=messages.NUM_EXAMPLES, server_momentum=server_momentum
        )
        self._replies: list[Message] = []
        self._arrays = ArrayRecord()
        self._shapes: dict[str, tuple[int, ...]] = {}

    def arrays(self) -> ArrayRecord:
        """Return the global model."""
        return self._arrays

    def take_arrays(self, arrays: ArrayRecord) -> None:
        """Start from a model, and remember its shapes for the replies."""
        self._arrays = self._fedavg.current_arrays = arrays
        self._shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        size = sum(len(array.data) for array in arrays.values())
        self._parcel = Download(arrays, {WHOLE_MODEL: size})

    def parcel(self, card: SiteInfo, *, whole: bool = False) -> Download:
        """Return the whole model."""
        return self._parcel

    def state(self) -> tuple[Arrays, dict[str, Any]]:
        """Return the model and its velocity."""
        layers = list(self._arrays)
        arrays = {name: array.numpy() for name, array in self._arrays.items()}
        velocity = self._fedavg.momentum_vector or []
        arrays |= {VELOCITY + name: v for name, v in zip(layers, velocity, strict=False)}
        return arrays, {"layers": layers}

    def restore(self, arrays: Arrays, values: dict[str, Any]) -> None:
        """Take up what :meth:`state` returned."""
        layers = values["layers"]
        self.take_arrays(ArrayRecord({name: Array(arrays[name]) for name in layers}))
        velocity = [arrays[VELOCITY + name] for name in layers if VELOCITY + name in arrays]
        self._fedavg.momentum_vector = velocity or None

    def accept(self, card: SiteInfo, reply: Message, entry: SiteEntry) -> None:
        """Check that the reply is a model of the same layers."""
        entry.num_examples = read_num_examples(reply, card)
        record = reply.content.array_records.get(messages.UPDATE)
        found = {} if record is None else {name: tuple(a.shape) for name, a in record.items()}
        if record is None or found != self._shapes:
            raise ReplyRefused("not a valid upload", "its layers are not the model's")
        entry.train_loss = finite(read_metric(reply, messages.TRAIN_LOSS))
        entry.seconds = finite(read_metric(reply, messages.SECONDS)) or 0.0
        if not all(np.isfinite(array.numpy()).all() for array in record.values()):
            raise ReplyRefused("not a valid upload", "it holds values that are not finite")
        for name, array in record.items():
            group = layer_group(name)
            entry.up_by_group[group] = entry.up_by_group.get(group, 0) + len(array.data)
        entry.up_by_group["report"] = entry.bytes_up - sum(entry.up_by_group.values())
        self._replies.append(reply)

    def combine(self, server_round: int) -> None:
        """Average by Flower's own aggregation, in the order of the sites' names."""
        arrays, _ = self._fedavg.aggregate_train(server_round, self._replies)
        self.discard()
        assert arrays is not None  # a quorum is one reply at least
        self.take_arrays(arrays)

    def discard(self) -> None:
        """Forget the models held."""
        self._replies = []
