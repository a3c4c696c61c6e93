"""Accuracy against rounds, and against the bytes sent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, PercentFormatter

from data_prep.pictures.number_format import bytes_text, bytes_tick, percent_text
from fl_app.report.ledger_totals import cumulative_bytes, refusals_by_round
from fl_app.report.svg import BAD, INK, MUTED, SURFACE, UP, draw, tidy

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fl_app.runs.records import Run

_SIZE_IN = (5.4, 3.3)
# With more rounds, markers run together.
_MANY_ROUNDS = 12


def accuracy_by_round(run: Run) -> Markup:
    """Draw accuracy, balanced accuracy and kappa of the global model after each round."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        rounds = [line.round for line in run.history]
        curves = (
            ("accuracy", [line.accuracy for line in run.history], INK, "-", 2.0),
            ("balanced accuracy", [line.balanced_accuracy for line in run.history], UP, "-", 1.4),
            ("kappa", [line.kappa for line in run.history], MUTED, "--", 1.2),
        )
        marker = "o" if len(rounds) <= _MANY_ROUNDS else ""
        for name, scores, color, dash, width in curves:
            if any(_known(score) for score in scores):
                axes.plot(
                    rounds,
                    _gaps(scores),
                    dash,
                    color=color,
                    linewidth=width,
                    label=name,
                    marker=marker,
                    markersize=3.5,
                )
        _mark_refusals(axes, run)
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _percent_axis(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")

    final = percent_text(run.summary.accuracy)
    label = f"Accuracy of the global model after each of {run.summary.rounds} rounds, {final} last"
    return draw("rounds", label, _SIZE_IN, paint)


def accuracy_by_bytes(run: Run) -> Markup | None:
    """Draw accuracy against cumulative bytes, and mark dense FedAvg's bytes for the same rounds.

    Returns
    -------
    Markup or None
        None when no round sent anything.
    """
    up, total = cumulative_bytes(run)
    if not total or total[-1] <= 0:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        scores = _gaps([line.accuracy for line in run.history])
        for name, sums, color in (("uploads alone", up, UP), ("both directions", total, INK)):
            points = [(x, y) for x, y in zip(sums, scores, strict=True) if x > 0]
            marker = "o" if len(points) <= _MANY_ROUNDS else ""
            axes.plot(*_columns(points), color=color, label=name, marker=marker, markersize=3.5)
            axes.plot(*_columns(points[-1:]), "o", color=color, markersize=5)
        axes.set_xscale("log")
        _percent_axis(axes)
        _mark_dense(axes, run)
        axes.set_xlabel("bytes on the wire since the start, all sites")
        axes.xaxis.set_major_locator(LogLocator(subs=_subdivisions(axes)))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda _value, _position: ""))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: bytes_tick(value)))
        axes.legend(loc="best")

    label = (
        f"Accuracy against bytes on a logarithmic axis: {bytes_text(total[-1])} in both directions"
        f" at the end, where dense FedAvg sends {bytes_text(_dense_total(run))}"
    )
    return draw("bytes", label, _SIZE_IN, paint)


def _dense_total(run: Run) -> int:
    return run.summary.dense_bytes_up + run.summary.dense_bytes_down


def _known(score: float | None) -> bool:
    return score is not None and math.isfinite(score)


def _gaps(scores: list[float | None]) -> list[float]:
    """Return the scores with NaN, which matplotlib leaves out, for those not recorded."""
    return [math.nan if score is None else score for score in scores]


def _columns(points: list[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _percent_axis(axes: Axes) -> None:
    """Scale the axis from 0 to a little above 100 %; below 0 only where a kappa is."""
    low = min(0.0, axes.get_ylim()[0])
    axes.set_ylim(low if low < -0.05 else 0.0, 1.02)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    tidy(axes)


def _mark_refusals(axes: Axes, run: Run) -> None:
    """Put a mark on the axis under each round with an upload refused or missing."""
    rounds = sorted(refusals_by_round(run))
    if rounds:
        axes.plot(
            rounds,
            [0.015] * len(rounds),
            linestyle="",
            marker="^",
            markersize=4.5,
            color=BAD,
            label="upload refused or missing",
            transform=axes.get_xaxis_transform(),
        )


def _mark_dense(axes: Axes, run: Run) -> None:
    """Mark dense FedAvg's bytes in both directions and make room for the mark."""
    dense = _dense_total(run)
    if dense <= 0:
        return
    axes.axvline(dense, color=INK, linewidth=1.1, linestyle=(0, (2, 2)))
    low, high = axes.get_xlim()
    axes.set_xlim(low, max(high, dense * 1.6))  # room for the line at the right edge
    axes.annotate(
        f"dense FedAvg,\nsame rounds\n{bytes_text(dense)}",
        (dense, 0.04),
        xytext=(-5, 0),
        textcoords="offset points",
        ha="right",
        va="bottom",
        color=INK,
        fontsize=8,
        bbox={"facecolor": SURFACE, "edgecolor": "none", "pad": 1.5},
    )


def _subdivisions(axes: Axes) -> tuple[float, ...]:
    """Return more tick marks per decade where the axis spans few decades."""
    low, high = axes.get_xlim()
    return (1.0, 2.0, 5.0) if math.log10(high / low) < 2.2 else (1.0,)
