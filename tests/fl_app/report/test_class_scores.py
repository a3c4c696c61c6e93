import numpy as np
import pytest

from fl_app.report.class_scores import class_scores, worst_mistakes

CONFUSION = np.array([[8, 2, 0], [1, 4, 5], [0, 0, 0]])


def test_scores_of_classes() -> None:
    water, wood, never = class_scores(CONFUSION, ["water", "wood", "never"])
    assert (water.reference, wood.reference, never.reference) == (10, 10, 0)
    assert water.recall == pytest.approx(0.8)
    assert water.precision == pytest.approx(8 / 9)
    assert wood.f1 == pytest.approx(2 * 4 / 16)
    assert never.recall is None
    assert never.precision == 0.0


def test_mistakes_come_by_count() -> None:
    mistakes = worst_mistakes(CONFUSION, ["water", "wood", "never"])
    assert [(m.reference, m.predicted, m.count) for m in mistakes] == [
        ("wood", "never", 5),
        ("water", "wood", 2),
        ("wood", "water", 1),
    ]
    assert mistakes[0].share == pytest.approx(0.5)


def test_a_perfect_model_makes_none() -> None:
    assert worst_mistakes(np.diag([3, 4]), ["a", "b"]) == []
