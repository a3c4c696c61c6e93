import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import (
    AGGREGATORS,
    Compressor,
    ModelSpec,
    NormClip,
    RunError,
    Scheme,
    SignAgreement,
    SparseUpdate,
    Stamp,
    TrimmedMean,
    WeightedMean,
    decode,
    make_indicator,
)
from tests.rsdgc.examples import MIXED, heavy_tailed

RULES = ("trimmed-mean", "sign-agreement")
seeds = st.integers(0, 2**32 - 1)


@functools.cache
def upload(seed, ratio=0.3, factor=1.0):
    """An update that all seeds share in part, as those of honest sites do."""
    common, own = heavy_tailed(MIXED.size, 999), heavy_tailed(MIXED.size, seed)
    update = np.float32(factor) * (common + np.float32(0.3) * own)
    compressor = Compressor(MIXED, Scheme(), make_indicator("nsi"))
    return compressor.compress(update, [ratio] * len(MIXED.layers), Stamp(), 600).payload


def rule_of(name, uploads, spec=MIXED):
    rule = AGGREGATORS[name](spec)
    for key, payload, weight in uploads:
        rule.add(key, payload, weight)
    return rule


def dense_rule(name, rows, weights=None):
    spec = ModelSpec.from_shapes({"fc.weight": (len(rows[0]),)})
    weights = weights or [1.0] * len(rows)
    updates = [SparseUpdate.from_dense(spec, np.array(row, np.float32)) for row in rows]
    uploads = [(f"site-{i:02}", *pair) for i, pair in enumerate(zip(updates, weights, strict=True))]
    return rule_of(name, uploads, spec)


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
@given(st.data())
def test_bit_equal_in_every_arrival_order(name, data):
    count = data.draw(st.integers(1, 6))
    weights = data.draw(st.lists(st.floats(1, 1000), min_size=count, max_size=count))
    uploads = [(f"site-{i}", upload(i), weight) for i, weight in enumerate(weights)]
    first = rule_of(name, uploads).combine()
    shuffled = rule_of(name, data.draw(st.permutations(uploads)))
    assert shuffled.combine().tobytes() == first.tobytes()
    assert first.dtype == np.float32


@pytest.mark.parametrize("name", RULES)
def test_nothing_is_an_error(name):
    with pytest.raises(RunError, match="no update"):
        AGGREGATORS[name](MIXED).combine()


# ---- trimmed mean -----------------------------------------------------------------------------


def test_extremes_are_dropped_among_those_who_speak_and_count_for_the_rest():
    rows = [[1, 5, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0], [-900, 0, 7]]
    # 2: the middle three of five; 1: a fifth of the weight, the same for the last one
    assert dense_rule("trimmed-mean", rows).combine().tolist() == pytest.approx([2, 1, 1.4])


@pytest.mark.parametrize("senders", [2, 3, 4, 6])
def test_what_few_agree_on_is_not_trimmed_away(senders):
    """A trimmed mean over all of ten would be zero here: four zeros or more on each side."""
    rows = [[3.0 if number < senders else 0.0] for number in range(10)]
    assert dense_rule("trimmed-mean", rows).combine()[0] == pytest.approx(0.3 * senders)


@given(st.lists(st.floats(-2, 3, width=32), min_size=7, max_size=12), st.floats(-1e6, 1e6))
def test_dense_result_stays_between_honest_values(honest, wrong):
    honest = [value or 0.5 for value in honest]
    hostile = int(TrimmedMean.trim_share * (len(honest) + 1))
    assert hostile >= 1
    result = dense_rule("trimmed-mean", [[value] for value in [*honest, wrong or 1.0]]).combine()
    assert min(honest) - 1e-5 <= result[0] <= max(honest) + 1e-5


@given(st.integers(1, 4), seeds)
def test_few_dense_updates_are_averaged_by_weight(count, seed):
    rng = np.random.default_rng(seed)
    rows, weights = rng.standard_normal((count, 20)), rng.uniform(1, 9, count).tolist()
    assert dense_rule("trimmed-mean", rows, weights).combine() == pytest.approx(
        np.average(rows, axis=0, weights=weights), abs=1e-5
    )


@given(seeds)
def test_scaling_all_weights_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    rows, weights = rng.standard_normal((8, 30)), rng.integers(1, 50, 8).astype(float).tolist()
    once = dense_rule("trimmed-mean", rows, weights).combine()
    scaled = dense_rule("trimmed-mean", rows, [4 * weight for weight in weights]).combine()
    assert scaled.tobytes() == once.tobytes()


# ---- sign agreement ---------------------------------------------------------------------------


@pytest.mark.parametrize("hostile", [1, 2, 3, 4])
def test_updates_that_point_backwards_are_left_out_as_if_they_had_not_come(hostile):
    names = [f"site-{i}" for i in range(10)]
    uploads = [(name, upload(i), i + 1.0) for i, name in enumerate(names)]
    attack = [
        (name, upload(i, factor=-3.0), 7.0) if i < hostile else uploads[i]
        for i, name in enumerate(names)
    ]
    rule = rule_of("sign-agreement", attack)
    mean = WeightedMean(MIXED)
    for item in uploads[hostile:]:
        mean.add(*item)
    assert rule.combine().tobytes() == mean.combine().tobytes()
    assert rule.accepted_shares == dict.fromkeys(names[:hostile], 0.0)


def test_honest_updates_are_the_weighted_mean_to_the_bit():
    uploads = [(f"site-{i}", upload(i), i + 1.0) for i in range(7)]
    rule = rule_of("sign-agreement", uploads)
    assert rule.combine().tobytes() == rule_of("mean", uploads).combine().tobytes()
    assert rule.accepted_shares == {}


@given(st.integers(1, 9), seeds)
def test_more_than_half_always_stays(count, seed):
    rows = np.random.default_rng(seed).standard_normal((count, 12))
    rule = dense_rule("sign-agreement", rows)
    rule.combine()
    assert len(rule.accepted_shares) <= (count - 1) // 2
    assert all(-1 <= score <= 1 for score in rule.agreements().values())


def test_length_gives_an_update_no_say_in_the_direction():
    rows = [[1, 1, 1, 2], [1, 2, 1, 1], [2, 1, 1, 1], [-1e20, -1e20, -1e20, -1e20]]
    rule = dense_rule("sign-agreement", rows)
    assert rule.combine().min() > 0.9
    assert rule.accepted_shares == {"site-03": 0.0}


def test_the_last_step_of_a_model_with_momentum_counts_as_one_more_sender():
    rows = [[1, 1, 1], [-1, -1, -1], [1, 1, -1]]
    plain, remembering = dense_rule("sign-agreement", rows), dense_rule("sign-agreement", rows)
    remembering.compare_with(lambda: np.array([1, 1, 1], np.float32))
    assert remembering.agreements()["site-00"] > plain.agreements()["site-00"]
    assert isinstance(remembering, SignAgreement)


def test_layers_that_a_site_lacks_do_not_enter_norm_or_agreement():
    spec = ModelSpec.from_shapes({"branches.sar.weight": (6,), "head.weight": (6,)})
    present = spec.present_layers(["sar"])
    rule = SignAgreement(spec)
    update = np.array([9] * 6 + [1] * 6, np.float32)
    for key in "abc":
        rule.add(key, SparseUpdate.from_dense(spec, update), 1.0)
    update = np.array([-9e9] * 6 + [1] * 6, np.float32)
    rule.add("d", SparseUpdate.from_dense(spec, update), 1.0, present)
    assert rule.norms["d"] == pytest.approx(6**0.5)
    assert rule.combine().tolist() == [9] * 6 + [1] * 6
    assert rule.accepted_shares == {}


@given(st.floats(0, 1), st.floats(0, 1), seeds)
def test_a_clipped_update_counts_by_its_share_in_the_sum_and_in_its_weight(first, second, seed):
    payloads = {"a": upload(seed % 50), "b": upload(seed % 49), "c": upload(seed % 47)}
    shares, weights = {"a": first, "b": second}, {"a": 3.0, "b": 1.0, "c": 2.0}
    rule = rule_of("mean", [(key, payloads[key], weights[key]) for key in payloads])
    rule.clip(shares)
    total = sum(
        weights[key] * shares.get(key, 1) * decode(payload, MIXED).to_dense().astype(np.float64)
        for key, payload in payloads.items()
    )
    # At least half of the weight of all, 6.
    divisor = max(3 * first + second + 2, 3)
    assert rule.counted_weight == pytest.approx(divisor)
    assert rule.combine() == pytest.approx(total / divisor, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("name", ["mean", "trimmed-mean", "sign-agreement"])
@pytest.mark.parametrize("factor", [-1e3, 1e3])
def test_a_sender_that_hardly_counts_does_not_shorten_the_step_of_the_others(name, factor):
    update = np.linspace(1, 2, MIXED.size, dtype=np.float32)
    rule = AGGREGATORS[name](MIXED)
    for number, scale in enumerate((1, 1, 1, 1, factor)):
        sent = SparseUpdate.from_dense(MIXED, update * np.float32(scale))
        rule.add(f"site-{number}", sent, 1.0)
    rule.clip(NormClip(3).shares(rule.norms))
    assert rule.combine() == pytest.approx(update, rel=1e-4)
