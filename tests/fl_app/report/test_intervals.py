"""Intervals of scores: known values, and what holds for any counts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_app.report.intervals import bootstrap, wilson


def test_wilson_s_interval_has_published_values() -> None:
    # R. G. Newcombe, Statistics in Medicine 17, 1998, table I, method 3
    for hits, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        assert wilson(hits, count) == pytest.approx((low, high), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson(0, 0) is None


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_share(counts: tuple[int, int]) -> None:
    hits, count = counts
    interval = wilson(hits, count)
    assert interval is not None
    assert 0 <= interval.low <= hits / count <= interval.high <= 1


def test_the_bootstrap_agrees_with_wilson_where_both_apply() -> None:
    confusion = np.array([[80, 20], [20, 80]])  # balanced: the accuracy is the balanced one
    interval, other = bootstrap(confusion)["balanced_accuracy"], wilson(160, 200)
    assert other is not None
    assert interval == pytest.approx(other, abs=0.02)
    assert bootstrap(confusion) == bootstrap(confusion)
    assert bootstrap(confusion)["kappa"].low < 0.6 < bootstrap(confusion)["kappa"].high


def test_a_perfect_model_and_no_chips() -> None:
    scores = bootstrap(np.diag([5, 0, 9]))
    assert scores["balanced_accuracy"] == (1.0, 1.0)
    assert scores["kappa"] == (1.0, 1.0)
    assert bootstrap(np.zeros((3, 3), np.int64)) == {}
    assert bootstrap(np.array([[7]]))["kappa"] == (0.0, 0.0)
