"""Where the time of a run went: before the rounds, in each round, and after them.

A round is as long as its slowest reply. So its time is split along the site that answered last:
the wait until tasks were sent, that site's work, the rest until its reply was here (both transfers,
and in a simulation the wait for a free processor), and the server's work afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data_prep.pictures.csv_table import CsvTable
from data_prep.pictures.number_format import seconds_text
from data_prep.pictures.plot import DOWN, GRID, MUTED, QUIET, UP, Plot, draw, tidy
from fl_app.runs.records import Run
from strategies.ledger import EVALUATE, TRAIN, RoundEntry, SiteEntry

#: Parts of a round, in their order, with the color of their bars.
PARTS = {
    "wait": (MUTED, "waiting for sites"),
    "work": (UP, "work of the last site"),
    "transfer": (DOWN, "its transfers and waits"),
    "server": (QUIET, "server"),
}
UNSPLIT = (GRID, "not split")

_SIZE_IN = (10.2, 2.5)


@dataclass(frozen=True)
class RoundTime:
    """Seconds of one round; those of its parts are None where they were not recorded."""

    round: int
    total: float
    wait: float | None = None
    work: float | None = None
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
        for part, (color, name) in PARTS.items():
            heights = np.array([getattr(time, part) or 0.0 for time in times])
            if heights.any():
                axes.bar(x, heights, 0.82, bottom=bottom, color=color, label=name)
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
        figure.legend(loc="outside upper left", ncols=5, fontsize=8, handlelength=1.0)

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
    server = max(0.0, line.seconds - wait - reply)
    return RoundTime(line.round, line.seconds, wait, work, reply - work, server, last.site)
