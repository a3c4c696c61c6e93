"""Accuracy against rounds, and against the bytes sent."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from data_prep.pictures.number_format import bytes_text, bytes_tick, percent_text
from fl_app.report.ledger_totals import refusals_by_round
from fl_app.report.svg import BAD, INK, MUTED, SURFACE, UP, draw, tidy
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
            (
                "validation, balanced accuracy",
                [line.val_balanced_accuracy for line in run.history],
                UP,
                ":",
                1.4,
            ),
        )
        for name, recorded, color, dash, width in curves:
            scores = np.array(recorded, np.float64)  # None becomes NaN
            scored = np.isfinite(scores)  # not every round, by evaluate-every
            marker = "o" if scored.sum() <= _MANY_ROUNDS else ""
            if scored.any():
                axes.plot(
                    np.array(rounds)[scored],
                    scores[scored],
                    dash,
                    color=color,
                    linewidth=width,
                    label=name,
                    marker=marker,
                    markersize=3.5,
                )
        incomplete = sorted(refusals_by_round(run))
        if incomplete:
            axes.plot(
                incomplete,
                [0.015] * len(incomplete),
                "^",
                color=BAD,
                markersize=4.5,
                label="upload refused or missing",
                transform=axes.get_xaxis_transform(),
            )
        axes.set_xlabel("round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _percent_axis(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")

    final = percent_text(run.summary.accuracy)
    label = f"Accuracy of the global model after each of {run.summary.rounds} rounds, {final} last"
    return draw("rounds", label, _SIZE_IN, paint)


def accuracy_by_bytes(run: Run) -> Markup | None:
    """Draw accuracy against the bytes so far, and dense FedAvg's; None if nothing was sent."""
    up = np.cumsum([line.bytes_up for line in run.history])
    both = up + np.cumsum([line.bytes_down for line in run.history])
    if not both.any():
        return None
    dense = run.summary.dense_bytes_up + run.summary.dense_bytes_down

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        scores = np.array([line.accuracy for line in run.history], np.float64)
        for name, sums, color in (("uploads alone", up, UP), ("both directions", both, INK)):
            scored = np.isfinite(scores)
            # The axis has no place for 0 bytes.
            shown = (sums > 0) & (scored if scored.any() else True)
            x, y = sums[shown], scores[shown]
            marker = "o" if len(x) <= _MANY_ROUNDS else ""
            axes.plot(x, y, color=color, label=name, marker=marker, markersize=3.5)
            axes.plot(x[-1:], y[-1:], "o", color=color, markersize=5)
        axes.set_xscale("log")
        _percent_axis(axes)
        if dense > 0:
            _mark_dense(axes, dense)
        axes.set_xlabel("bytes on the wire since the start, all sites")
        low, high = axes.get_xlim()
        # Where the axis spans few decades, their ends alone would be too few ticks.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 160 else (1,)))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(lambda value, _: bytes_tick(value))
        axes.legend(loc="best")

    label = (
        f"Accuracy against bytes on a logarithmic axis: {bytes_text(int(both[-1]))} in both "
        f"directions at the end, where dense FedAvg sends {bytes_text(dense)}"
    )
    return draw("bytes", label, _SIZE_IN, paint)


def _percent_axis(axes: Axes) -> None:
    """Scale the axis from 0 to a little above 100 %; below 0 only where a kappa is."""
    low = min(0.0, axes.get_ylim()[0])
    axes.set_ylim(low if low < -0.05 else 0.0, 1.02)
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    tidy(axes)


def _mark_dense(axes: Axes, dense: int) -> None:
    """Mark dense FedAvg's bytes in both directions and make room for the mark."""
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
