"""Clipping, noise and accounting of the private mean, alone and in both strategies."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsdgc import ModelSpec
from rsdgc.arrays import Float32
from rsdgc.errors import RunError
from strategies import DenseFedAvg, Ledger
from strategies.base import SiteStrategy
from strategies.checkpoints import Checkpoints, State
from strategies.differential_privacy import RELEASES_FILE, PrivateMean, epsilon
from strategies.model_record import to_record, to_vector
from tests.strategies.fake_sites import (
    SPEC,
    FakeSites,
    initial_weights,
    loopback,
    round_settings,
    rs_dgc,
    site_manager,
)

SECRET = State(values={"secret": "5a" * 32})
SILENT = 1e-7
"""A noise multiplier whose noise is hardly above the rounding of float32."""


def private(folder: Path, noise: float = 1.0, clip: float = 1.0) -> PrivateMean:
    mean = PrivateMean(noise, clip, 1e-5, folder)
    mean.restore(SECRET)
    return mean


def vectors(seed: int, count: int, size: int = 50) -> list[Float32]:
    rng = np.random.default_rng(seed)
    return list(rng.standard_normal((count, size), dtype=np.float32))


# ---- accounting ---------------------------------------------------------------------------------


def test_known_values_of_epsilon() -> None:
    assert epsilon(1.0, 0, 1e-5) == 0.0
    # The analytic Gaussian mechanism: σ = 1 is (4.377, 1e-5)-private. Rounds compose by √T.
    assert epsilon(1.0, 1, 1e-5) == pytest.approx(4.3772, abs=1e-4)
    assert epsilon(10.0, 100, 1e-5) == pytest.approx(4.3772, abs=1e-4)
    # The definition: δ = Φ(1/2σ − εσ) − e^ε Φ(−1/2σ − εσ), Balle and Wang (2018), theorem 8.
    for sigma, rounds, delta in ((4.0, 60, 1e-5), (0.5, 3, 1e-6), (30.0, 1000, 1e-3)):
        eps, one = epsilon(sigma, rounds, delta), sigma / math.sqrt(rounds)
        inside, outside = (0.5 / one - eps * one, -0.5 / one - eps * one)
        phi = [0.5 * math.erfc(-x / math.sqrt(2)) for x in (inside, outside)]
        assert phi[0] - math.exp(eps) * phi[1] == pytest.approx(delta, rel=1e-6)


def test_epsilon_is_that_of_another_accountant() -> None:
    from dp_accounting import GaussianDpEvent  # noqa: PLC0415  # imports SciPy
    from dp_accounting.pld import PLDAccountant  # noqa: PLC0415

    accountant = PLDAccountant()
    accountant.compose(GaussianDpEvent(8.0), 60)
    assert epsilon(8.0, 60, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-4)


# ---- clipping -----------------------------------------------------------------------------------


@settings(max_examples=25)  # each of them forces a file to disk several times
@given(
    norms=st.lists(st.floats(0.0, 1e30), min_size=1, max_size=6),
    clip=st.floats(1e-3, 1e3),
    absent=st.integers(0, 2),
)
def test_no_site_moves_the_mean_by_more_than_its_share(
    tmp_path_factory: pytest.TempPathFactory, norms: list[float], clip: float, absent: int
) -> None:
    mean = private(tmp_path_factory.mktemp("clip"), SILENT, clip)
    updates = [
        (u / np.linalg.norm(u)).astype(np.float32) * np.float32(norm)
        for u, norm in zip(vectors(1, len(norms)), norms, strict=True)
    ]
    asked = len(updates) + absent

    def release(chosen: list[Float32]) -> Float32:
        return mean.release(chosen, asked=asked, size=50, server_round=1)

    everyone = release(updates)
    for index in range(len(updates)):
        others = release(updates[:index] + updates[index + 1 :])
        assert np.linalg.norm(everyone - others) <= 1.0001 * clip / asked
    assert np.linalg.norm(everyone) <= 1.0001 * clip * len(updates) / asked


def test_short_updates_have_one_weight_each_over_the_sites_that_were_asked(tmp_path: Path) -> None:
    first, second = vectors(2, 2)
    mean = private(tmp_path, SILENT, clip=10.0)
    released = mean.release([first, second], asked=5, size=50, server_round=1)
    np.testing.assert_allclose(released, (first + second) / 5, rtol=1e-5, atol=1e-5)


def test_what_is_not_finite_counts_as_zero(tmp_path: Path) -> None:
    mean = private(tmp_path, SILENT)
    infinite = np.full(50, np.inf, np.float32)
    released = mean.release([infinite, vectors(3, 1)[0]], asked=2, size=50, server_round=1)
    assert np.isfinite(released).all()
    with pytest.raises(RunError, match="2 updates came from 1 sites"):
        mean.release(vectors(3, 2), asked=1, size=50, server_round=1)


# ---- noise --------------------------------------------------------------------------------------


def test_the_noise_is_gaussian_with_the_stated_deviation(tmp_path: Path) -> None:
    size, asked, noise, clip = (1 << 20) + 7, 4, 2.0, 3.0  # more than one block
    mean = private(tmp_path, noise, clip)
    one, two = (mean.release([], asked=asked, size=size, server_round=r) for r in (1, 2))
    for drawn in (one, two):
        z = drawn / (noise * clip / asked)
        assert abs(z.mean()) < 5 / math.sqrt(size)
        assert z.std() == pytest.approx(1.0, abs=5 / math.sqrt(2 * size))
        assert (z**4).mean() == pytest.approx(3.0, abs=0.1)
        for quantile, expected in ((0.1, -1.28155), (0.9, 1.28155), (0.001, -3.09023)):
            assert np.quantile(z, quantile) == pytest.approx(expected, abs=0.05)
    assert abs(np.corrcoef(one, two)[0, 1]) < 5 / math.sqrt(size)


def test_noise_is_repeated_for_the_same_mean_only(tmp_path: Path) -> None:
    size = 20_000
    near, far = np.zeros(size, np.float32), np.zeros(size, np.float32)
    far[0] = 1e-3

    def release(mean: PrivateMean, update: Float32) -> Float32:
        return mean.release([update], asked=1, size=size, server_round=1)

    mean = private(tmp_path)
    first = release(mean, near)
    np.testing.assert_array_equal(first, release(mean, near))
    assert mean.releases == 1
    # With the noise of the first, the difference would be that of the updates alone.
    second = release(mean, far)
    assert np.std(first - second) == pytest.approx(math.sqrt(2), rel=0.05)
    assert mean.releases == 2
    another_secret = PrivateMean(1.0, 1.0, 1e-5, tmp_path)
    assert np.std(first - release(another_secret, near)) == pytest.approx(math.sqrt(2), rel=0.05)


def test_every_release_is_on_disk_and_counts_after_a_resume(tmp_path: Path) -> None:
    mean = private(tmp_path)
    for number in (1, 2):
        mean.release([], asked=1, size=5, server_round=number)
    assert mean.epsilon() == epsilon(1.0, 2, 1e-5)
    with (tmp_path / RELEASES_FILE).open("a") as file:
        file.write('{"round": 3, "ta')  # cut off when the server was killed
    again = private(tmp_path)
    assert again.releases == 3
    again.release([], asked=1, size=5, server_round=4)
    assert private(tmp_path).releases == again.releases == 4


# ---- strategies ---------------------------------------------------------------------------------


def strategy_of(method: str, folder: Path, noise: float = 0.5, clip: float = 2.0) -> SiteStrategy:
    folder.mkdir(exist_ok=True)
    mean = private(folder, noise, clip)
    if method == "rs-dgc":
        return rs_dgc(run_folder=folder, server_momentum=0.5, privacy=mean)
    ledger, checkpoints = Ledger(folder, SPEC.dense_bytes), Checkpoints(folder, every=2, keep=1)
    return DenseFedAvg(
        *(site_manager(), ledger, round_settings(), checkpoints),
        server_momentum=0.5,
        privacy=mean,
    )


def train(strategy: SiteStrategy, rounds: int, sites: FakeSites) -> Float32:
    arrays = to_record(initial_weights(), SPEC)
    result = strategy.start(loopback(sites), arrays, num_rounds=rounds, timeout=5.0)
    return to_vector(result.arrays, SPEC)


class OtherSites(FakeSites):
    """Sites that lost what they had: a repeated round brings other changes."""

    def change(self, site: str, number: int) -> Float32:
        return -super().change(site, number)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["rs-dgc", "fedavg"])
def test_a_resumed_run_equals_the_uninterrupted(method: str, tmp_path: Path) -> None:
    sites = FakeSites(dense=method == "fedavg")
    uninterrupted = strategy_of(method, tmp_path / "whole")
    expected = train(uninterrupted, 6, sites)
    train(strategy_of(method, tmp_path / "parts"), 3, sites)  # the checkpoint is of round 2
    resumed = strategy_of(method, tmp_path / "parts")
    assert resumed.checkpoints is not None
    (checkpoint,) = resumed.checkpoints.newest()
    resumed.resume(checkpoint)
    assert resumed.resumed_round == 2
    np.testing.assert_array_equal(train(resumed, 6, sites), expected)
    for strategy in (uninterrupted, resumed):
        assert strategy.privacy is not None
        assert strategy.privacy.releases == 6


@pytest.mark.parametrize("method", ["rs-dgc", "fedavg"])
def test_a_repeated_round_with_other_updates_counts_twice(method: str, tmp_path: Path) -> None:
    train(strategy_of(method, tmp_path), 3, FakeSites(dense=method == "fedavg"))
    resumed = strategy_of(method, tmp_path)
    assert resumed.checkpoints is not None
    (checkpoint,) = resumed.checkpoints.newest()
    resumed.resume(checkpoint)
    train(resumed, 6, OtherSites(dense=method == "fedavg"))
    assert resumed.privacy is not None
    assert resumed.privacy.releases == 7


@pytest.mark.parametrize("method", ["rs-dgc", "fedavg"])
def test_the_model_moves_by_the_clip_at_most(method: str, tmp_path: Path) -> None:
    clip = 0.25
    strategy = strategy_of(method, tmp_path, SILENT, clip)
    strategy.initialize(to_record(initial_weights(), SPEC))
    train(strategy, 1, FakeSites(dense=method == "fedavg"))
    moved = to_vector(strategy.arrays(), SPEC) - initial_weights()
    assert 0 < np.linalg.norm(moved) <= 1.001 * clip


class UnequalSites(FakeSites):
    """One site's updates are a thousand times as long as the other's, and within the clip."""

    def change(self, site: str, number: int) -> Float32:
        return super().change(site, number) * np.float32(1000.0 if site == "north" else 1.0)


@pytest.mark.parametrize("method", ["rs-dgc", "fedavg"])
def test_the_clip_is_fixed_and_the_weights_are_uniform(method: str, tmp_path: Path) -> None:
    sites = UnequalSites(dense=method == "fedavg")
    strategy = strategy_of(method, tmp_path, 1e-9, clip=1e6)
    train(strategy, 1, sites)
    moved = to_vector(strategy.arrays(), SPEC) - initial_weights()
    if method == "fedavg":  # these sites send a change in place of a model
        expected = (sites.change("north", 1) + sites.change("south", 1)) / 2 - initial_weights()
        np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=0.1)
    else:  # the neighborhoods that are sent have most of the length
        assert np.linalg.norm(moved) > 0.6 * np.linalg.norm(sites.change("north", 1) / 2)


def test_a_layer_without_dimensions_gets_noise_too(tmp_path: Path) -> None:
    spec = ModelSpec.from_shapes({"head.weight": (2, 3), "head.scale": ()})
    strategy = DenseFedAvg(
        *(site_manager(), Ledger(None, spec.dense_bytes), round_settings()),
        privacy=private(tmp_path),
    )
    start = to_record(initial_weights(spec), spec)
    grid = loopback(FakeSites(spec, dense=True))
    result = strategy.start(grid, start, num_rounds=1, timeout=5.0)
    assert result.arrays["head.scale"].shape == ()
    assert result.arrays["head.scale"].numpy() != start["head.scale"].numpy()
