"""Momentum of the global model, and what must not enter a run's result."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import AGGREGATORS, ModelSpec, Scheme, WeightedMean
from rsdgc.arrays import Float32
from strategies import RsDgc, messages
from strategies.checkpoints import Checkpoints
from strategies.model_record import to_record, to_vector
from strategies.rs_dgc import ServerMomentum
from tests.strategies.fake_sites import SPEC, FakeSites, initial_weights, loopback, rs_dgc

UPDATES = st.lists(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3), min_size=1)


@given(updates=UPDATES, momentum=st.floats(0.01, 0.99))
def test_a_step_is_the_weighted_sum_of_all_updates_so_far(
    updates: list[list[float]], momentum: float
) -> None:
    steps = ServerMomentum(momentum, 3)
    for update in updates:
        step = steps.step(np.array(update, np.float32))
    ages = np.arange(len(updates))[::-1, None]
    expected = (np.array(updates) * momentum**ages).sum(axis=0)
    assert step == pytest.approx(expected, abs=1e-4)


def test_the_update_itself_is_left_as_it_is() -> None:
    steps = ServerMomentum(0.5, 2)
    steps.step(np.ones(2, np.float32))
    update = np.ones(2, np.float32)
    assert steps.step(update).tolist() == [1.5, 1.5]
    assert update.tolist() == [1.0, 1.0]


def test_without_momentum_a_step_is_the_update_and_nothing_is_kept() -> None:
    steps = ServerMomentum(0.0, 2)
    update = np.ones(2, np.float32)
    assert steps.step(update) is update
    assert steps.velocity.size == 0


def test_the_number_of_checkpoints_does_not_enter_the_result(tmp_path: Path) -> None:
    models = []
    for keep in (1, 5):
        strategy = rs_dgc(run_folder=tmp_path)
        strategy.checkpoints = Checkpoints(tmp_path / str(keep), every=1, keep=keep)
        arrays = to_record(initial_weights(), SPEC)
        result = strategy.start(loopback(FakeSites()), arrays, num_rounds=4, timeout=5.0)
        models.append(to_vector(result.arrays, SPEC))
    np.testing.assert_array_equal(*models)


# ---- norm clipping ----------------------------------------------------------------------------

FIVE = ("north", "south", "site-2", "site-3", "site-4")


class OneScales(FakeSites):
    """Five sites that agree in part; "south" sends its update times a factor, from a round on."""

    def __init__(self, factor: float, first: int = 1) -> None:
        super().__init__()
        self.factor, self.first = factor, first
        self.shares: dict[tuple[str, int], float | None] = {}

    def change(self, site: str, number: int) -> Float32:
        common = super().change("all", number)
        change = common + np.float32(0.5) * super().change(site, number)
        scaled = site == "south" and number >= self.first
        return change * np.float32(self.factor if scaled else 1.0)

    def __call__(self, message: Message, context: Context) -> Message:
        task = message.content.config_records[messages.TASK]
        if message.metadata.message_type == "train":
            key = str(task[messages.SITE]), int(task[messages.ROUND])
            self.shares[key] = task.get(messages.ACCEPTED_SHARE)
        return super().__call__(message, context)


def five_sites(run_folder: Path | None = None, **options: Any) -> RsDgc:
    strategy = rs_dgc(run_folder=run_folder, **options)
    sites = strategy.site_manager.sites
    for node, name in enumerate(FIVE, start=101):
        sites[name] = replace(sites["north"], name=name, node_id=node)
    return strategy


def start(strategy: RsDgc, sites: FakeSites, rounds: int) -> Float32:
    arrays = to_record(initial_weights(), SPEC)
    result = strategy.start(loopback(sites, 5), arrays, num_rounds=rounds, timeout=5.0)
    return to_vector(result.arrays, SPEC)


@pytest.mark.parametrize("factor", [100.0, -10.0, 1e30])
def test_a_scaled_update_is_clipped_named_and_its_site_told(
    tmp_path: Path, factor: float, caplog: pytest.LogCaptureFixture
) -> None:
    sites, strategy = OneScales(factor, first=2), five_sites(tmp_path)
    start(strategy, sites, 3)
    lines = [json.loads(line) for line in (tmp_path / "rounds.jsonl").read_text().splitlines()]
    shares = {(e["site"], e["round"]): e["accepted_share"] for e in lines if e["phase"] == "train"}
    assert all(shares[site, 1] is None for site in FIVE)
    for number in (2, 3):
        clipped = [site for site in FIVE if shares[site, number] is not None]
        assert clipped == ["south"]
        assert 0 <= shares["south", number] < 1
    # The task after the clipped upload, and no other, brings the share.
    assert {key: s for key, s in sites.shares.items() if s is not None} == {
        ("south", 3): shares["south", 2]
    }
    assert [entry.clipped for entry in strategy.ledger.rounds] == [0, 0, 1, 1]
    assert strategy.ledger.totals()["clipped"] == 2


def test_honest_updates_are_aggregated_as_without_clipping_to_the_bit() -> None:
    models = []
    for multiple in (3.0, 0.0):
        strategy = five_sites()
        strategy.clip.multiple = multiple
        models.append(start(strategy, OneScales(1.0), 4))
    np.testing.assert_array_equal(*models)


@pytest.mark.parametrize("factor", [100.0, -10.0, 1e30])
def test_a_scaled_update_moves_the_model_less_than_an_honest_one(factor: float) -> None:
    silent, hostile = (five_sites() for _ in range(2))
    start(silent, OneScales(0.0), 1)
    start(hostile, OneScales(factor), 1)
    moved = np.linalg.norm(hostile.model.weights - silent.model.weights)
    assert moved < silent.clip.medians[0] / len(FIVE)


def test_a_run_with_clipped_uploads_resumes_bit_for_bit(tmp_path: Path) -> None:
    sites = OneScales(-30.0, first=2)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = start(five_sites(tmp_path / "a"), sites, 4)
    start(five_sites(tmp_path / "b"), sites, 3)  # its checkpoint is that of round 2
    resumed = five_sites(tmp_path / "b")
    assert resumed.checkpoints is not None
    resumed.resume(next(resumed.checkpoints.newest()))
    assert resumed.sync.shares.keys() == {"south"}
    assert len(resumed.clip.medians) == 2
    np.testing.assert_array_equal(start(resumed, sites, 4), whole)


def test_an_update_that_the_rule_leaves_out_goes_back_whole() -> None:
    sites, strategy = OneScales(-1.0), five_sites(aggregator=AGGREGATORS["sign-agreement"])
    start(strategy, sites, 2)
    assert sites.shares["south", 2] == 0.0
    assert strategy.sync.shares == {"south": 0.0}


def test_a_site_whose_uploads_were_not_accepted_may_send_longer_ones() -> None:
    strategy = five_sites()
    strategy.sync.missed["south"] = 3
    start(strategy, OneScales(5.0), 1)
    assert strategy.sync.shares == {}
    assert strategy.sync.missed == {}
    start(clipping := five_sites(), OneScales(5.0), 1)
    assert clipping.sync.shares.keys() == {"south"}


# ---- the last step ----------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["none", "channels"])
def test_a_rule_is_given_the_last_step_in_the_basis_of_the_uploads(transform: str) -> None:
    spec = ModelSpec.from_shapes({"conv.weight": (8, 8, 3, 3), "head.weight": (4, 8)})
    scheme = Scheme(transform=transform)
    weights, steps, turned_back = [], [], []

    class Recording(WeightedMean):
        def aggregate(self) -> Float32:
            weights.append(strategy.model.weights.copy())
            last = self.last_step
            assert last is not None
            steps.append(last.copy())
            if strategy.model.transform is not None:
                strategy.model.transform.inverse(last)
            turned_back.append(last)
            return super().aggregate()

    strategy = rs_dgc(spec=spec, scheme=scheme, server_momentum=0.4, aggregator=Recording)
    arrays = to_record(initial_weights(spec), spec)
    strategy.start(loopback(FakeSites(spec, scheme)), arrays, num_rounds=3, timeout=5.0)
    assert not steps[0].any()
    for number in (1, 2):
        moved = weights[number] - weights[number - 1]
        np.testing.assert_allclose(turned_back[number], moved, atol=1e-5)
        assert np.linalg.norm(steps[number]) == pytest.approx(np.linalg.norm(moved), rel=1e-4)
    # Before the first publication there is no progress, and no other basis.
    assert np.allclose(steps[2], turned_back[2], atol=1e-5) == (transform == "none")
