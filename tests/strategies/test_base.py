"""Flower's hooks in a subclass: what they return is what the run uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from rsdgc import Aggregator
from rsdgc.arrays import Float32
from rsdgc.errors import RunError
from rsdgc.site_weights import MEDIAN_FACTOR, WeightRules
from strategies import DenseFedAvg, Ledger, RsDgc, messages
from strategies.base import SiteStrategy
from strategies.ledger import content_bytes
from strategies.model_record import to_record, to_vector
from tests.loopback import LoopbackGrid
from tests.strategies.fake_sites import (
    NUM_TRAIN,
    SPEC,
    FakeSites,
    initial_weights,
    loopback,
    round_settings,
    rs_dgc,
    site_manager,
)


def run(strategy: SiteStrategy, num_rounds: int = 2) -> tuple[Result, LoopbackGrid]:
    grid = loopback(FakeSites(dense=isinstance(strategy, DenseFedAvg)))
    arrays = to_record(initial_weights(), SPEC)
    return strategy.start(grid, arrays, num_rounds=num_rounds, timeout=5.0), grid


def dense_fedavg(cls: type[DenseFedAvg]) -> DenseFedAvg:
    return cls(site_manager(), Ledger(None, SPEC.dense_bytes), round_settings())


class WithoutSouth(RsDgc):
    """Sends one site no train message, and the other a higher learning rate."""

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        for message in super().configure_train(server_round, arrays, config, grid):
            task = message.content.config_records[messages.TASK]
            if task[messages.SITE] != "south":
                task[messages.LEARNING_RATE] = 0.5
                task["hint"] = "a field of this strategy alone"
                yield message


def test_an_overridden_configure_train_decides_what_is_sent() -> None:
    strategy = rs_dgc(WithoutSouth)
    _, grid = run(strategy)
    trained = [m for m in grid.seen if m.metadata.message_type == MessageType.TRAIN]
    tasks = [m.content.config_records[messages.TASK] for m in trained]
    assert [(task[messages.SITE], task[messages.LEARNING_RATE]) for task in tasks] == [
        ("north", 0.5),
        ("north", 0.5),
    ]
    assert strategy.sync.accepted == {"north": 2}
    assert strategy.ledger.refusals == {}  # a site that was not asked did not fail to reply
    assert [entry.sites for entry in strategy.ledger.rounds] == [0, 1, 1]
    sent = sum(content_bytes(message.content) for message in grid.seen)
    assert strategy.ledger.totals()["bytes_down"] == sent


def test_a_round_without_a_quorum_is_made_up_for_with_its_learning_rate() -> None:
    strategy = rs_dgc()
    strategy.round_settings = replace(round_settings(), learning_rate_at=lambda n: n / 100)
    grid = loopback(FakeSites())
    tasks: list[tuple[int, float]] = []

    def lose(message: Message, reply: Message) -> Message | None:
        task = message.content.config_records[messages.TASK]
        if message.metadata.message_type != MessageType.TRAIN:
            return reply
        tasks.append((int(task[messages.ROUND]), float(task[messages.LEARNING_RATE])))
        return None if task[messages.ROUND] == 2 else reply

    grid.fault = lose
    result = strategy.start(grid, to_record(initial_weights(), SPEC), num_rounds=3, timeout=0.1)
    assert sorted(set(tasks)) == [(1, 0.01), (2, 0.02), (3, 0.02), (4, 0.03)]
    assert strategy.rounds_combined == 3
    assert [entry.sites for entry in strategy.ledger.rounds] == [0, 2, 0, 2, 2]
    assert list(result.evaluate_metrics_clientapp) == [4]


class FrozenHead:
    """Mixed into a strategy: keeps the last layer at its initial values and reports a metric."""

    copies = False

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = super().aggregate_train(server_round, replies)  # type: ignore[misc]
        arrays["head.weight"] = to_record(initial_weights(), SPEC)["head.weight"]
        if self.copies:
            arrays = ArrayRecord(dict(arrays))
        return arrays, MetricRecord({**metrics, "frozen-layers": 1})


class FrozenRsDgc(FrozenHead, RsDgc):
    pass


class FrozenRsDgcInACopy(FrozenRsDgc):
    copies = True


class FrozenFedAvg(FrozenHead, DenseFedAvg):
    pass


@pytest.mark.parametrize(
    "strategy",
    [
        rs_dgc(FrozenRsDgc, down=1.0, final=1.0),
        rs_dgc(FrozenRsDgcInACopy, down=1.0, final=1.0),
        dense_fedavg(FrozenFedAvg),
    ],
    ids=["rs-dgc in place", "rs-dgc in a copy", "fedavg"],
)
def test_an_overridden_aggregate_train_decides_the_model(strategy: SiteStrategy) -> None:
    result, _ = run(strategy)
    initial = to_record(initial_weights(), SPEC)
    for name, same in (("head.weight", True), ("conv.weight", False)):
        assert np.array_equal(result.arrays[name].numpy(), initial[name].numpy()) == same
    for number in (1, 2):
        metrics = result.train_metrics_clientapp[number]
        assert metrics["frozen-layers"] == 1
        assert metrics[messages.NUM_EXAMPLES] == 20
        assert metrics[messages.TRAIN_LOSS] == 1.0
    assert list(result.evaluate_metrics_clientapp) == [2]


def test_the_hooks_are_given_the_model_of_the_round_before() -> None:
    given: list[Float32] = []

    class Watching(RsDgc):
        def configure_train(
            self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
        ) -> Iterable[Message]:
            given.append(to_vector(arrays, SPEC))
            return super().configure_train(server_round, arrays, config, grid)

        def aggregate_train(
            self, server_round: int, replies: Iterable[Message]
        ) -> tuple[ArrayRecord | None, MetricRecord | None]:
            arrays, metrics = super().aggregate_train(server_round, replies)
            assert arrays is not None
            returned.append(to_vector(arrays, SPEC))
            return arrays, metrics

    returned: list[Float32] = []
    strategy = rs_dgc(Watching)
    result, _ = run(strategy, num_rounds=3)
    np.testing.assert_array_equal(given, [initial_weights(), *returned[:-1]])
    np.testing.assert_array_equal(to_vector(result.arrays, SPEC), strategy.model.published)


def test_a_message_without_a_site_is_an_error() -> None:
    class Anonymous(RsDgc):
        def configure_train(self, *arguments: Any) -> Iterable[Message]:
            return [Message(RecordDict(), 101, MessageType.TRAIN)]

    with pytest.raises(RunError, match="names site ''"):
        run(rs_dgc(Anonymous))


class ClippedMean(Aggregator):
    """A rule that this project does not have: no update counts for more than the median norm."""

    results: list[Float32]

    def aggregate(self) -> Float32:
        updates = [update.to_dense() for update, _ in self.updates()]
        norms = [float(np.linalg.norm(update)) for update in updates]
        factors = np.minimum(1.0, np.median(norms) / norms).astype(np.float32)
        self.results.append(np.mean([f * u for f, u in zip(factors, updates, strict=True)], axis=0))
        return self.results[-1]


def test_an_aggregation_rule_from_elsewhere_steps_the_model() -> None:
    ClippedMean.results = []
    strategy = rs_dgc(aggregator=ClippedMean, down=1.0, final=1.0)
    run(strategy)
    first, second = ClippedMean.results
    expected = initial_weights() + first
    np.testing.assert_array_equal(strategy.model.published, expected + second)


class Boasting(FakeSites):
    """One site of two says that it has trained on this many chips."""

    def __init__(self, claim: int, **options: Any) -> None:
        super().__init__(**options)
        self.claim = claim

    def __call__(self, message: Message, context: Context) -> Message:
        reply = super().__call__(message, context)
        task = message.content["task"]
        if message.metadata.message_type == MessageType.TRAIN and task["site"] == "north":
            reply.content["metrics"][messages.NUM_EXAMPLES] = self.claim
        return reply


def boasted(make: Callable[[], SiteStrategy], claim: int, rules: WeightRules) -> SiteStrategy:
    strategy = make()
    manager = strategy.site_manager
    manager.sites["north"] = replace(manager.sites["north"], num_train=claim)
    manager.weights = rules
    grid = loopback(Boasting(claim, dense=isinstance(strategy, DenseFedAvg)))
    arrays = to_record(initial_weights(), SPEC)
    strategy.start(grid, arrays, num_rounds=2, timeout=5.0)
    assert strategy.ledger.refusals == {}
    return strategy


@pytest.mark.parametrize("make", [rs_dgc, lambda: dense_fedavg(DenseFedAvg)])
@pytest.mark.parametrize(
    ("rules", "counted"),
    [
        (WeightRules(), MEDIAN_FACTOR * NUM_TRAIN),
        (WeightRules(share=0.5), NUM_TRAIN),
        (WeightRules(chips={"north": 7}), 7),
    ],
)
def test_a_claim_of_many_chips_counts_as_far_as_the_limits_allow(
    make: Callable[[], SiteStrategy], rules: WeightRules, counted: int
) -> None:
    claimed = boasted(make, 2**39, rules)
    honest = boasted(make, counted, WeightRules(share=1.0))
    assert claimed.arrays() == honest.arrays()
    assert claimed.site_manager.weight_limit(claimed.site_manager.sites["north"]) == counted
