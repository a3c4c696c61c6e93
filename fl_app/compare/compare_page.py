"""``compare.html``: all runs of a comparison on one page."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from data_prep.number_format import percent_text
from data_prep.pictures.html_page import render_page
from fl_app.compare.compare_template import TEMPLATE
from fl_app.compare.method_curves import Methods, by_bytes, by_round, final_accuracies, style
from fl_app.compare.method_pairs import SharedChips, method_pairs
from fl_app.compare.results import Rows, by_method, momentum_text
from fl_app.runs.records import REPORT_FILE, Run
from rsdgc.durable import replace_text


def write_page(path: Path, rows: Rows, total: int, chips: SharedChips) -> None:
    """Write the page of the runs that are complete, of ``total``."""
    methods = by_method(rows)
    if not methods:
        return
    runs = [run for _, run in rows]
    names = sorted({run.summary.dataset for run in runs})
    pairs = method_pairs(rows, chips)
    page = render_page(
        TEMPLATE,
        title=f"{len(methods)} methods on {', '.join(names)}",
        synthetic=any(run.synthetic for run in runs),
        stem=path.resolve().parent.name,
        place=", ".join(names),
        methods=list(_method_rows(methods)),
        num_seeds=max(len(seeds) for seeds in methods.values()),
        num_runs=len(rows),
        total=total,
        first=runs[0],
        pairs=pairs,
        tested=any(seed.p is not None for pair in pairs for seed in pair.seeds),
        absent=chips.absent,
        final=final_accuracies(methods),
        accuracy=by_round(methods, "accuracy", "by-round", "accuracy"),
        balanced=by_round(methods, "balanced_accuracy", "balanced", "balanced accuracy"),
        loss=by_round(methods, "loss", "loss", "test loss, nats"),
        sent=by_bytes(methods),
        runs=[(trial, run, (run.folder / REPORT_FILE).exists()) for trial, run in rows],
    )
    replace_text(path, page)


def _method_rows(methods: Methods) -> Any:
    """Yield what the table has of each method: means over the seeds."""
    for number, (name, seeds) in enumerate(methods.items()):
        runs = list(seeds.values())
        accuracy = [run.summary.accuracy or 0.0 for run in runs]
        yield {
            "name": name,
            "color": style(number)["color"],
            "momentum": momentum_text(runs),
            "accuracy": fmean(accuracy),
            "spread": f" ± {100 * stdev(accuracy):.1f}" if len(runs) > 1 else "",
            "range": f"{percent_text(min(accuracy))} to {percent_text(max(accuracy))}",
            "balanced": _mean(runs, "balanced_accuracy"),
            "kappa": _mean(runs, "kappa"),
            "up": _mean(runs, "bytes_up"),
            "down": _mean(runs, "bytes_down"),
            "fewer": _mean(runs, "compression_total"),
            "seconds": _mean(runs, "seconds"),
            "seeds": sorted(seeds),
        }


def _mean(runs: list[Run], field: str) -> float | None:
    values = [getattr(run.summary, field) for run in runs]
    known = [value for value in values if value is not None]
    return fmean(known) if known else None
