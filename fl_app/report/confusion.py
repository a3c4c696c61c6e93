"""The confusion matrix: its chart, the scores of single classes, the most frequent mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_prep.pictures.number_format import percent_text, plural
from fl_app.report.svg import INK, SURFACE, clear_frame, draw, tidy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

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
        ClassScore(
            name,
            int(reference[i]),
            _share(right[i], reference[i]),
            _share(right[i], predicted[i]),
            _share(2 * right[i], reference[i] + predicted[i]),
        )
        for i, name in enumerate(classes)
    ]


def worst_mistakes(confusion: NDArray[np.int64], classes: Sequence[str]) -> list[Mistake]:
    """Return the pairs of classes that are confused most often, by count."""
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


def confusion_matrix(confusion: NDArray[np.int64], classes: list[str]) -> Markup:
    """Draw the confusion matrix, each row divided by its sum.

    Parameters
    ----------
    confusion : int64 [K, K]
        Rows: reference; columns: prediction.
    classes : list of str
        K names.
    """
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
        tidy(axes, grid="")
        clear_frame(axes)
        if num_classes <= _NUMBERED_CLASSES:
            _number_cells(axes, shares)

    right = percent_text(float(np.trace(confusion)) / max(1, int(confusion.sum())))
    classed = plural(num_classes, "class", "classes")
    label = f"Confusion matrix of {classed}, {right} on the diagonal"
    side = cell_in * num_classes + 1.7
    return draw("confusion", label, (side, side), paint)


def _number_cells(axes: Axes, shares: NDArray[np.float64]) -> None:
    """Write each share of at least half a percent in its cell."""
    for row, column in np.argwhere(shares >= 0.005):
        share = float(shares[row, column])
        color = "white" if share > 0.55 else INK
        text = f"{100 * share:.0f}"
        axes.text(int(column), int(row), text, ha="center", va="center", fontsize=7.5, color=color)
