"""The confusion matrix: its chart, the scores of single classes, the most frequent mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from data_prep.pictures.number_format import percent_text, plural
from fl_app.report.svg import INK, SURFACE, draw, tidy

MAX_MISTAKES = 8
# From more classes on, cells are too small for numbers.
_NUMBERED_CLASSES = 16
_SHARES_RGB = (0.13, 0.46, 0.62)


@dataclass(frozen=True)
class ClassScore:
    """Test chips and scores of one class; a score is None where there is nothing to divide by."""

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
    """Score each class of a confusion matrix int64 [K, K] with the reference in rows."""
    right = confusion.diagonal()
    reference, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    return [
        ClassScore(name, int(n), _share(hit, n), _share(hit, m), _share(2 * hit, n + m))
        for name, hit, n, m in zip(classes, right, reference, predicted, strict=True)
    ]


def worst_mistakes(confusion: NDArray[np.int64], classes: Sequence[str]) -> list[Mistake]:
    """Return the pairs of classes that are confused most often, by count."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MAX_MISTAKES]
    rows, columns = np.unravel_index(order, wrong.shape)
    return [
        Mistake(classes[row], classes[column], int(wrong[row, column]), wrong[row, column] / total)
        for row, column, total in zip(rows, columns, confusion.sum(axis=1)[rows], strict=True)
        if wrong[row, column]
    ]


def _share(part: np.int64, whole: np.int64) -> float | None:
    return float(part / whole) if whole else None


def confusion_matrix(confusion: NDArray[np.int64], classes: list[str]) -> Markup:
    """Draw a confusion matrix, each row (class of the reference) divided by its sum."""
    num_classes = len(classes)
    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    cell_in = 0.46 if num_classes <= _NUMBERED_CLASSES else 0.245 if num_classes <= 30 else 0.2

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        colors = np.empty((num_classes, num_classes, 4))
        colors[..., :3] = _SHARES_RGB
        colors[..., 3] = shares**0.8  # small shares stay visible
        axes.imshow(colors, interpolation="none", aspect="equal")
        axes.set_xticks(range(num_classes), classes, rotation=90, fontsize=7.5)
        axes.set_yticks(range(num_classes), classes, fontsize=7.5)
        axes.set_xlabel("predicted")
        axes.set_ylabel("reference")
        for line in range(num_classes + 1):
            axes.axhline(line - 0.5, color=SURFACE, linewidth=0.8)
            axes.axvline(line - 0.5, color=SURFACE, linewidth=0.8)
        tidy(axes, grid=None)
        if num_classes <= _NUMBERED_CLASSES:
            for (row, column), share in np.ndenumerate(shares):
                if share >= 0.005:  # less would be written as 0
                    number = axes.text(column, row, f"{100 * share:.0f}", fontsize=7.5)
                    number.set(ha="center", va="center", color="white" if share > 0.55 else INK)

    right = percent_text(float(np.trace(confusion)) / max(1, int(confusion.sum())))
    classed = plural(num_classes, "class", "classes")
    label = f"Confusion matrix of {classed}, {right} on the diagonal"
    side = cell_in * num_classes + 1.7
    return draw("confusion", label, (side, side), paint)
