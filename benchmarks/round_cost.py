"""What a round costs the server, on VGG-19's shapes, against the number of sites and staleness.

The real strategy, with replies made up of encoded updates; no training and no network. The
patch of a round is encoded once and its array is one object however many sites get it; what
grows with the sites is the decoding of their uploads.

    python -m benchmarks.round_cost --sites 4 16 64 --stale 1 4 16 40
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from torchvision.models import vgg19

from clients.weights import model_spec, model_to_vector
from rsdgc import RMS, Compressor, ModelSpec, Scheme, Stamp, make_indicator
from strategies import Ledger, RsDgc, SiteInfo, SiteManager, messages
from strategies.base import RoundSettings
from strategies.downlink import DownloadCache, PublishedModel
from strategies.ledger import content_bytes
from strategies.rate_control import RateControl
from strategies.sites import DataInfo

RUN = 1
CLASSES = 45
KINDS = 4  # different uploads; more sites send the same again


class Nodes:
    """What the strategy asks of Flower's grid."""

    def __init__(self, count: int) -> None:
        self.count = count

    def get_node_ids(self) -> list[int]:
        """All are there."""
        return list(range(1, self.count + 1))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Nothing is sent."""
        return []

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Nothing comes."""
        return []


def make_strategy(spec: ModelSpec, start: np.ndarray, sites: int, times: float) -> RsDgc:
    """Return the strategy with so many sites."""
    names = tuple(f"class-{number}" for number in range(CLASSES))
    roster = SiteManager(DataInfo("made up", True, names, 3, 224))
    for number in range(sites):
        roster.sites[f"site-{number:02}"] = SiteInfo(f"site-{number:02}", number + 1, 100, 0)
    rules = RoundSettings(1.0, 1, 0, lambda _: 0.01)

    def rates(share: float) -> RateControl:
        return RateControl(spec, Scheme(), "update", spec.dense_bytes / share)

    model = PublishedModel(start, rates(times), Compressor(spec, Scheme(), RMS()), RUN)
    return RsDgc(roster, Ledger(None, spec.dense_bytes), rules, rates(times), model, rates(10))


def uploads(strategy: RsDgc, number: int, version: int) -> list[bytes]:
    """Return different encoded updates at the strategy's ratios."""
    spec = strategy.rates.spec
    rng = np.random.default_rng(number)
    change = rng.standard_normal(spec.size, dtype=np.float32) * np.float32(1e-3)
    found = []
    for _ in range(KINDS):
        change = np.roll(change, 1_000_003)
        compressor = Compressor(spec, Scheme(), make_indicator("rms"))
        stamp = Stamp(RUN, number, version)
        rates = strategy.rates
        found.append(compressor.compress(change, rates.ratios, stamp, rates.target_bytes).payload)
    return found


def reply(message: Message, payload: bytes, version: int) -> Message:
    """Answer as a site does."""
    counts = [1] * CLASSES
    metrics = MetricRecord(
        {
            messages.NUM_EXAMPLES: 100,
            messages.TRAIN_LOSS: 1.0,
            messages.SCORE_LOSS: 1.0,
            messages.SECONDS: 1.0,
            messages.VERSION: version,
            messages.REFERENCE: counts,
            messages.PREDICTED: counts,
            messages.CORRECT: counts,
        }
    )
    update = ArrayRecord({messages.PACKED: Array(np.frombuffer(payload, np.uint8))})
    return Message(
        RecordDict({messages.UPDATE: update, messages.METRICS: metrics}), reply_to=message
    )


def one_round(strategy: RsDgc, number: int, nodes: Any) -> dict[str, float]:
    """Run a round, and return processor seconds by step and bytes."""
    begin = time.process_time()
    sent = list(strategy.configure_train(number, ArrayRecord(), ConfigRecord(), nodes))
    configured = time.process_time() - begin
    version = strategy.model.version
    kinds = uploads(strategy, number, version)
    replies = []
    for index, message in enumerate(sent):
        message.metadata.__dict__["_message_id"] = f"{number}/{index}"  # as Flower's grid does
        replies.append(reply(message, kinds[index % KINDS], version))
    records = {
        id(message.content.array_records[messages.MODEL])
        for message in sent
        if messages.MODEL in message.content
    }
    begin = time.process_time()
    strategy.collect(number, replies)
    took = time.process_time() - begin
    strategy.ledger.close_round([], {}, 0.0)
    return {
        "publish and address": configured,
        "check, add up, step, ratios": took,
        "arrays": len(records),
        "down": content_bytes(sent[0].content),
    }


def against_sites(
    spec: ModelSpec, start: np.ndarray, counts: list[int], times: float
) -> Iterator[str]:
    """Yield a table of the cost of a round."""
    yield (
        "| sites | publish and address, s | check, add up, step, ratios, s | of it a site, s "
        "| different arrays sent | down to a site | peak memory |"
    )
    yield "|---|---|---|---|---|---|---|"
    for count in counts:
        strategy = make_strategy(spec, start, count, times)
        one_round(strategy, 1, Nodes(count))
        found = one_round(strategy, 2, Nodes(count))
        both = found["check, add up, step, ratios"]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        yield (
            f"| {count} | {found['publish and address']:.2f} | {both:.2f} | {both / count:.3f} "
            f"| {found['arrays']:.0f} | {found['down'] / 1e6:.2f} MB | {peak / 1e9:.2f} GB |"
        )


def against_staleness(
    spec: ModelSpec, start: np.ndarray, stale: list[int], times: float
) -> Iterator[str]:
    """Yield a table of what it takes to bring a site up to date."""
    strategy = make_strategy(spec, start, 1, times)
    model = strategy.model
    rng = np.random.default_rng(0)
    step = rng.standard_normal(spec.size, dtype=np.float32) * np.float32(1e-3)
    for _ in range(max(stale)):
        step = np.roll(step, 1_000_003)
        model.step(step)
        model.publish()
    parcels = DownloadCache(model)
    yield "| rounds missed | sent as | bytes | of the whole model | to serve, s |"
    yield "|---|---|---|---|---|"
    for missed in stale:
        begin = time.process_time()
        parcel = parcels.since(model.version - missed)
        took = time.process_time() - begin
        size = sum(parcel.groups.values())
        how = "the whole model" if parcel.is_whole else f"{missed} patches"
        share = size / spec.dense_bytes
        yield f"| {missed} | {how} | {size / 1e6:.1f} MB | {100 * share:.1f} % | {took:.3f} |"


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--sites", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--stale", type=int, nargs="+", default=[1, 4, 16, 40])
    parser.add_argument("--times", type=float, default=100.0, help="compression each way")
    parser.add_argument("--stale-times", type=float, default=30.0, help="of the second table")
    words = parser.parse_args()
    torch.set_num_threads(1)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN, 1, 1
    model = vgg19(num_classes=CLASSES)
    spec = model_spec(model)
    start = model_to_vector(model, spec)
    print(
        f"VGG-19, {spec.size:,} parameters, {words.times:g}× each way, one thread, processor time"
    )
    for line in against_sites(spec, start, words.sites, words.times):
        print(line, flush=True)
    print(f"patches at {words.stale_times:g}×")
    for line in against_staleness(spec, start, words.stale, words.stale_times):
        print(line, flush=True)


if __name__ == "__main__":
    main()
