from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st

from rsdgc.statistics_codec import encode_statistics
from strategies import messages
from strategies.running_statistics import RunningStatistics, mean_arrays
from strategies.transport import chunk_upload
from strategies.validation import ReplyRefused

INITIAL = {"a.running_mean": np.zeros(2, np.float32), "a.running_var": np.ones(2, np.float32)}


def changed(mean: float, var: float) -> dict[str, np.ndarray]:
    values = zip(INITIAL, (mean, var), strict=True)
    return {name: np.full(2, value, np.float32) for name, value in values}


def test_a_model_without_statistics_sends_and_counts_nothing() -> None:
    statistics = RunningStatistics()
    assert statistics.record() is None
    assert statistics.groups() == {}
    assert statistics.largest_bytes == 0


def test_every_array_is_the_mean_over_those_that_sent_it() -> None:
    part = {"a.running_var": changed(0, 8)["a.running_var"]}
    mean = mean_arrays([("a", changed(1, 2), 1), ("b", part, 3)], INITIAL)
    assert mean["a.running_mean"].tolist() == [1, 1]
    assert mean["a.running_var"].tolist() == [6.5, 6.5]


def test_what_sites_are_sent_is_what_the_server_has() -> None:
    statistics = RunningStatistics(INITIAL)
    for site, weight in ((changed(0.1, 2.3), 1), (changed(0.3, 1.7), 2)):
        read, size = statistics.read(chunk_upload(encode_statistics(site, INITIAL)))
        assert size == statistics.largest_bytes
        statistics.add("a", read, weight)
    statistics.aggregate()
    assert statistics.current["a.running_var"] == pytest.approx(1.9, rel=1e-3)
    twin = RunningStatistics(INITIAL)
    twin.restore(statistics.state())
    for name, array in statistics.current.items():
        np.testing.assert_array_equal(twin.current[name], array)
    assert sum(statistics.groups().values()) == statistics.largest_bytes


def test_statistics_of_a_round_without_quorum_are_forgotten() -> None:
    statistics = RunningStatistics(INITIAL)
    statistics.add("a", changed(5, 5), 1)
    statistics.discard()
    statistics.aggregate()
    assert statistics.current["a.running_mean"].tolist() == [0, 0]


@pytest.mark.parametrize("scale", [1e3, 1e10, 3e38])
def test_one_site_does_not_own_the_statistics(scale: float) -> None:
    honest = [(str(n), changed(0.1 * n, 1 + 0.1 * n), 10.0) for n in range(1, 6)]
    mean = mean_arrays([*honest, ("mallory", changed(scale, scale), 10.0)], INITIAL)
    for name, array in mean_arrays(honest, INITIAL).items():
        assert np.abs(mean[name] - array).max() < 0.1


@given(
    st.lists(
        st.tuples(st.floats(-9, 9), st.floats(0, 9), st.integers(1, 99)), min_size=1, max_size=9
    ),
    st.integers(2, 99),
)
def test_sites_that_differ_for_good_are_averaged_to_the_bit(
    sites: list[tuple[float, float, int]], odd_weight: int
) -> None:
    """Of sites that are alike, and one that is not, with their mean for a reference."""
    like, odd = changed(*sites[0][:2]), changed(*sites[-1][:2])
    received = [(str(n), like, weight) for n, (*_, weight) in enumerate(sites)]
    received.append(("odd", odd, odd_weight))
    weights = [weight for *_, weight in received]
    reference = {
        name: np.average([a[name] for _, a, _ in received], axis=0, weights=weights).astype("f4")
        for name in INITIAL
    }
    means = mean_arrays(received, reference)
    for name in INITIAL:
        total = sum(weight * arrays[name].astype(np.float64) for _, arrays, weight in received)
        np.testing.assert_array_equal(means[name], (total / sum(weights)).astype(np.float32))


BAD = {
    "another array": ArrayRecord({"x": Array(np.zeros(3, np.uint8))}),
    "not bytes": ArrayRecord({messages.PACKED: Array(np.zeros(3, np.float32))}),
    "damaged": encode_statistics(changed(1, 1), INITIAL)[:-1],
    "of another model": encode_statistics({"b": np.ones(2)}, {"b": np.zeros(2)}),
    "negative variance": encode_statistics(changed(1, -1), INITIAL),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_not_statistics_is_refused(kind: str) -> None:
    content = BAD[kind]
    record = chunk_upload(content) if isinstance(content, bytes) else content
    with pytest.raises(ReplyRefused, match="not valid running statistics"):
        RunningStatistics(INITIAL).read(record)


def test_constants_count_in_no_budget_and_are_sent_if_they_change() -> None:
    constant = {"grid": np.zeros(1000, np.float32)}
    statistics = RunningStatistics(INITIAL | constant, changing=INITIAL)
    sent = {name: array + 1 for name, array in INITIAL.items()}
    packed = encode_statistics(sent | constant, INITIAL | constant)
    assert statistics.expected_bytes == len(packed)
    assert statistics.largest_bytes > statistics.expected_bytes + 2000
    statistics.add("oslo", {"grid": np.ones(1000, np.float32)}, 1.0)
    statistics.aggregate()
    assert (statistics.current["grid"] == 1).all()
