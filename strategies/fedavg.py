"""Dense FedAvg, Flower's own, under the same ledger: the other side of every claim."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, Message
from flwr.serverapp.strategy import FedAvg

from rsdgc import protocol
from strategies.checks import Refused, metric, num_examples
from strategies.ledger import Ledger, SiteEntry, layer_group
from strategies.roster import Roster, SiteCard
from strategies.rounds import RoundRules, SiteRounds
from strategies.rs_dgc import finite


class DenseFedAvg(SiteRounds):
    """Whole float32 models both ways, averaged by Flower's ``FedAvg``.

    Parameters
    ----------
    roster, ledger, rules
        See :class:`strategies.rounds.SiteRounds`.
    """

    def __init__(self, roster: Roster, ledger: Ledger, rules: RoundRules) -> None:
        super().__init__(roster, ledger, rules)
        self._fedavg = FedAvg(weighted_by_key=protocol.NUM_EXAMPLES)
        self._replies: list[Message] = []
        self._shapes: dict[str, tuple[int, ...]] = {}

    def pack(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the model as it is, and remember its shapes for the replies."""
        self._shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        return arrays

    def task(self, card: SiteCard) -> dict[str, int | float | str | list[float]]:
        """Nothing beyond round, site and learning rate."""
        return {}

    def accept(self, card: SiteCard, reply: Message, entry: SiteEntry) -> None:
        """Check that the reply is a model of the same layers."""
        entry.num_examples = num_examples(reply, card)
        record = reply.content.array_records.get(protocol.UPDATE)
        found = {} if record is None else {name: tuple(a.shape) for name, a in record.items()}
        if record is None or found != self._shapes:
            raise Refused("not a valid upload", "its layers are not the model's")
        entry.train_loss = finite(metric(reply, protocol.TRAIN_LOSS))
        entry.seconds = finite(metric(reply, protocol.SECONDS)) or 0.0
        if not all(np.isfinite(array.numpy()).all() for array in record.values()):
            raise Refused("not a valid upload", "it holds values that are not finite")
        for name, array in record.items():
            group = layer_group(name)
            entry.up_by_group[group] = entry.up_by_group.get(group, 0) + len(array.data)
        entry.up_by_group["report"] = entry.bytes_up - sum(entry.up_by_group.values())
        self._replies.append(reply)

    def combine(self, server_round: int) -> ArrayRecord:
        """Average by Flower's own aggregation, in the order of the sites' names."""
        arrays, _ = self._fedavg.aggregate_train(server_round, self._replies)
        self.discard()
        assert arrays is not None  # a quorum is one reply at least
        return arrays

    def discard(self) -> None:
        """Forget the models held."""
        self._replies = []
