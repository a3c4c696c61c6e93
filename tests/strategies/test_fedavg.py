from __future__ import annotations

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import ModelSpec
from rsdgc.arrays import Float32
from strategies import DenseFedAvg, Ledger, SiteInfo, SiteManager, messages
from strategies.ledger import SiteEntry
from strategies.model_record import to_record, to_vector
from strategies.sites import DataInfo, ModalityInfo
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


def reply(site: int, model: ArrayRecord) -> Message:
    metrics = {messages.NUM_EXAMPLES: site + 1, messages.TRAIN_LOSS: 1.0, messages.SECONDS: 1.0}
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
