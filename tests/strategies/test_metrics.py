import math

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from strategies import messages
from strategies.metrics import Scores, read_confusions, score_received_model
from tests.strategies.fake_sites import FakeSites, loopback, site_manager


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


def report(**fields: object) -> dict[str, Message]:
    loopback(FakeSites())  # messages are made within a run
    content = RecordDict({messages.METRICS: MetricRecord(fields)})  # type: ignore[arg-type]
    return {"north": Message(content, dst_node_id=101, message_type="train")}


@pytest.mark.parametrize(
    ("reference", "predicted", "correct"),
    [
        ([3, 2, 2], [3, 2, 2], [3, 2, 2]),  # more chips than the site has
        ([2, 2, 2], [2, 2, 2], [3, 1, 1]),  # more are correct than there are
        ([2, 2, 2], [1, 1, 1], [1, 1, 1]),  # not as many predictions as samples
    ],
)
def test_counts_that_no_split_has_are_left_out(
    reference: list[int], predicted: list[int], correct: list[int]
) -> None:
    fields = {"reference": reference, "predicted": predicted, "correct": correct}
    assert score_received_model(report(**fields, **{"score-loss": 1.0}), site_manager()) is None


def test_a_matrix_of_more_chips_than_the_site_has_is_left_out() -> None:
    for count, scored in ((2, 1), (3, 0)):
        matrix = (count * np.eye(3, dtype=int)).reshape(-1).tolist()
        replies = report(**{"confusion": matrix, "score-loss": 1.0})
        assert len(read_confusions(replies, site_manager())) == scored


def test_a_negative_loss_is_no_advantage() -> None:
    counts = {key: [2, 2, 2] for key in messages.CLASS_COUNTS}
    scores = score_received_model(report(**counts, **{"score-loss": -5.0}), site_manager())
    assert scores is not None
    assert scores.loss == 0.0
