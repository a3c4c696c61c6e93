"""The server's side: a strategy around any other that decodes uploads before it aggregates them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from logging import INFO, WARNING
from typing import Any
from weakref import WeakKeyDictionary

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from rsdgc.errors import WireError
from rsdgc.model_change import AnyArray, apply_change
from rsdgc_flower.records import ACCEPTED, RECORD, UPLOAD, to_arrays, to_record, unpack

# Of the grid, and so of the run: a second strategy in the same run would otherwise let the nodes
# send once more what the first has aggregated.
_ACCEPTED: WeakKeyDictionary[Grid, dict[int, int]] = WeakKeyDictionary()


class DecodingStrategy(Strategy):
    """A strategy that gives another one the models that compressed uploads stand for.

    It must be the outermost: a wrapper around it would see uploads that are not decoded.

    ::

        strategy = DecodingStrategy(FedAvg(fraction_train=0.5))
        result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=3)

    The clients' app has a :class:`rsdgc_flower.CompressionMod`. Replies of clients without it pass
    unchanged. An upload that is not valid is left out, and a warning names its node; the client
    sends what it held with its next upload, as after one that was lost.

    Parameters
    ----------
    strategy : flwr.serverapp.strategy.Strategy
        What selects nodes and aggregates; also a wrapper itself, and one that has a ``start`` of
        its own.

    Attributes
    ----------
    bytes_up, dense_bytes_up : int
        Content of the training replies so far as Flower counts it (``count_bytes``): as it arrived,
        and decoded.
    """

    def __init__(self, strategy: Strategy) -> None:
        super().__init__()
        self.strategy = strategy
        # Bound now, because `start` puts this object's methods in their place.
        self._configure = strategy.configure_train
        self._aggregate = strategy.aggregate_train
        self._sent: dict[int, ArrayRecord] = {}
        self._accepted: dict[int, int] = {}
        self.bytes_up = 0
        self.dense_bytes_up = 0

    def start(self, *args: Any, **kwargs: Any) -> Result:
        """Run the inner strategy's ``start``, whose arguments it takes, with decoded uploads."""
        with self._in_its_place():
            return self.strategy.start(*args, **kwargs)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Return the inner strategy's messages, with what their node's mod needs to know."""
        messages = list(self._configure(server_round, arrays, config, grid))
        self._sent = {}
        self._accepted = _ACCEPTED.setdefault(grid, {})
        for message in messages:
            node = message.metadata.dst_node_id
            records = message.content.array_records
            if len(records) == 1:
                self._sent[node] = next(iter(records.values()))
            # The messages of a round may share one content.
            message.content = RecordDict(dict(message.content.items()))
            message.content[RECORD] = ConfigRecord({ACCEPTED: self._accepted.get(node, 0)})
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Decode the replies and let the inner strategy aggregate them."""
        arrived, decoded = self.bytes_up, self.dense_bytes_up
        models: dict[int, dict[str, AnyArray]] = {}
        usable = [reply for reply in replies if self._decode(reply, models)]
        arrived, decoded = self.bytes_up - arrived, self.dense_bytes_up - decoded
        if arrived:
            text = "aggregate_train: %d bytes arrived instead of %d (%.4g× less)"
            log(INFO, text, arrived, decoded, decoded / arrived)
        return self._aggregate(server_round, usable)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the inner strategy's messages."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Let the inner strategy aggregate the replies."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Log what decodes, and the inner strategy's summary."""
        log(INFO, "\t├──> Uploads are decoded by rsdgc")
        self.strategy.summary()

    def _decode(self, reply: Message, models: dict[int, dict[str, AnyArray]]) -> bool:
        """Put the model into a reply that holds an upload; return whether it can be used."""
        if reply.has_error():
            return True
        self.bytes_up += _count_bytes(reply)
        if RECORD in reply.content.config_records:
            node = reply.metadata.src_node_id
            try:
                number, key, model = self._read(reply, models)
            except WireError as error:
                log(WARNING, "the upload of node %d is left out: %s", node, error)
                return False
            reply.content[key] = model
            del reply.content[RECORD]
            self._accepted[node] = number
        self.dense_bytes_up += _count_bytes(reply)
        return True

    def _read(
        self, reply: Message, models: dict[int, dict[str, AnyArray]]
    ) -> tuple[int, str, ArrayRecord]:
        """Return number, key and model of an upload; raise WireError if it is not valid."""
        sent = self._sent.get(reply.metadata.src_node_id)
        if sent is None:
            raise WireError("its node was not sent a model in this round")
        number = reply.content.config_records[RECORD].get(UPLOAD)
        records = list(reply.content.array_records.items())
        if type(number) is not int or number < 1 or len(records) != 1:
            raise WireError("it has no number, or not one record of arrays")
        key, record = records[0]
        # All nodes are usually sent the same record: its arrays are read once.
        before = models.get(id(sent))
        if before is None:
            before = models[id(sent)] = to_arrays(sent)
        return number, key, to_record(apply_change(before, unpack(record)))

    @contextmanager
    def _in_its_place(self) -> Iterator[None]:
        """Let the inner strategy's own loop call this object's methods."""
        own = vars(self.strategy)
        methods = {
            "configure_train": self.configure_train,
            "aggregate_train": self.aggregate_train,
        }
        before = {name: own[name] for name in methods if name in own}
        own.update(methods)
        try:
            yield
        finally:
            for name in methods:
                del own[name]
            own.update(before)


def _count_bytes(message: Message) -> int:
    return sum(record.count_bytes() for record in message.content.values())
