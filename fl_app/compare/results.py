"""The figures of a comparison: a CSV line a run, a Markdown line a method, and a plot."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
from matplotlib.figure import Figure

from data_prep.pictures.csv_table import CsvTable
from fl_app.compare.trials import Trial
from fl_app.runs.records import ModalityScores, Run, read_run
from rsdgc.durable import replace_text
from strategies.round_log import human_bytes

Rows = Sequence[tuple[Trial, Run]]


class MethodName(NamedTuple):
    """What the runs of a comparison that differ in their seeds alone have in common."""

    label: str
    budget: str

    @property
    def text(self) -> str:
        """The method, its settings and its budget in one line."""
        return " ".join(filter(None, [self.label, self.budget.replace("x", "×")]))


COLUMNS = (
    "accuracy",
    "balanced_accuracy",
    "kappa",
    "bytes_up",
    "bytes_down",
    "compression_up",
    "compression_down",
    "compression_total",
    "rounds",
    "server_momentum",
    "num_sites",
    "seconds",
    "dataset",
    "model",
)
"""Fields of :class:`fl_app.runs.records.RunSummary` in the CSV file."""
QUARTERS = (0.25, 0.5, 0.75)
"""Shares of the rounds after which the table shows the accuracy, beside the final one."""
MARKERS = "osD^vP*X<>"


def read_rows(out: Path, trials: Sequence[Trial]) -> Rows:
    """Read the runs of trials that are complete."""
    return [(trial, read_run(out / trial.folder)) for trial in trials]


def write_results(out: Path, rows: Rows) -> None:
    """Write ``compare.csv``, ``compare.md`` and ``compare.svg`` of complete runs."""
    write_csv(out / "compare.csv", rows)
    write_markdown(out / "compare.md", rows)
    write_plot(out / "compare.svg", rows)


def write_csv(path: Path, rows: Rows) -> None:
    """Write one line a run."""
    lines = [
        [trial.label, trial.budget, trial.seed]
        + [getattr(run.summary, column) for column in COLUMNS]
        for trial, run in rows
    ]
    replace_text(path, CsvTable(["method", "budget", "seed", *COLUMNS], lines).text)


def write_markdown(path: Path, rows: Rows) -> None:
    """Write one line a method and budget: means over the seeds, and their standard deviation.

    If sites have different modalities, a second table has the scores by modality.
    """
    lines = [
        "| method | budget | server momentum | accuracy after ¼, ½, ¾ and all rounds | balanced "
        "| up | down | fewer up | in total | seeds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (label, budget), seeds in by_method(rows).items():
        runs = list(seeds.values())
        accuracy = [run.summary.accuracy or 0.0 for run in runs]
        means = {
            name: statistics.fmean(getattr(run.summary, name) for run in runs)
            for name in (
                *("balanced_accuracy", "bytes_up", "bytes_down"),
                *("compression_up", "compression_total"),
            )
        }
        curve = " ".join(
            f"{statistics.fmean(_accuracy_after(run, share) for run in runs):.3f}"
            for share in QUARTERS
        )
        spread = f" ± {statistics.stdev(accuracy):.3f}" if len(runs) > 1 else ""
        lines.append(
            f"| {label} | {budget} | {momentum_text(runs)} "
            f"| {curve} **{statistics.fmean(accuracy):.3f}**{spread} "
            f"| {means['balanced_accuracy']:.3f} "
            f"| {human_bytes(means['bytes_up'])} | {human_bytes(means['bytes_down'])} "
            f"| {means['compression_up']:.1f}× | {means['compression_total']:.2f}× "
            f"| {len(runs)} |"
        )
    replace_text(path, "\n".join([*lines, *_modality_lines(rows)]) + "\n")


def _modality_lines(rows: Rows) -> list[str]:
    """Return a line a method, budget and the sites with the same modalities; none if all have."""
    groups: dict[tuple[str, str, str], list[ModalityScores]] = {}
    for (label, budget), seeds in by_method(rows).items():
        for run in seeds.values():
            for group in run.summary.by_modalities:
                key = label, budget, ", ".join(group.modalities)
                groups.setdefault(key, []).append(group)
    lines = [
        "",
        "| method | budget | sites that have | accuracy | balanced | kappa | seeds |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, scores in groups.items():
        means = [
            statistics.fmean(getattr(group, name) for group in scores)
            for name in ("accuracy", "balanced_accuracy", "kappa")
        ]
        figures = " | ".join(f"{mean:.3f}" for mean in means)
        lines.append(f"| {' | '.join(key)} | {figures} | {len(scores)} |")
    return lines if groups else []


def write_plot(path: Path, rows: Rows) -> None:
    """Plot accuracy against all bytes sent, as SVG.

    There is a point a method and budget, with a bar of one standard deviation over the seeds.
    """
    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    series: dict[str, list[tuple[float, float, float]]] = {}
    for (label, _), seeds in by_method(rows).items():
        runs = list(seeds.values())
        accuracy = [100 * (run.summary.accuracy or 0.0) for run in runs]
        spread = statistics.stdev(accuracy) if len(runs) > 1 else 0.0
        sent = statistics.fmean(run.summary.bytes_up + run.summary.bytes_down for run in runs)
        series.setdefault(label, []).append((sent / 1e6, statistics.fmean(accuracy), spread))
    for number, (label, points) in enumerate(series.items()):
        x, y, bars = zip(*sorted(points), strict=True)
        marker = MARKERS[number % len(MARKERS)]
        axes.errorbar(x, y, yerr=bars, label=label, marker=marker, capsize=3, linewidth=1)
    axes.set_xscale("log")  # methods differ by orders of magnitude
    axes.set_xlabel("bytes sent in the whole run, both directions (MB)")
    axes.set_ylabel("accuracy of the final model (%)")
    axes.grid(visible=True, which="both", alpha=0.25)
    if series:
        axes.legend(fontsize="small")
    text = io.StringIO()
    # Without the salt and the date the same figures give the same file.
    with mpl.rc_context({"svg.hashsalt": "rsdgc"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    replace_text(path, text.getvalue())


def momentum_text(runs: Sequence[Run]) -> str:
    """Return the server momentum of runs, or each if they differ; empty where none is recorded."""
    known = {run.summary.server_momentum for run in runs} - {None}
    return ", ".join(sorted(f"{momentum:g}" for momentum in known))


def by_method(rows: Rows) -> dict[MethodName, dict[int, Run]]:
    """Return the scored runs of each method and budget, by seed, in the order of the rows."""
    runs: dict[MethodName, dict[int, Run]] = {}
    for trial, run in rows:
        if run.summary.accuracy is not None:
            runs.setdefault(MethodName(trial.label, trial.budget), {})[trial.seed] = run
    return runs


def _accuracy_after(run: Run, share: float) -> float:
    """Return the accuracy after a share of the rounds, or the last one known before."""
    last = round(share * (len(run.history) - 1))
    known = [entry.accuracy for entry in run.history[: last + 1] if entry.accuracy is not None]
    return known[-1] if known else 0.0
