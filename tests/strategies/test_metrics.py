import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.metrics import ClassCounts, Scores, sum_counts
from strategies.validation import ReplyRefused


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


@given(st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=3, max_size=3))
def test_the_counts_of_every_matrix_pass_the_check(rows: list[list[int]]) -> None:
    matrix = np.array(rows)
    counts = ClassCounts.from_confusion(matrix, 1.0)
    counts.check(int(matrix.sum()))
    assert counts.samples == matrix.sum()
    if matrix.sum():
        with pytest.raises(ReplyRefused, match="contradictory scores"):
            counts.check(int(matrix.sum()) - 1)
        assert counts.accuracy == pytest.approx(np.trace(matrix) / matrix.sum())
        assert sum_counts([counts]) == Scores.from_confusion(matrix, 1.0)


@pytest.mark.parametrize(
    ("reference", "predicted", "correct"),
    [
        ([3, 2, 2], [3, 2, 2], [3, 2, 2]),  # more chips than the site has
        ([2, 2, 2], [2, 2, 2], [3, 1, 1]),  # more are correct than there are
        ([2, 2, 2], [1, 1, 1], [1, 1, 1]),  # not as many predictions as samples
        ([6, 0, 0], [6, 0, 0], [5, 0, 0]),  # an error without another class
        ([4, 2, 0], [4, 1, 1], [2, 1, 0]),  # more errors in one class than others can hold
    ],
)
def test_counts_that_no_matrix_has_are_refused(
    reference: list[int], predicted: list[int], correct: list[int]
) -> None:
    counts = ClassCounts(*(np.array(part) for part in (reference, predicted, correct)), 1.0)
    with pytest.raises(ReplyRefused, match="contradictory scores"):
        counts.check(6)


def test_a_loss_that_is_not_finite_does_not_count() -> None:
    matrix = np.diag([1, 1])
    parts = [ClassCounts.from_confusion(n * matrix, loss) for n, loss in ((1, None), (2, 0.5))]
    scores = sum_counts([*parts, None])
    assert scores is not None
    assert (scores.loss, scores.num_examples) == (0.5, 6)
    without = sum_counts(parts[:1])
    assert without is not None
    assert without.loss is None
    assert sum_counts([None, ClassCounts.from_confusion(0 * matrix, 1.0)]) is None
