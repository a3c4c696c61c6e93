from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import AGGREGATORS, ModelSpec
from rsdgc.arrays import Float32
from strategies import DenseFedAvg, Ledger, SiteInfo, SiteManager
from strategies.ledger import SiteEntry
from strategies.model_record import to_record, to_vector
from strategies.replies import TrainReply
from strategies.sites import DataInfo, ModalityInfo
from strategies.validation import ReplyRefused
from tests.strategies.fake_sites import FakeSites, loopback, round_settings

MODALITIES = ("optical", "sar")
SPEC = ModelSpec.from_shapes(
    {"branches.optical.weight": (2, 3), "branches.sar.weight": (2, 2), "head.scale": ()}
)
START = np.arange(SPEC.size, dtype=np.float32)


def strategy(lacking: list[set[str]], momentum: float = 0.0, rule: str = "mean") -> DenseFedAvg:
    """Return FedAvg over sites that lack these modalities."""
    loopback(FakeSites())  # messages are made within a run
    data = tuple(ModalityInfo(name, ("band",), 8) for name in MODALITIES)
    manager = SiteManager(DataInfo("made up", True, ("a", "b"), data))
    for number, missing in enumerate(lacking):
        own = tuple(name for name in MODALITIES if name not in missing)
        manager.sites[f"site-{number}"] = SiteInfo(f"site-{number}", 101 + number, 100, 1, own)
    options = {"server_momentum": momentum, "aggregator": AGGREGATORS[rule]}
    fedavg = DenseFedAvg(manager, Ledger(None, 1), round_settings(), **options)
    fedavg.initialize(to_record(START, SPEC))
    return fedavg


def reply(site: int, model: ArrayRecord) -> TrainReply:
    return TrainReply(model, None, site + 1, 1.0, 1.0, 0, None, None)


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
    """Return an array that says that it has the shape and dtype of the model's layer."""
    values = array.numpy()
    other = {
        "another shape": np.zeros((9, 9), np.float32),
        "a scalar, which would broadcast": np.float32(1),
        "a leading one, which would broadcast": values[None],
        "one column, which would broadcast": values[:, :1],
        "transposed": values.T,
        "float64": values.astype(np.float64),
        "float64 beyond float32": np.full(array.shape, 1e300),
        "booleans": values > 0,
        "big-endian": values.astype(">f4"),
        "integers": values.astype(np.int32),
        "text": np.full(array.shape, "x"),
        "infinite": np.full(array.shape, np.inf, np.float32),
        "one NaN": np.where(values == values.max(), np.nan, values),
    }
    if kind in other:
        made = Array(np.asarray(other[kind]))
        return replace(made, shape=array.shape, dtype=array.dtype)
    described = {
        "said to be of another serialization": {"stype": "torch"},
        "said to be float64": {"dtype": "float64"},
        "said to be flat": {"shape": (math.prod(array.shape),)},
        "cut off": {"data": array.data[:-1]},
        "nothing": {"data": b""},
        "a zip file": {"data": b"PK\x03\x04"},
        "2^45 values": {"data": array.data[:128].replace(b"(2, 3), }     ", b"(35184372088832,)}")},
    }
    return replace(array, **described[kind])  # type: ignore[arg-type]


HOSTILE = [
    *("another shape", "a scalar, which would broadcast", "a leading one, which would broadcast"),
    *("one column, which would broadcast", "transposed", "float64", "float64 beyond float32"),
    *("booleans", "big-endian", "integers", "text", "infinite", "one NaN", "cut off", "nothing"),
    *("said to be of another serialization", "said to be float64", "said to be flat"),
    *("a zip file", "2^45 values"),
]


@pytest.mark.parametrize("kind", HOSTILE)
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
    fedavg.accept(site, reply(0, to_record(trained(1), SPEC)), entry)
    fedavg.aggregate_uploads(1)
    np.testing.assert_array_equal(to_vector(fedavg.arrays(), SPEC), trained(1))


@pytest.mark.parametrize("rule", ["mean", "trimmed-mean", "sign-agreement"])
@pytest.mark.parametrize("factor", [100.0, -10.0])
@pytest.mark.parametrize("lacking", [[set()] * 5, [{"sar"}, set(), {"optical"}, set(), set()]])
def test_a_scaled_update_moves_the_model_less_than_an_honest_one(
    rule: str, factor: float, lacking: list[set[str]]
) -> None:
    fedavg = strategy(lacking, rule=rule)
    update = np.linspace(1, 2, SPEC.size, dtype=np.float32)
    for number, missing in enumerate(lacking):
        site = fedavg.site_manager.sites[f"site-{number}"]
        trained = START + update * np.float32(factor if number == 4 else 1 + number / 10)
        model = to_record(trained, SPEC, SPEC.present_layers(missing))
        fedavg.accept(site, replace(reply(number, model), num_examples=10), SiteEntry(1, site.name))
        fedavg._exchange.entries[site.name] = SiteEntry(1, site.name, accepted=True)
    fedavg.aggregate_uploads(1)
    moved = to_vector(fedavg.arrays(), SPEC) - START
    assert (moved > 0.5 * update).all()
    assert (moved < 1.4 * update).all()
    shares = {name: entry.accepted_share for name, entry in fedavg._exchange.entries.items()}
    assert shares.pop("site-4") < 0.1
    assert set(shares.values()) == {None}
