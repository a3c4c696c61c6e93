import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import (
    AGGREGATORS,
    Aggregator,
    Compressor,
    ModelSpec,
    RunError,
    Scheme,
    Stamp,
    WeightedMean,
    WireError,
    aggregation,
    decode,
    make_indicator,
)
from tests.rsdgc.examples import MIXED, heavy_tailed, normal, schemes


class CoordinateMedian(Aggregator):
    """A rule from outside: the median of every coordinate, whatever the weights."""

    def aggregate(self):
        return np.median([update.to_dense() for update, _ in self.updates()], axis=0)


@functools.cache
def upload(seed, ratio=0.2, scheme=None, spec=MIXED):
    compressor = Compressor(spec, scheme or Scheme(), make_indicator("nsi"))
    update, ratios = heavy_tailed(spec.size, seed), [ratio] * len(spec.layers)
    return compressor.compress(update, ratios, Stamp(round=seed), 600).payload


def mean_of(uploads):
    mean = WeightedMean(MIXED)
    for key, payload, weight in uploads:
        mean.add(key, payload, weight)
    return mean.aggregate()


@given(st.integers(1, 6), schemes, st.data())
def test_bit_equal_in_every_arrival_order(num_sites, scheme, data):
    weights = [data.draw(st.floats(1e-3, 1e6)) for _ in range(num_sites)]
    uploads = [(f"site-{i}", upload(i, 0.5, scheme), weight) for i, weight in enumerate(weights)]
    first = mean_of(uploads)
    assert mean_of(data.draw(st.permutations(uploads))).tobytes() == first.tobytes()
    total = math.fsum(weights)
    expected = sum(
        weight / total * decode(payload, MIXED).to_dense().astype(np.float64)
        for _, payload, weight in uploads
    )
    assert first == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert first.dtype == np.float32


def test_divides_by_the_total_weight_where_one_site_alone_speaks():
    spec = ModelSpec.from_shapes({"fc": (2, 9)})
    exact = Scheme(values="float32")
    mean = WeightedMean(spec)
    for key, scale in (("a", 1.0), ("b", 2.0)):
        update = np.zeros(18, np.float32)
        update[:9] = scale if key == "a" else 0
        update[9:] = scale if key == "b" else 0
        compressor = Compressor(spec, exact, make_indicator("rms"))
        mean.add(key, compressor.compress(update, [0.5], Stamp()).payload, 4 if key == "a" else 1)
    assert mean.aggregate().tolist() == pytest.approx([0.8] * 9 + [0.4] * 9)
    assert mean.total_weight == 5
    assert len(mean) == 2


def test_one_whole_upload_comes_back_exactly():
    scheme = Scheme(values="float32", dense_values="float32")
    assert np.array_equal(
        mean_of([("a", upload(3, 1.0, scheme), 0.7)]), heavy_tailed(MIXED.size, 3)
    )


def test_decoded_updates_are_taken_too():
    plain = mean_of([("a", upload(1), 2), ("b", upload(2), 3)])
    taken = mean_of([("b", decode(upload(2), MIXED), 3), ("a", upload(1), 2)])
    assert plain.tobytes() == taken.tobytes()


@pytest.mark.parametrize("weight", [0, -1, -0.0, math.nan, math.inf, -math.inf, 1.79e308])
def test_bad_weights_are_refused(weight):
    mean = WeightedMean(MIXED)
    mean.add("a", upload(1), 1e308)
    with pytest.raises(WireError, match="weight"):
        mean.add("b", upload(2), weight)
    assert len(mean) == 1


def test_repeated_keys_and_bad_uploads_change_nothing():
    mean = WeightedMean(MIXED)
    mean.add("a", upload(1), 1)
    other = ModelSpec.from_shapes({"fc": (2, 9)})
    for key, payload in [
        ("a", upload(2)),
        ("b", b""),
        ("b", upload(2)[:-1]),
        ("b", upload(2, spec=other)),
        ("b", decode(upload(2, spec=other), other)),
    ]:
        with pytest.raises(WireError):
            mean.add(key, payload, 1)
    assert mean.aggregate().tobytes() == mean_of([("a", upload(1), 5)]).tobytes()


def test_the_mean_can_be_asked_for_twice():
    mean = WeightedMean(MIXED)
    mean.add("a", upload(1), 1)
    assert mean.aggregate().tobytes() == mean.aggregate().tobytes()


def test_the_mean_of_nothing_is_an_error():
    with pytest.raises(RunError, match="no update"):
        WeightedMean(MIXED).aggregate()


def test_extreme_values_stay_finite():
    largest = np.full(MIXED.size, np.finfo(np.float32).max, np.float32)
    exact = Scheme(values="float32", dense_values="float32")
    compressor = Compressor(MIXED, exact, make_indicator("l1"))
    payload = compressor.compress(largest, [1.0] * 8, Stamp()).payload
    found = mean_of([("a", payload, 1), ("b", payload, 1), ("c", payload, 2)])
    assert np.isfinite(found).all()


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_the_mean_is_the_same_however_many_are_decoded_at_a_time(threads):
    compressor = Compressor(MIXED, Scheme(), make_indicator("nsi"))
    mean, alone = WeightedMean(MIXED, threads), np.zeros(MIXED.size, np.float32)
    for number in range(5):
        sent = compressor.compress(normal(MIXED.size, number), [0.5] * 8, Stamp(), 300)
        mean.add(f"site-{number}", sent.payload, weight=number + 1)
        sent.add_to(alone, (number + 1) / 15)
    assert mean.aggregate().tobytes() == alone.tobytes()


@pytest.mark.parametrize("name", ["coordinate-median", f"{__name__}:CoordinateMedian"])
def test_a_rule_from_outside_is_found_by_name_and_by_path(name):
    if name not in AGGREGATORS and ":" not in name:
        AGGREGATORS.register(name)(CoordinateMedian)
    rule = AGGREGATORS[name](MIXED)
    for seed, weight in ((1, 1), (2, 100), (3, 1)):
        rule.add(f"site-{seed}", upload(seed, 0.5), weight)
    dense = [decode(upload(seed, 0.5), MIXED).to_dense() for seed in (1, 2, 3)]
    assert np.array_equal(rule.aggregate(), np.sort(dense, axis=0)[1])
    assert rule.total_weight == 102
    with pytest.raises(WireError, match="second update"):
        rule.add("site-1", upload(1), 1)
    with pytest.raises(RunError, match="no update"):
        AGGREGATORS[name](MIXED).aggregate()


def test_the_weighted_mean_is_registered():
    assert AGGREGATORS["mean"] is WeightedMean


BRANCHED = ModelSpec.from_shapes(
    {
        "branches.optical.weight": (4, 3, 3, 3),
        "branches.s2%2E60m.weight": (4, 2, 3, 3),
        "branches.s2%2E60m.bias": (4,),
        "branches.sar.weight": (4, 2),
        "head.weight": (3, 4),
    }
)
MODALITIES = ("optical", "s2.60m", "sar")


@pytest.mark.parametrize("rule", [WeightedMean, CoordinateMedian])
@given(st.lists(st.sets(st.sampled_from(MODALITIES)), min_size=1, max_size=5), st.randoms())
def test_each_layer_is_combined_over_the_sites_that_have_it(rule, lacking, random):
    aggregator = rule(BRANCHED)
    sites = list(enumerate(lacking))
    random.shuffle(sites)
    for number, missing in sites:
        # the payload says something of every layer: what a site does not have must not count
        payload = upload(number, 0.5, Scheme(values="float32"), BRANCHED)
        present = BRANCHED.present_layers(missing)
        aggregator.add(f"site-{number}", payload, number + 1, present)
    combined = BRANCHED.views(aggregator.combine())
    for index, layer in enumerate(BRANCHED.layers):
        holders = [
            number
            for number, missing in enumerate(lacking)
            if not any(layer.name.startswith(f"branches.{m.replace('.', '%2E')}.") for m in missing)
        ]
        if not holders:
            assert not combined[index].any()
            continue
        alone = rule(BRANCHED)
        for number in holders:
            payload = upload(number, 0.5, Scheme(values="float32"), BRANCHED)
            alone.add(f"site-{number}", payload, number + 1)
        assert np.array_equal(combined[index], BRANCHED.views(alone.aggregate())[index])


def test_complete_sites_are_combined_as_before():
    mean = WeightedMean(MIXED)
    for number in range(3):
        mean.add(f"site-{number}", upload(number), number + 1, np.ones(len(MIXED.layers), bool))
    assert mean.combine().tobytes() == mean.aggregate().tobytes()
    with pytest.raises(RunError, match="no update"):
        WeightedMean(MIXED).combine()


@pytest.mark.parametrize(("room_bytes", "again"), [(10**9, 0), (0, 4), (None, None)])
def test_what_memory_holds_is_decoded_once(monkeypatch, room_bytes, again):
    expected = mean_of((str(i), upload(i), 1.0 + i) for i in range(4)).tobytes()
    calls = []
    monkeypatch.setattr(aggregation, "decode", lambda *words: calls.append(words) or decode(*words))
    mean = WeightedMean(MIXED)
    if room_bytes is not None:
        mean._room_bytes = room_bytes
    for i in range(4):
        mean.add(str(i), decode(upload(i), MIXED), 1.0 + i)
    assert mean.aggregate().tobytes() == expected
    if again is not None:
        assert len(calls) == again
    held = sum(update.memory_bytes for update in mean._decoded.values())
    assert held <= (MIXED.dense_bytes if room_bytes is None else room_bytes)
