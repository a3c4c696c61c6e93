"""Curves of a comparison: means over the seeds, and the range between the seeds' extremes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from data_prep.number_format import percent_text
from data_prep.pictures.csv_table import CsvTable
from data_prep.pictures.plot import INK, Plot, draw, tidy
from fl_app.compare.results import MethodName
from fl_app.report.learning_curves import byte_ticks, round_axis
from fl_app.runs.records import Run

Methods = Mapping[MethodName, Mapping[int, Run]]

#: Okabe and Ito's colors that show on light and dark pages; with dashes after the sixth.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b58900")
DASHES = ("-", "--", ":", "-.")
MARKERS = "os^DvP"

_SIZE_IN = (5.4, 3.4)


@dataclass(frozen=True)
class _Curves:
    """Values of a method by round, [seeds, rounds]; NaN where nothing was recorded."""

    rounds: NDArray[np.int64]
    sent: NDArray[np.float64]  #: bytes since the start, both directions
    values: NDArray[np.float64]


def style(number: int) -> dict[str, str]:
    """Return the color, dash and marker of a method by its place in the comparison."""
    return {
        "color": COLORS[number % len(COLORS)],
        "linestyle": DASHES[number // len(COLORS) % len(DASHES)],
    }


def by_round(methods: Methods, field: str, key: str, title: str) -> Plot | None:
    """Draw a figure of the rounds against the rounds; None where no run recorded it."""
    curves = {name: _curves(list(runs.values()), field) for name, runs in methods.items()}
    curves = {name: each for name, each in curves.items() if np.isfinite(each.values).any()}
    if not curves:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for number, (name, each) in enumerate(curves.items()):
            _band(axes, each.rounds, each.values, name.text, number)
        round_axis(axes)
        _finish(axes, field, title)

    return draw(key, f"{title} against rounds", _SIZE_IN, paint, _table(curves, field))


def by_bytes(methods: Methods) -> Plot | None:
    """Draw accuracy against the bytes sent in both directions; None where nothing was scored."""
    curves = {name: _curves(list(runs.values()), "accuracy") for name, runs in methods.items()}
    curves = {name: each for name, each in curves.items() if np.isfinite(each.values).any()}
    if not curves:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.set_xscale("log")
        for number, (name, each) in enumerate(curves.items()):
            sent = each.sent.mean(axis=0)
            shown = sent > 0  # the axis has no place for 0 bytes
            _band(axes, sent[shown], each.values[:, shown], name.text, number)
        axes.set_xlabel("bytes in both directions since the start, all sites")
        byte_ticks(axes)
        _finish(axes, "accuracy", "accuracy")

    label = "Accuracy against the bytes sent"
    return draw("by-bytes", label, _SIZE_IN, paint, _table(curves, "accuracy"))


def final_accuracies(methods: Methods) -> Plot:
    """Draw the final accuracy of every run, and each method's mean and standard deviation."""
    rows = [
        (name, {seed: run.summary.accuracy or 0.0 for seed, run in runs.items()})
        for name, runs in methods.items()
    ]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for place, (_, scores) in enumerate(rows):
            values = list(scores.values())
            mean, color = fmean(values), style(place)["color"]
            if len(values) > 1:
                sd = stdev(values)
                axes.plot(
                    [mean - sd, mean + sd], [place, place], color=color, linewidth=5, alpha=0.3
                )
            axes.plot(values, [place] * len(values), "o", color=color, markersize=4.5, alpha=0.8)
            axes.plot([mean], [place], "|", color=INK, markersize=15, markeredgewidth=2)
        axes.set_yticks(range(len(rows)), [name.text for name, _ in rows])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=" %"))
        axes.set_xlabel("accuracy of the final model")
        tidy(axes, grid="x")
        axes.spines["left"].set_visible(False)

    label = "Final accuracy: " + ", ".join(
        f"{name.text} {percent_text(fmean(scores.values()))}" for name, scores in rows
    )
    table = CsvTable(
        ["method", "budget", "seed", "accuracy"],
        [[*name, seed, score] for name, scores in rows for seed, score in scores.items()],
    )
    return draw("final", label, (5.4, 0.9 + 0.32 * len(rows)), paint, table)


def _curves(runs: list[Run], field: str) -> _Curves:
    """Return a method's curves up to the last round that all its runs have."""
    length = min(len(run.history) for run in runs)
    lines = [run.history[:length] for run in runs]
    sent = [np.cumsum([line.bytes_up + line.bytes_down for line in each]) for each in lines]
    return _Curves(
        np.array([line.round for line in lines[0]]),
        np.array(sent, np.float64),
        np.array([[getattr(line, field) for line in each] for each in lines], np.float64),
    )


def _band(
    axes: Axes, x: NDArray[np.generic], values: NDArray[np.float64], name: str, number: int
) -> None:
    """Draw the mean over the seeds, and the range of the seeds around it."""
    known = np.isfinite(values).all(axis=0)
    if not known.any():
        return
    x, values = x[known], values[:, known]
    look = style(number)
    if len(values) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(x, low, high, color=look["color"], alpha=0.16, linewidth=0)
    axes.plot(
        x,
        values.mean(axis=0),
        color=look["color"],
        linestyle=look["linestyle"],
        label=name,
        marker=MARKERS[number % len(MARKERS)],
        markevery=max(1, len(x) // 6),
        markersize=4,
        linewidth=1.6,
    )


def _finish(axes: Axes, field: str, title: str) -> None:
    if field == "accuracy":
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_ylabel(title)
    tidy(axes)
    axes.legend(loc="best", fontsize=7.5)


def _table(curves: Mapping[MethodName, _Curves], field: str) -> CsvTable:
    rows = []
    for name, each in curves.items():
        for i, number in enumerate(each.rounds.tolist()):
            values = each.values[:, i]
            if np.isfinite(values).all():
                shown = [float(f(values)) for f in (np.mean, np.min, np.max)]
                rows.append([*name, number, float(each.sent[:, i].mean()), *shown, len(values)])
    columns = ["method", "budget", "round", "bytes_mean"]
    columns += [f"{field}_{part}" for part in ("mean", "min", "max")]
    return CsvTable([*columns, "seeds"], rows)
