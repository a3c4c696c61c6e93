"""The figures of a comparison as CSV, a line a run, and as a Markdown table, a line a method."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fl_app.compare.trials import Trial
from rsdgc.durable import replace_text
from strategies.round_log import human_bytes

Rows = Sequence[tuple[Trial, dict[str, Any]]]

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
    "num_sites",
    "seconds",
    "dataset",
    "model",
)
QUARTERS = (0.25, 0.5, 0.75)


def write_csv(path: Path, rows: Rows) -> None:
    """Write one line a run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["method", "budget", "seed", *COLUMNS])
    for trial, summary in rows:
        figures = [summary[column] for column in COLUMNS]
        writer.writerow([trial.label, trial.budget, trial.seed, *figures])
    replace_text(path, text.getvalue())


def write_markdown(path: Path, rows: Rows) -> None:
    """Write one line a method and budget: means over the seeds, and their standard deviation."""
    lines = [
        "| method | budget | accuracy after ¼, ½, ¾ and all rounds | balanced | up | down "
        "| fewer up | in total | seeds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (label, budget), runs in by_method(rows).items():
        accuracy = [run["accuracy"] for run in runs]
        before = [_mean([_at(run["history"], share) for run in runs]) for share in QUARTERS]
        spread = f" ± {statistics.stdev(accuracy):.3f}" if len(runs) > 1 else ""
        curve = " ".join(f"{value:.3f}" for value in before)
        lines.append(
            f"| {label} | {budget} | {curve} **{_mean(accuracy):.3f}**{spread} "
            f"| {_mean([run['balanced_accuracy'] for run in runs]):.3f} "
            f"| {human_bytes(_mean([run['bytes_up'] for run in runs]))} "
            f"| {human_bytes(_mean([run['bytes_down'] for run in runs]))} "
            f"| {_mean([run['compression_up'] for run in runs]):.1f}× "
            f"| {_mean([run['compression_total'] for run in runs]):.2f}× | {len(runs)} |"
        )
    replace_text(path, "\n".join(lines) + "\n")


def by_method(rows: Rows) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the summaries of each method and budget, in the order asked for."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for trial, summary in rows:
        if summary["accuracy"] is not None:
            found.setdefault((trial.label, trial.budget), []).append(summary)
    return found


def _at(history: Sequence[float | None], share: float) -> float:
    """Return the accuracy after a share of the rounds, or the last one known before."""
    known = [value for value in history[: round(share * (len(history) - 1)) + 1] if value]
    return known[-1] if known else 0.0


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values)
