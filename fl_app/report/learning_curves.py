"""Accuracy and loss against rounds, and accuracy against the bytes sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from data_prep.number_format import bytes_text, bytes_tick, percent_text
from data_prep.pictures.csv_table import CsvTable
from data_prep.pictures.plot import BAD, DOWN, INK, MUTED, SURFACE, UP, Plot, draw, tidy
from fl_app.report.intervals import wilson
from fl_app.report.ledger_totals import refusals_by_round, train_losses
from fl_app.runs.records import Run

_SIZE_IN = (5.4, 3.3)
# With more rounds, markers run together.
_MANY_ROUNDS = 12


@dataclass(frozen=True)
class _Curve:
    """A line of a figure; values that are None or NaN were not recorded."""

    name: str
    column: str  #: of the table
    values: Sequence[float | None]
    color: str
    dash: str = "-"
    width: float = 1.6

    @property
    def known(self) -> NDArray[np.float64]:
        return np.array(self.values, np.float64)  # None becomes NaN

    def plot(self, axes: Axes, x: Sequence[float] | NDArray[np.float64]) -> None:
        values = self.known
        scored = np.isfinite(values)  # not every round, by evaluate-every
        if not scored.any():
            return
        axes.plot(
            np.array(x)[scored],
            values[scored],
            self.dash,
            color=self.color,
            linewidth=self.width,
            label=self.name,
            marker="o" if scored.sum() <= _MANY_ROUNDS else "",
            markersize=3.5,
        )


def accuracy_by_round(run: Run, baseline: Run | None = None) -> Plot:
    """Draw accuracy, balanced accuracy and kappa of the global model after each round.

    The band around the accuracy is its Wilson interval where the count of test chips is known.
    """
    rounds = [line.round for line in run.history]
    curves = [
        _Curve("accuracy", "accuracy", [e.accuracy for e in run.history], INK, width=2.0),
        _Curve(
            "balanced accuracy", "balanced_accuracy", [e.balanced_accuracy for e in run.history], UP
        ),
        _Curve("kappa", "kappa", [e.kappa for e in run.history], MUTED, "--", 1.2),
        _Curve(
            "validation, balanced accuracy",
            "val_balanced_accuracy",
            [e.val_balanced_accuracy for e in run.history],
            UP,
            ":",
        ),
    ]
    limits = [
        wilson(e.accuracy * e.num_test, e.num_test) if e.accuracy is not None else None
        for e in run.history
    ]
    other = _baseline_curve(baseline, "accuracy", rounds)

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        banded = [i for i, interval in enumerate(limits) if interval is not None]
        if banded:
            low, high = zip(*(limits[i] or (0.0, 0.0) for i in banded), strict=True)
            band = [rounds[i] for i in banded]
            axes.fill_between(band, low, high, color=INK, alpha=0.1, linewidth=0)
        for curve in [*other, *curves]:
            curve.plot(axes, rounds)
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
        round_axis(axes)
        _percent_axis(axes)
        _legend(axes)

    final = percent_text(run.summary.accuracy)
    label = f"Accuracy of the global model after each of {run.summary.rounds} rounds, {final} last"
    table = _table(rounds, [*curves, *other])
    low_high = [[None, None] if limit is None else list(limit) for limit in limits]
    rows = [[*row, *pair] for row, pair in zip(table.rows, low_high, strict=True)]
    columns = [*table.columns, "accuracy_low_wilson95", "accuracy_high_wilson95"]
    return draw("rounds", label, _SIZE_IN, paint, CsvTable(columns, rows))


def loss_by_round(run: Run, baseline: Run | None = None) -> Plot | None:
    """Draw the cross-entropy of training, test and validation; None where none was recorded.

    That of a round's training is the mean over the chips that its sites trained on. The sites'
    models change meanwhile, so that it is not the loss of one model.
    """
    rounds = [line.round for line in run.history]
    training = train_losses(run)
    curves = [
        _Curve("test", "test_loss", [e.loss for e in run.history], INK, width=2.0),
        _Curve("training", "train_loss", [training.get(r) for r in rounds], DOWN),
        _Curve("validation", "val_loss", [e.val_loss for e in run.history], UP, ":"),
    ]
    other = _baseline_curve(baseline, "loss", rounds)
    if not any(np.isfinite(curve.known).any() for curve in curves):
        return None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for curve in [*other, *curves]:
            curve.plot(axes, rounds)
        round_axis(axes)
        axes.set_ylabel("cross-entropy, nats")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(MaxNLocator(5))
        tidy(axes)
        _legend(axes)

    label = f"Training and test loss over {run.summary.rounds} rounds"
    return draw("loss", label, _SIZE_IN, paint, _table(rounds, [*curves, *other]))


def accuracy_by_bytes(run: Run, baseline: Run | None = None) -> Plot | None:
    """Draw accuracy against the bytes so far, and dense FedAvg's; None if nothing was sent.

    Dense FedAvg is a mark at the bytes that it would have sent, or the curve of ``baseline``.
    """
    up = np.cumsum([line.bytes_up for line in run.history])
    both = up + np.cumsum([line.bytes_down for line in run.history])
    if not both.any():
        return None
    dense = run.summary.dense_bytes_up + run.summary.dense_bytes_down
    scores = np.array([line.accuracy for line in run.history], np.float64)
    series = [("uploads alone", up, scores, UP), ("both directions", both, scores, INK)]
    if baseline is not None:
        other = np.array([line.accuracy for line in baseline.history], np.float64)
        sums = np.cumsum([line.bytes_up + line.bytes_down for line in baseline.history])
        series.append((f"{name_of(baseline)}, both directions", sums, other, MUTED))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for name, sums, values, color in series:
            scored = np.isfinite(values)
            # The axis has no place for 0 bytes.
            shown = (sums > 0) & (scored if scored.any() else True)
            x, y = sums[shown], values[shown]
            marker = "o" if len(x) <= _MANY_ROUNDS else ""
            axes.plot(x, y, color=color, label=name, marker=marker, markersize=3.5)
            axes.plot(x[-1:], y[-1:], "o", color=color, markersize=5)
        axes.set_xscale("log")
        _percent_axis(axes)
        if dense > 0 and baseline is None:
            _mark_dense(axes, dense)
        axes.set_xlabel("bytes on the wire since the start, all sites")
        byte_ticks(axes)
        _legend(axes)

    label = (
        f"Accuracy against bytes on a logarithmic axis: {bytes_text(int(both[-1]))} in both "
        f"directions at the end, where dense FedAvg sends {bytes_text(dense)}"
    )
    rows = [
        [name, line.round, int(total), _number(score)]
        for (name, sums, values, _), lines in zip(
            series,
            [run.history, run.history, baseline.history if baseline else []],
            strict=False,
        )
        for line, total, score in zip(lines, sums, values, strict=True)
    ]
    table = CsvTable(["curve", "round", "bytes", "accuracy"], rows)
    return draw("bytes", label, _SIZE_IN, paint, table)


def name_of(run: Run) -> str:
    """Name a run in a legend: its method, and the run folder."""
    return f"{run.summary.method} ({run.folder.resolve().name})"


def byte_ticks(axes: Axes) -> None:
    """Write the ticks of bytes, once the limits of the axis are known."""
    low, high = axes.get_xlim()
    # Where the axis spans few decades, their ends alone would be too few ticks.
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 160 else (1,)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(lambda value, _: bytes_tick(value))


def _baseline_curve(baseline: Run | None, field: str, rounds: Iterable[int]) -> list[_Curve]:
    if baseline is None:
        return []
    values = {line.round: getattr(line, field) for line in baseline.history}
    name = name_of(baseline)
    return [_Curve(name, f"baseline_{field}", [values.get(r) for r in rounds], MUTED, "-", 1.4)]


def _table(rounds: Sequence[int], curves: Sequence[_Curve]) -> CsvTable:
    shown = [curve for curve in curves if np.isfinite(curve.known).any()]
    columns = ["round", *(curve.column for curve in shown)]
    values = [curve.known for curve in shown]
    return CsvTable(
        columns, [[number, *(_number(v[i]) for v in values)] for i, number in enumerate(rounds)]
    )


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def round_axis(axes: Axes) -> None:
    """Let x be the number of a round."""
    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")


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
