"""What a round costs the server on VGG-19's shapes, by number of sites and by staleness.

The real strategy with real encoded updates, but no training and no network. The patch of a round
is encoded once, and its array is one object however many sites get it. What grows with the sites
is the decoding of their uploads.

    python -m benchmarks.round_cost --sites 4 16 64 --stale 1 4 16 40
"""

from __future__ import annotations

import argparse
import resource
import time
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from torchvision.models import vgg19

from clients.model_parts import ModelParts
from rsdgc import RMS, Compressor, ModelSpec, Scheme, Stamp
from rsdgc.arrays import Float32
from strategies import Ledger, RsDgc, SiteInfo, SiteManager, messages
from strategies.base import RoundSettings
from strategies.downlink import DownloadCache, PublishedModel
from strategies.ledger import WHOLE_MODEL, content_bytes
from strategies.model_record import to_record
from strategies.rate_control import RateControl
from strategies.sites import DataInfo, ModalityInfo
from strategies.transport import chunk_upload

RUN = 1
CLASSES = 45
NUM_UPLOADS = 4
"""Different uploads of a round; more sites than that send the same ones again."""


class TimedRsDgc(RsDgc):
    """Measures the processor time of the last round's steps, seconds."""

    send_s = 0.0
    receive_s = 0.0

    def prepare_round(self) -> None:
        """Publish the patch of the round."""
        start = time.process_time()
        super().prepare_round()
        self.send_s = time.process_time() - start

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Address a message to every site."""
        start = time.process_time()
        train = list(super().configure_train(server_round, arrays, config, grid))
        self.send_s += time.process_time() - start
        return train

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Check and aggregate the uploads."""
        start = time.process_time()
        aggregated = super().aggregate_train(server_round, replies)
        self.receive_s = time.process_time() - start
        return aggregated


class AnsweringNodes:
    """What the strategy needs of Flower's grid; each message is answered at once.

    Keeps how many different model arrays the last round's messages had, and the bytes of one.
    """

    def __init__(self, strategy: TimedRsDgc, count: int) -> None:
        self._strategy = strategy
        self._count = count
        self._replies: dict[str, Message] = {}
        self.num_arrays = self.bytes_down = 0

    def get_node_ids(self) -> list[int]:
        """Return all nodes."""
        return list(range(1, self._count + 1))

    def get_nodes(self) -> list[NodeInfo]:
        """Return all nodes, without names."""
        return [NodeInfo(node_id=node) for node in self.get_node_ids()]

    def push_messages(self, messages_: Iterable[Message]) -> list[str]:
        """Answer messages as sites do."""
        sent = list(messages_)
        for message in sent:
            message.metadata.__dict__["_message_id"] = uuid.uuid4().hex  # as Flower's grids do
        if sent and sent[0].metadata.message_type == MessageType.TRAIN:
            arrays = {id(m.content[messages.MODEL]) for m in sent if messages.MODEL in m.content}
            self.num_arrays, self.bytes_down = len(arrays), content_bytes(sent[0].content)
            payloads = encode_uploads(self._strategy)
            replies = [train_reply(m, payloads[i % NUM_UPLOADS]) for i, m in enumerate(sent)]
        else:
            replies = [evaluate_reply(message) for message in sent]
        ids = [message.metadata.message_id for message in sent]
        self._replies = dict(zip(ids, replies, strict=True))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies."""
        return [self._replies[key] for key in message_ids if key in self._replies]


def make_strategy(spec: ModelSpec, start: Float32, sites: int, times: float) -> TimedRsDgc:
    """Return the strategy with so many sites."""
    names = tuple(f"class-{number}" for number in range(CLASSES))
    modality = ModalityInfo("optical", ("red", "green", "blue"), 224)
    manager = SiteManager(DataInfo("made up", True, names, (modality,)))
    for number in range(sites):
        name = f"site-{number:02}"
        manager.sites[name] = SiteInfo(name, number + 1, 100, CLASSES, (modality.name,))

    def rates(ratio: float) -> RateControl:
        return RateControl(spec, Scheme(), "update", spec.dense_bytes / ratio)

    model = PublishedModel(start, rates(times), Compressor(spec, Scheme(), RMS()), RUN)
    ledger = Ledger(None, spec.dense_bytes)
    settings = RoundSettings(1.0, 1, 0, lambda _: 0.01)
    return TimedRsDgc(manager, ledger, settings, rates(times), model, rates(10))


def encode_uploads(strategy: RsDgc) -> list[bytes]:
    """Return different encoded updates of the round at the strategy's ratios."""
    spec, rates, number = strategy.rates.spec, strategy.rates, len(strategy.ledger.rounds)
    compressor = Compressor(spec, Scheme(), RMS())
    stamp = Stamp(RUN, number, strategy.model.version)
    change = np.random.default_rng(number).standard_normal(spec.size, dtype=np.float32)
    change *= np.float32(1e-3)
    payloads = []
    for _ in range(NUM_UPLOADS):
        change = np.roll(change, 1_000_003)
        update = compressor.compress(change, rates.ratios, stamp, rates.target_bytes)
        payloads.append(update.payload)
    return payloads


def train_reply(message: Message, payload: bytes) -> Message:
    """Answer a train message as a site does."""
    numbers = (messages.TRAIN_LOSS, messages.SCORE_LOSS, messages.SECONDS)
    version = message.content.config_records[messages.TASK][messages.VERSION]
    metrics: dict[str, Any] = {messages.NUM_EXAMPLES: 100, messages.VERSION: version}
    metrics |= dict.fromkeys(numbers, 1.0) | dict.fromkeys(messages.CLASS_COUNTS, [1] * CLASSES)
    content = RecordDict(
        {messages.UPDATE: chunk_upload(payload), messages.METRICS: MetricRecord(metrics)}
    )
    return Message(content, reply_to=message)


def evaluate_reply(message: Message) -> Message:
    """Answer an evaluate message with a confusion matrix of zeros."""
    zeros = [0] * CLASSES**2
    metrics = MetricRecord(
        {messages.NUM_EXAMPLES: 0, messages.SCORE_LOSS: 1.0, messages.CONFUSION: zeros}
    )
    return Message(RecordDict({messages.METRICS: metrics}), reply_to=message)


def against_sites(
    spec: ModelSpec, start: Float32, counts: list[int], times: float
) -> Iterator[str]:
    """Yield a table of the cost of a round."""
    yield (
        "| sites | publish and address, s | check, aggregate, step, ratios, s | per site, s "
        "| different arrays sent | down to a site | peak memory |"
    )
    yield "|---|---|---|---|---|---|---|"
    for count in counts:
        strategy = make_strategy(spec, start, count, times)
        nodes: Any = AnsweringNodes(strategy, count)
        strategy.start(nodes, to_record(start, spec), num_rounds=2)
        receive_s = strategy.receive_s
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if strategy.ledger.refusals:
            raise SystemExit(f"replies were refused: {dict(strategy.ledger.refusals)}")
        yield (
            f"| {count} | {strategy.send_s:.2f} | {receive_s:.2f} | {receive_s / count:.3f} "
            f"| {nodes.num_arrays} | {nodes.bytes_down / 1e6:.2f} MB | {peak / 1e9:.2f} GB |"
        )


def against_staleness(
    spec: ModelSpec, start: Float32, stale: list[int], times: float
) -> Iterator[str]:
    """Yield a table of what it costs to bring a site up to date."""
    model = make_strategy(spec, start, 1, times).model
    step = np.random.default_rng(0).standard_normal(spec.size, dtype=np.float32)
    step *= np.float32(1e-3)
    for _ in range(max(stale)):
        step = np.roll(step, 1_000_003)
        model.step(step)
        model.publish()
    downloads = DownloadCache(model)
    yield "| rounds missed | sent as | bytes | of the whole model | to serve, s |"
    yield "|---|---|---|---|---|"
    for missed in stale:
        start_time = time.process_time()
        download = downloads.since(model.version - missed)
        seconds = time.process_time() - start_time
        size = sum(download.groups.values())
        sent_as = "the whole model" if WHOLE_MODEL in download.groups else f"{missed} patches"
        percent = 100 * size / spec.dense_bytes
        yield f"| {missed} | {sent_as} | {size / 1e6:.1f} MB | {percent:.1f} % | {seconds:.3f} |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sites", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--stale", type=int, nargs="+", default=[1, 4, 16, 40])
    parser.add_argument("--times", type=float, default=100.0, help="compression each way")
    parser.add_argument("--stale-times", type=float, default=30.0, help="of the second table")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, 1, 1
    model = vgg19(num_classes=CLASSES)
    parts = ModelParts(model)
    spec, start = parts.spec, parts.vector()
    print(f"VGG-19, {spec.size:,} parameters, {arguments.times:g}× each way; processor time")
    for line in against_sites(spec, start, arguments.sites, arguments.times):
        print(line, flush=True)
    print(f"patches at {arguments.stale_times:g}×")
    for line in against_staleness(spec, start, arguments.stale, arguments.stale_times):
        print(line, flush=True)


if __name__ == "__main__":
    main()
