from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import ModelSpec
from rsdgc.arrays import Float32
from rsdgc.statistics_codec import encode_statistics
from strategies import DenseFedAvg, Ledger, SiteInfo, SiteManager, messages
from strategies.ledger import SiteEntry
from strategies.model_record import to_record, to_vector
from strategies.sites import DataInfo, ModalityInfo
from strategies.transport import chunk_upload
from strategies.validation import ReplyRefused
from tests.strategies.fake_sites import FakeSites, loopback, round_settings

MODALITIES = ("optical", "sar")
SPEC = ModelSpec.from_shapes(
    {"branches.optical.weight": (2, 3), "branches.sar.weight": (2, 2), "head.scale": ()}
)
START = np.arange(SPEC.size, dtype=np.float32)


def strategy(lacking: list[set[str]], momentum: float = 0.0) -> DenseFedAvg:
    """Return FedAvg over sites that lack these modalities."""
    loopback(FakeSites())  # messages are made within a run
    data = tuple(ModalityInfo(name, ("band",), 8) for name in MODALITIES)
    manager = SiteManager(DataInfo("made up", True, ("a", "b"), data))
    for number, missing in enumerate(lacking):
        own = tuple(name for name in MODALITIES if name not in missing)
        manager.sites[f"site-{number}"] = SiteInfo(f"site-{number}", 101 + number, 100, 1, own)
    fedavg = DenseFedAvg(manager, Ledger(None, 1), round_settings(), server_momentum=momentum)
    fedavg.initialize(to_record(START, SPEC))
    return fedavg


def reply(site: int, model: ArrayRecord, **fields: Any) -> Message:
    metrics = {messages.NUM_EXAMPLES: site + 1, messages.TRAIN_LOSS: 1.0, messages.SECONDS: 1.0}
    metrics |= fields
    content = RecordDict({messages.UPDATE: model, messages.METRICS: MetricRecord(metrics)})
    return Message(content, dst_node_id=1, message_type="train")


def trained(site: int) -> Float32:
    return np.random.default_rng(site).standard_normal(SPEC.size, dtype=np.float32)


def aggregate(fedavg: DenseFedAvg, lacking: list[set[str]]) -> Float32:
    """Run a round in which the sites reply with random models."""
    for number, missing in enumerate(lacking):
        site = fedavg.site_manager.sites[f"site-{number}"]
        model = to_record(trained(number), SPEC, SPEC.present_layers(missing))
        fedavg.accept(site, reply(number, model), SiteEntry(1, site.name))
    fedavg.aggregate_uploads(1)
    return to_vector(fedavg.arrays(), SPEC)


@given(st.lists(st.sets(st.sampled_from(MODALITIES)), min_size=1, max_size=4))
def test_each_layer_is_averaged_over_the_sites_that_have_it(lacking: list[set[str]]) -> None:
    views = SPEC.views(aggregate(strategy(lacking), lacking))
    for index, start in enumerate(SPEC.views(START)):
        holders = [n for n, missing in enumerate(lacking) if SPEC.present_layers(missing)[index]]
        if holders:
            models = [SPEC.views(trained(n))[index] for n in holders]
            expected = np.average(models, axis=0, weights=[n + 1 for n in holders])
            np.testing.assert_allclose(views[index], expected, rtol=1e-5, atol=1e-6)
        else:
            assert np.array_equal(views[index], start)


def test_momentum_counts_layers_that_no_site_has_as_unchanged() -> None:
    lacking = [{"sar"}, {"sar"}]
    fedavg = strategy(lacking, momentum=0.5)
    changed = SPEC.views(aggregate(fedavg, lacking))
    assert np.array_equal(changed[1], SPEC.views(START)[1])
    step = changed[0] - SPEC.views(START)[0]
    again = SPEC.views(aggregate(fedavg, lacking))
    np.testing.assert_allclose(again[0], changed[0] + 0.5 * step, rtol=1e-4, atol=1e-5)
    assert np.array_equal(again[1], changed[1])


def test_a_site_sends_the_layers_that_it_has() -> None:
    fedavg = strategy([{"sar"}, set()])
    for site, missing in ((0, set()), (1, {"sar"})):
        model = to_record(trained(site), SPEC, SPEC.present_layers(missing))
        with pytest.raises(ReplyRefused, match="its layers are not the model's"):
            fedavg.accept(
                fedavg.site_manager.sites[f"site-{site}"], reply(site, model), SiteEntry(1, "x")
            )


def test_sites_with_and_without_a_validation_split_are_averaged() -> None:
    fedavg = strategy([set(), set()])
    for number, fields in enumerate(({}, {messages.VAL_LOSS: 0.5, "val-correct": [1, 2]})):
        site = fedavg.site_manager.sites[f"site-{number}"]
        message = reply(number, to_record(trained(number), SPEC), **fields)
        fedavg.accept(site, message, SiteEntry(1, site.name))
    fedavg.aggregate_uploads(1)
    expected = np.average([trained(0), trained(1)], axis=0, weights=[1, 2])
    np.testing.assert_allclose(to_vector(fedavg.arrays(), SPEC), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_the_order_of_a_reply_is_not_that_of_the_model(momentum: float) -> None:
    """The first reply must not reorder the layers: momentum goes by their positions."""
    models = []
    for reverse in (False, True):
        fedavg = strategy([set()], momentum)
        for number in (1, 2):
            record = to_record(trained(number), SPEC)
            names = sorted(record, reverse=reverse)
            model = ArrayRecord({name: record[name] for name in names})
            site = fedavg.site_manager.sites["site-0"]
            fedavg.accept(site, reply(0, model), SiteEntry(number, site.name))
            fedavg.aggregate_uploads(number)
        assert list(fedavg.arrays()) == [layer.name for layer in SPEC.layers]
        models.append(to_vector(fedavg.arrays(), SPEC))
    np.testing.assert_array_equal(*models)


def hostile(kind: str, array: Array) -> Array:
    """Return an array that says that it has the shape of the model's layer."""
    other = {
        "another shape": np.zeros((9, 9), np.float32),
        "float64": np.zeros(array.shape),
        "text": np.full(array.shape, "x"),
        "not finite": np.full(array.shape, np.inf, np.float32),
    }
    if kind in other:
        return replace(Array(other[kind]), shape=array.shape)
    if kind == "of another serialization":
        return replace(array, stype="torch")
    return replace(array, data={"cut off": array.data[:-1], "a zip file": b"PK\x03\x04"}[kind])


@pytest.mark.parametrize(
    "kind",
    [
        *("another shape", "float64", "text", "not finite"),
        *("of another serialization", "cut off", "a zip file"),
    ],
)
def test_a_hostile_model_is_refused_and_changes_nothing(kind: str) -> None:
    fedavg = strategy([set()])
    site = fedavg.site_manager.sites["site-0"]
    model = to_record(trained(0), SPEC)
    name = SPEC.layers[0].name
    model[name] = hostile(kind, model[name])
    entry = SiteEntry(1, site.name)
    with pytest.raises(ReplyRefused, match="not a valid upload"):
        fedavg.accept(site, reply(0, model), entry)
    assert entry == SiteEntry(1, site.name)


def test_local_entries_of_a_branch_are_the_mean_of_the_sites_that_have_it() -> None:
    name = "branches.sar.norm.running_mean"
    initial = {name: np.zeros(2, np.float32)}
    fedavg = strategy([set(), {"sar"}])
    fedavg.initial_local = initial
    replies = {}
    for number, value in enumerate((4.0, 9.0)):
        packed = encode_statistics({name: np.full(2, value, np.float32)}, initial)
        content = RecordDict({messages.LOCAL: chunk_upload(packed)})
        replies[f"site-{number}"] = Message(content, dst_node_id=1, message_type="evaluate")
    np.testing.assert_array_equal(fedavg._mean_local(replies)[name], [4.0, 4.0])
