"""The confusion matrix: its chart, the scores of single classes, the most frequent mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from data_prep.number_format import percent_text, plural
from data_prep.pictures.csv_table import CsvTable
from data_prep.pictures.plot import GRID, INK, SURFACE, Plot, draw, tidy
from fl_app.report.intervals import Interval, wilson

MAX_MISTAKES = 8
# Up to these numbers of classes, cells are this large, in inches, with numbers of this size.
_CELLS = ((16, 0.46, 7.5), (30, 0.3, 6.5), (60, 0.22, 5.2))
# Of more classes, cells are too small for numbers.
_SMALLEST_CELL_IN = 0.16
# From more classes on, names stand at all four edges, and lines guide the eye.
_FAR = 24
_LIMITS = ("low", "high")
_SHARES_RGB = (0.13, 0.46, 0.62)


@dataclass(frozen=True)
class ClassScore:
    """Test chips and scores of one class; a score is None where there is nothing to divide by."""

    name: str
    reference: int
    recall: float | None
    precision: float | None
    f1: float | None
    #: recall_interval, precision_interval: Wilson's
    recall_interval: Interval | None = None
    precision_interval: Interval | None = None


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
        ClassScore(
            *(name, int(n), _share(hit, n), _share(hit, m), _share(2 * hit, n + m)),
            *(wilson(int(hit), int(n)), wilson(int(hit), int(m))),
        )
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


def score_table(scores: Sequence[ClassScore]) -> CsvTable:
    """Return the scores of classes as a file."""
    limits = [f"{name}_{limit}_wilson95" for name in ("recall", "precision") for limit in _LIMITS]
    none = (None, None)
    return CsvTable(
        ["class", "test_chips", "recall", "precision", "f1", *limits],
        [
            [
                *(score.name, score.reference, score.recall, score.precision, score.f1),
                *(score.recall_interval or none),
                *(score.precision_interval or none),
            ]
            for score in scores
        ],
    )


def confusion_matrix(confusion: NDArray[np.int64], classes: list[str]) -> Plot:
    """Draw a confusion matrix, each row (class of the reference) divided by its sum."""
    num_classes = len(classes)
    shares = confusion / np.maximum(1, confusion.sum(axis=1, keepdims=True))
    cell_in, font = next(
        ((side, size) for most, side, size in _CELLS if num_classes <= most),
        (_SMALLEST_CELL_IN, 0.0),
    )

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        colors = np.empty((num_classes, num_classes, 4))
        colors[..., :3] = _SHARES_RGB
        colors[..., 3] = shares**0.8  # small shares stay visible
        axes.imshow(colors, interpolation="none", aspect="equal")
        axes.set_xticks(range(num_classes), classes, rotation=90, fontsize=7.5)
        axes.set_yticks(range(num_classes), classes, fontsize=7.5)
        if num_classes > _FAR:  # the names at one edge are too far from the other
            axes.tick_params(labeltop=True, labelright=True)
        axes.set_xlabel("predicted")
        axes.set_ylabel("reference")
        for line in range(num_classes + 1):
            # every fifth line is stronger, as a guide for the eye
            guide = num_classes > _FAR and line % 5 == 0
            color, width = (GRID, 1.0) if guide else (SURFACE, 0.8)
            if num_classes > _FAR and not guide:
                color, width = GRID, 0.35
            axes.axhline(line - 0.5, color=color, linewidth=width)
            axes.axvline(line - 0.5, color=color, linewidth=width)
        tidy(axes, grid=None)
        if font:
            for (row, column), share in np.ndenumerate(shares):
                if share >= 0.005:  # less would be written as 0
                    number = axes.text(column, row, f"{100 * share:.0f}", fontsize=font)
                    number.set(ha="center", va="center", color="white" if share > 0.55 else INK)

    right = percent_text(float(np.trace(confusion)) / max(1, int(confusion.sum())))
    classed = plural(num_classes, "class", "classes")
    label = f"Confusion matrix of {classed}, {right} on the diagonal"
    side = cell_in * num_classes + (1.7 if num_classes <= _FAR else 3.0)
    rows = [[name, *counts] for name, counts in zip(classes, confusion.tolist(), strict=True)]
    table = CsvTable(["reference \\ predicted", *classes], rows)
    return draw("confusion", label, (side, side), paint, table)
