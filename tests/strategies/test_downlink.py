import numpy as np
import pytest

from rsdgc import RMS, Compressor, ModelSpec, RsdgcError, Scheme
from rsdgc.patches import apply_patches, fingerprint, unpack_patches
from strategies import messages
from strategies.downlink import DownloadCache, PublishedModel
from strategies.ledger import WHOLE_MODEL
from strategies.rate_control import RateControl

SPEC = ModelSpec.from_shapes(
    {"conv.weight": (16, 8, 3, 3), "conv.bias": (16,), "fc.weight": (9, 50)}
)
RUN = 5


def rates(times: float) -> RateControl:
    return RateControl(SPEC, Scheme(), "update", SPEC.dense_bytes / times)


def published(times: float = 10.0) -> PublishedModel:
    start = np.random.default_rng(0).standard_normal(SPEC.size).astype(np.float32)
    return PublishedModel(start, rates(times), Compressor(SPEC, Scheme(), RMS()), RUN)


def step(model: PublishedModel, seed: int) -> None:
    model.step(np.random.default_rng(seed).standard_normal(SPEC.size).astype(np.float32) / 10)


def run(model: PublishedModel, rounds: int) -> None:
    for number in range(rounds):
        step(model, number + 1)
        model.publish(overhead_bytes=100)


def test_a_replica_that_follows_the_log_is_the_published_model() -> None:
    model = published()
    replica = model.published.copy()
    version = 0
    for number in range(12):
        step(model, number + 1)
        model.publish()
        if number % 3 == 2:  # away in between
            patches = [patch.payload for patch in model.patches_since(version) or []]
            version = apply_patches(replica, version, patches, SPEC, RUN)
            np.testing.assert_array_equal(replica.view(np.uint32), model.published.view(np.uint32))
            assert fingerprint(replica) == model.fingerprint
    assert version == model.version == 12


def test_what_a_patch_leaves_out_comes_with_the_next() -> None:
    model = published()
    run(model, 6)
    moved = model.distance()
    for _ in range(40):  # nothing new: the rest drains
        model.publish()
    assert model.distance() < 0.1 * moved


def test_patches_keep_to_the_budget_with_their_overhead() -> None:
    model = published()
    run(model, 10)
    sizes = [len(patch.payload) + 100 for patch in model.log[4:]]
    assert np.mean(sizes) == pytest.approx(model.rates.budget_bytes, rel=0.05)
    for patch in model.log:
        assert sum(patch.groups.values()) == len(patch.payload)
        assert set(patch.groups) == {"header", "conv", "fc"}


def test_the_log_is_never_longer_than_the_model() -> None:
    model = published(times=4.0)
    run(model, 12)
    assert sum(len(patch.payload) for patch in model.log) < SPEC.dense_bytes
    assert [patch.version for patch in model.log] == list(range(13 - len(model.log), 13))
    assert model.patches_since(0) is None
    assert model.patches_since(12) == []
    assert len(model.patches_since(11) or []) == 1


def test_a_budget_of_the_whole_model_publishes_the_true_one() -> None:
    model = published(times=1.0)
    run(model, 3)
    np.testing.assert_array_equal(model.published, model.weights)
    assert (model.version, model.log, model.patches_since(2)) == (3, [], None)


def test_a_last_larger_patch_brings_the_true_model_near() -> None:
    model = published(times=20.0)
    run(model, 5)
    before = model.distance()
    model.publish_within(rates(3.0))
    assert model.distance() < 0.5 * before
    model.publish_within(rates(1.0))
    assert model.distance() == 0.0


def test_a_model_that_is_not_finite_is_not_published() -> None:
    model = published()
    model.step(np.full(SPEC.size, np.inf, np.float32))
    with pytest.raises(RsdgcError, match="inf"):
        model.publish()
    assert (model.version, model.log) == (0, [])


def test_a_restored_model_goes_on_alike() -> None:
    one, two = published(), published()
    run(one, 4)
    two.restore(one.state())
    assert two.fingerprint == one.fingerprint
    assert two.log == one.log


@pytest.mark.parametrize("seed", [0, 1])
def test_a_resumed_run_of_another_model_before_training_warns(
    caplog: pytest.LogCaptureFixture, seed: int
) -> None:
    """As another release of PyTorch builds it: the transform then has another reference."""
    scheme = Scheme(transform="channels")

    def model(seed: int) -> PublishedModel:
        start = np.random.default_rng(seed).standard_normal(SPEC.size).astype(np.float32)
        rate_control = RateControl(SPEC, scheme, "update", SPEC.dense_bytes / 10)
        return PublishedModel(start, rate_control, Compressor(SPEC, scheme, RMS()), RUN)

    stopped, resumed = model(0), model(seed)
    run(stopped, 2)
    resumed.restore(stopped.state())
    assert resumed.fingerprint == stopped.fingerprint
    warned = "not the one that this run started from" in caplog.text
    assert warned == (seed != 0)


def test_sites_at_one_version_get_the_same_object() -> None:
    model = published()
    downloads = DownloadCache(model)
    assert downloads.since(0).arrays is None
    run(model, 3)
    assert downloads.since(1) is downloads.since(1)
    array = downloads.since(1).arrays[messages.PATCHES]
    assert len(unpack_patches(array.numpy().tobytes())) == 2
    assert downloads.since(99) is downloads.whole() is downloads.whole()
    assert set(downloads.whole().groups) == {WHOLE_MODEL}
    assert WHOLE_MODEL not in downloads.since(2).groups
    before = downloads.whole()
    run(model, 1)
    assert downloads.whole() is not before
