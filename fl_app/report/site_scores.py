"""Scores of the final model at each site, with their intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from data_prep.number_format import percent_text
from data_prep.pictures.csv_table import CsvTable
from data_prep.pictures.plot import GRID, INK, MUTED, UP, Plot, draw, tidy
from fl_app.report.intervals import Interval, wilson
from fl_app.runs.records import Run
from strategies.ledger import EVALUATE

#: Sites that are drawn; those with the most test chips are kept.
MAX_SITES = 40
#: Cells of the recall by site and class that stay legible.
MAX_CELLS = 900

_RECALL_RGB = (0.13, 0.46, 0.62)


@dataclass(frozen=True)
class SiteScore:
    """Scores on one site's test chips; None where the run recorded none."""

    site: str
    num_test: int | None
    accuracy: float | None
    interval: Interval | None  #: Wilson's, of the accuracy
    balanced_accuracy: float | None = None
    kappa: float | None = None


def site_scores(run: Run) -> list[SiteScore]:
    """Return the scores of every site, in the data's order.

    Folders of older versions have the accuracies alone, without counts of chips.
    """
    counted = {scores.site: scores for scores in run.summary.by_site}
    final = {
        entry.site: entry.accuracy
        for entry in run.site_entries
        if entry.phase == EVALUATE and entry.accepted
    }
    rows = []
    for site in run.sites:
        scores = counted.get(site)
        if scores is None:
            rows.append(SiteScore(site, None, final.get(site), None))
            continue
        limits = wilson(sum(scores.correct), scores.num_test)
        shown = (scores.accuracy, limits, scores.balanced_accuracy, scores.kappa)
        rows.append(SiteScore(site, scores.num_test, *shown))
    return rows


def score_table(rows: list[SiteScore]) -> CsvTable:
    """Return the scores of sites as a file."""
    columns = ["site", "test_chips", "accuracy", "accuracy_low_wilson95", "accuracy_high_wilson95"]
    return CsvTable(
        [*columns, "balanced_accuracy", "kappa"],
        [
            [
                *(row.site, row.num_test, row.accuracy),
                *(row.interval or (None, None)),
                *(row.balanced_accuracy, row.kappa),
            ]
            for row in rows
        ],
    )


def accuracy_by_site(run: Run) -> Plot | None:
    """Draw each site's accuracy with its interval, and that of all; None for fewer than two."""
    rows = [row for row in site_scores(run) if row.accuracy is not None]
    kept = {row.site for row in sorted(rows, key=lambda row: -(row.num_test or 0))[:MAX_SITES]}
    rows = [row for row in rows if row.site in kept]
    if len(rows) < 2:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        if run.summary.accuracy is not None:
            axes.axvline(run.summary.accuracy, color=MUTED, linewidth=1, linestyle=(0, (2, 2)))
        for place, row in enumerate(rows):
            if row.interval is not None:
                axes.plot(row.interval, [place, place], color=UP, linewidth=2.4)
            axes.plot([row.accuracy or 0.0], [place], "o", color=INK, markersize=4.5)
        names = [r.site if r.num_test is None else f"{r.site}  ({r.num_test:,})" for r in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlim(0, 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        axes.set_xlabel("accuracy")
        tidy(axes, grid="x")
        axes.spines["left"].set_visible(False)

    label = "Accuracy by site: " + ", ".join(
        f"{row.site} {percent_text(row.accuracy)}" for row in rows
    )
    height = 0.9 + 0.27 * len(rows)
    return draw("site-accuracy", label, (5.4, height), paint, score_table(rows))


def recall_by_site_and_class(run: Run) -> Plot | None:
    """Draw the recall of each class at each site; None if not recorded, or too many to read."""
    sites, classes = run.summary.by_site, run.classes
    if len(sites) < 2 or len(sites) * len(classes) > MAX_CELLS:
        return None
    reference = np.array([scores.reference for scores in sites])
    correct = np.array([scores.correct for scores in sites])
    recall = np.divide(
        correct, reference, out=np.full(reference.shape, np.nan), where=reference > 0
    )

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.imshow(_shades(recall), interpolation="none", aspect="auto")
        axes.set_xticks(range(len(classes)), classes, rotation=90, fontsize=7.5)
        axes.set_yticks(range(len(sites)), [scores.site for scores in sites], fontsize=7.5)
        for (row, column), share in np.ndenumerate(recall):
            known = bool(np.isfinite(share))
            text = f"{100 * share:.0f}" if known else "–"
            color = "white" if known and share > 0.55 else INK if known else MUTED
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=color)
        for line in range(len(sites) + 1):
            axes.axhline(line - 0.5, color=GRID, linewidth=0.6)
        tidy(axes, grid=None)

    label = f"Recall of {len(classes)} classes at {len(sites)} sites, in percent"
    rows = [
        [scores.site, name, scores.reference[i], scores.correct[i], scores.predicted[i]]
        for scores in sites
        for i, name in enumerate(classes)
    ]
    table = CsvTable(["site", "class", "test_chips", "correct", "predicted"], rows)
    size = (min(10.2, 1.6 + 0.36 * len(classes)), 1.5 + 0.25 * len(sites))
    return draw("site-recall", label, size, paint, table)


def _shades(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    colors = np.empty((*shares.shape, 4))
    colors[..., :3] = _RECALL_RGB
    colors[..., 3] = np.nan_to_num(shares) ** 0.8  # small shares stay visible
    return colors
