from __future__ import annotations

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord

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
    mean = mean_arrays([(changed(1, 2), 1), ({"a.running_var": changed(0, 8)["a.running_var"]}, 3)])
    assert mean["a.running_mean"].tolist() == [1, 1]
    assert mean["a.running_var"].tolist() == [6.5, 6.5]


def test_what_sites_are_sent_is_what_the_server_has() -> None:
    statistics = RunningStatistics(INITIAL)
    for site, weight in ((changed(0.1, 2.3), 1), (changed(0.3, 1.7), 2)):
        read, size = statistics.read(chunk_upload(encode_statistics(site, INITIAL)))
        assert size == statistics.largest_bytes
        statistics.add(read, weight)
    statistics.aggregate()
    assert statistics.current["a.running_var"] == pytest.approx(1.9, rel=1e-3)
    twin = RunningStatistics(INITIAL)
    twin.restore(statistics.state())
    for name, array in statistics.current.items():
        np.testing.assert_array_equal(twin.current[name], array)
    assert sum(statistics.groups().values()) == statistics.largest_bytes


def test_statistics_of_a_round_without_quorum_are_forgotten() -> None:
    statistics = RunningStatistics(INITIAL)
    statistics.add(changed(5, 5), 1)
    statistics.discard()
    statistics.aggregate()
    assert statistics.current["a.running_mean"].tolist() == [0, 0]


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
