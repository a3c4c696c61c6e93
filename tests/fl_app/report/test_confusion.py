import numpy as np
import pytest

from fl_app.report.confusion import class_scores, confusion_matrix, worst_mistakes

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


@pytest.mark.slow
@pytest.mark.parametrize("num_classes", [2, 10, 21, 45])
def test_confusion_matrices_of_any_size(num_classes: int) -> None:
    rng = np.random.default_rng(0)
    confusion = rng.integers(0, 9, (num_classes, num_classes))
    confusion[0] = 0  # a class without test chips
    names = [f"class {i}" for i in range(num_classes)]
    figure = confusion_matrix(confusion, names)
    # with many classes the names stand at all four edges
    assert figure.svg.count(f">class {num_classes - 1}<") == (4 if num_classes > 24 else 2)
    numbers = figure.table.rows
    assert [row[1:] for row in numbers] == confusion.tolist()
