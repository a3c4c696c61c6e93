"""Where the time of a run went: before the rounds, in each round, and after them.

A round is as long as its slowest reply. So its time is split along the site that answered last:
the wait until tasks were sent, the steps of that site's work, the rest until its reply was here
(both transfers, and in a simulation the wait for a free processor), and the server's work
afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data_prep.number_format import seconds_text
from data_prep.pictures.csv_table import CsvTable
from data_prep.pictures.plot import DOWN, GRID, INK, MUTED, QUIET, UP, Plot, draw, tidy
from fl_app.runs.records import Run
from strategies.ledger import EVALUATE, TRAIN, RoundEntry, SiteEntry

PARTS = {
    "wait": (MUTED, 1.0, "wait"),
    "work": (UP, 1.0, "work of the last site"),
    "score": (UP, 0.45, "score"),
    "train": (UP, 1.0, "train"),
    "compress": (INK, 1.0, "compress"),
    "other": (UP, 0.2, "other work"),
    "transfer": (DOWN, 1.0, "transfer"),
    "server": (QUIET, 1.0, "server"),
}
"""Parts of a round, in their order: color and opacity of their bars, and name.

A site's work is split into score, train, compress and the rest, in which the download is applied;
runs of earlier versions recorded one time for all of it.
"""
UNSPLIT = (GRID, "not split")

_SIZE_IN = (10.2, 2.5)


@dataclass(frozen=True)
class RoundTime:
    """Seconds of one round; those of its parts are None where they were not recorded."""

    round: int
    total: float
    wait: float | None = None
    work: float | None = None
    score: float | None = None
    train: float | None = None
    compress: float | None = None
    other: float | None = None
    transfer: float | None = None
    server: float | None = None
    last_site: str = ""  #: the site that answered last


@dataclass(frozen=True)
class RunTime:
    """Seconds of a run."""

    total: float | None
    start: float | None  #: before the first round: sites join, the model is built
    rounds: float
    end: float | None  #: after the last round: the final evaluation
    site_work: float | None  #: median over all sites and rounds


def round_times(run: Run) -> list[RoundTime]:
    """Return the time of each round, ascending."""
    trained: dict[int, list[SiteEntry]] = {}
    for entry in run.site_entries:
        if entry.phase == TRAIN and entry.accepted:
            trained.setdefault(entry.round, []).append(entry)
    return [_split(line, trained.get(line.round, [])) for line in run.history if line.round]


def run_time(run: Run) -> RunTime:
    """Return the time of the run, split as far as its records tell."""
    rounds = sum(line.seconds for line in run.history)
    work = [e.seconds for e in run.site_entries if e.phase == TRAIN and e.accepted and e.seconds]
    finals = [e.reply_seconds for e in run.site_entries if e.phase == EVALUATE and e.reply_seconds]
    end, total = max(finals, default=None), run.summary.seconds
    start = None if total is None or end is None else max(0.0, total - rounds - end)
    return RunTime(total, start, rounds, end, median(work) if work else None)


def time_by_round(run: Run) -> Plot | None:
    """Draw how long each round took and with what; None without any round."""
    times = [time for time in round_times(run) if time.total > 0]
    if not times:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        x = np.array([time.round for time in times])
        bottom = np.zeros(len(times))
        for part, (color, opacity, name) in PARTS.items():
            heights = np.array([getattr(time, part) or 0.0 for time in times])
            if heights.any():
                bars = axes.bar(x, heights, 0.82, bottom=bottom, color=color, label=name)
                for bar in bars:
                    bar.set_alpha(opacity)
            bottom += heights
        rest = np.array([time.total for time in times]) - bottom
        if (rest > 0.01 * bottom.max(initial=1e-9)).any() and not bottom.any():
            axes.bar(x, rest, 0.82, color=UNSPLIT[0], label=UNSPLIT[1])
        axes.set_xlabel("round")
        axes.set_ylabel("seconds")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.set_xlim(x.min() - 0.6, x.max() + 0.6)
        tidy(axes)
        figure.legend(loc="outside upper left", ncols=7, fontsize=8, handlelength=1.0)

    median_s = seconds_text(median(time.total for time in times))
    label = f"Time of {len(times)} rounds, {median_s} each in the median"
    columns = ["round", "seconds", *(f"{part}_seconds" for part in PARTS), "last_site"]
    rows = [[t.round, t.total, *(getattr(t, part) for part in PARTS), t.last_site] for t in times]
    return draw("time", label, _SIZE_IN, paint, CsvTable(columns, rows))


def _split(line: RoundEntry, entries: list[SiteEntry]) -> RoundTime:
    replied = [entry for entry in entries if entry.reply_seconds is not None]
    if not replied:
        # folders of older versions: the longest work of a site, and what else there was
        work = max((entry.seconds for entry in entries), default=0.0)
        if not 0 < work <= line.seconds:
            return RoundTime(line.round, line.seconds)
        return RoundTime(line.round, line.seconds, work=work, transfer=line.seconds - work)
    last = max(replied, key=lambda entry: entry.reply_seconds or 0.0)
    reply = last.reply_seconds or 0.0
    work = min(last.seconds, reply)
    wait = line.wait_seconds or 0.0
    rest = {"transfer": reply - work, "server": max(0.0, line.seconds - wait - reply)}
    recorded = (last.score_seconds, last.train_seconds, last.compress_seconds)
    steps: dict[str, float] = {"work": work}
    if any(recorded):
        # A site's clock is its own, and may say more than the server's.
        shrink = work / last.seconds if last.seconds else 1.0
        score, train, compress = ((step or 0.0) * shrink for step in recorded)
        other = max(0.0, work - score - train - compress)
        steps = {"score": score, "train": train, "compress": compress, "other": other}
    return RoundTime(line.round, line.seconds, wait, **steps, **rest, last_site=last.site)


def part_totals(times: Sequence[RoundTime]) -> list[tuple[str, float, float]]:
    """Return name, seconds and share of each part over all rounds; none where nothing is split."""
    sums = {
        name: sum(getattr(time, part) or 0.0 for time in times)
        for part, (*_, name) in PARTS.items()
        if any(getattr(time, part) is not None for time in times)
    }
    total = sum(sums.values())
    return [(name, seconds, seconds / total) for name, seconds in sums.items()] if total else []
