"""Accuracy of every method against all the bytes it sent, both directions, as a plot."""

from __future__ import annotations

import io
import statistics
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from fl_app.compare.table import Rows, by_method
from rsdgc.durable import replace_text

MARKERS = "osD^vP*X<>"


def write_plot(path: Path, rows: Rows) -> None:
    """Write the plot as SVG: a point a method and budget, bars of one standard deviation."""
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    series: dict[str, list[tuple[float, float, float]]] = {}
    for (label, _), runs in by_method(rows).items():
        accuracy = [100 * run["accuracy"] for run in runs]
        spread = statistics.stdev(accuracy) if len(runs) > 1 else 0.0
        sent = statistics.fmean(run["bytes_up"] + run["bytes_down"] for run in runs)
        series.setdefault(label, []).append((sent / 1e6, statistics.fmean(accuracy), spread))
    for number, (label, points) in enumerate(series.items()):
        x, y, bars = zip(*sorted(points), strict=True)
        marker = MARKERS[number % len(MARKERS)]
        axes.errorbar(x, y, yerr=bars, label=label, marker=marker, capsize=3, linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("bytes sent in the whole run, both directions (MB)")
    axes.set_ylabel("accuracy of the final model (%)")
    axes.grid(visible=True, which="both", alpha=0.25)
    if series:
        axes.legend(fontsize="small")
    text = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "rsdgc"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    replace_text(path, text.getvalue())
