"""Scores of single classes, and which are taken for one another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

MAX_MISTAKES = 8


@dataclass(frozen=True)
class ClassScore:
    """One class: test chips, and the shares found (recall) and true when named (precision).

    None where there is nothing to divide by.
    """

    name: str
    reference: int
    recall: float | None
    precision: float | None
    f1: float | None


@dataclass(frozen=True)
class Mistake:
    """Chips of one class that were taken for another; ``share`` is of the reference class."""

    reference: str
    predicted: str
    count: int
    share: float


def class_scores(confusion: NDArray[np.int64], classes: Sequence[str]) -> list[ClassScore]:
    """Score each class of a confusion matrix int64[K, K] with the reference in rows."""
    right = confusion.diagonal()
    reference, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    return [
        ClassScore(
            name,
            int(reference[at]),
            _share(right[at], reference[at]),
            _share(right[at], predicted[at]),
            _share(2 * right[at], reference[at] + predicted[at]),
        )
        for at, name in enumerate(classes)
    ]


def worst_mistakes(confusion: NDArray[np.int64], classes: Sequence[str]) -> list[Mistake]:
    """Pairs of classes that are confused most often, by count."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_MISTAKES]
    rows, columns = np.unravel_index(order, wrong.shape)
    totals = confusion.sum(axis=1)
    return [
        Mistake(
            classes[row], classes[column], int(wrong[row, column]), wrong[row, column] / totals[row]
        )
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        if wrong[row, column]
    ]


def _share(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None
