import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.metrics import Scores


def test_known_values() -> None:
    # Cohen's kappa of the textbook 2×2 example: po = 0.70, pe = 0.50.
    confusion = np.array([[20, 5], [10, 15]])
    scores = Scores.from_confusion(confusion, loss=0.5)
    assert scores.accuracy == pytest.approx(0.70)
    assert scores.balanced_accuracy == pytest.approx((20 / 25 + 15 / 25) / 2)
    assert scores.kappa == pytest.approx(0.40)
    assert scores.num_examples == 50


def test_absent_classes_do_not_count() -> None:
    scores = Scores.from_confusion(np.diag([3, 0, 5]), loss=0.0)
    assert scores.balanced_accuracy == 1.0
    assert scores.kappa == pytest.approx(1.0)


def test_nothing_scored_is_nan() -> None:
    assert math.isnan(Scores.from_confusion(np.zeros((2, 2), dtype=np.int64), 0.0).accuracy)


@given(st.lists(st.lists(st.integers(0, 50), min_size=4, max_size=4), min_size=4, max_size=4))
def test_figures_stay_in_their_ranges(rows: list[list[int]]) -> None:
    confusion = np.array(rows)
    scores = Scores.from_confusion(confusion, loss=0.0)
    if confusion.sum():
        assert 0.0 <= scores.accuracy <= 1.0
        assert 0.0 <= scores.balanced_accuracy <= 1.0
        assert -1.0 <= scores.kappa <= 1.0 + 1e-12
