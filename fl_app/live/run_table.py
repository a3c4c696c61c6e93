"""A run as lines of a terminal: bars for the run and its round, tables of rounds and sites."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fl_app.live.progress import Progress, SiteProgress
from rsdgc.time_text import human_seconds, time_left
from strategies.ledger import RoundEntry
from strategies.round_log import human_bytes

LEAST_NAME = 8
"""Characters of a site's name, or of its state, that stay on the narrowest terminal."""
MISSING = "–"

HEAD_LINES = 3
TABLE_LINES = 2
"""An empty line, and the titles of a table."""
GAP = 2
"""Spaces between two columns."""

_STATE_STYLES = {"at work": "cyan", "replied": "green", "accepted": "green", MISSING: "dim"}

Row = TypeVar("Row")


@dataclass(frozen=True)
class LiveColumn(Generic[Row]):
    """A column: its title, its text, and how soon it makes way where there is no room."""

    title: str
    text: Callable[[Row], str]
    goes: int = 0  #: the highest goes first; 0 stays
    number: bool = True
    style: Callable[[Row], str] = field(default=lambda _: "")


def _times(dense: float, sent: float) -> str:
    return f"{dense / sent:.1f}×" if sent and dense else MISSING


def _decimal(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def _sites(entry: RoundEntry) -> str:
    # Ledgers of older versions do not say how many sites were asked.
    return f"{entry.sites}/{entry.asked}" if entry.asked else str(entry.sites)


ROUND_COLUMNS: Sequence[LiveColumn[RoundEntry]] = (
    LiveColumn("round", lambda entry: str(entry.round)),
    LiveColumn("sites", _sites, 4),
    LiveColumn("accuracy", lambda entry: _decimal(entry.accuracy)),
    LiveColumn("balanced", lambda entry: _decimal(entry.balanced_accuracy), 8),
    LiveColumn("loss", lambda entry: _decimal(entry.loss), 2),
    LiveColumn("up", lambda entry: human_bytes(entry.bytes_up), 7),
    LiveColumn("fewer", lambda entry: _times(entry.dense_bytes_up, entry.bytes_up), 7),
    LiveColumn("down", lambda entry: human_bytes(entry.bytes_down), 6),
    LiveColumn("fewer", lambda entry: _times(entry.dense_bytes_down, entry.bytes_down), 6),
    LiveColumn("sent", lambda entry: human_bytes(entry.bytes_up + entry.bytes_down), 1),
    LiveColumn(
        "fewer",
        lambda entry: _times(
            entry.dense_bytes_up + entry.dense_bytes_down, entry.bytes_up + entry.bytes_down
        ),
        1,
    ),
    LiveColumn("time", lambda entry: human_seconds(entry.seconds), 3),
)
"""Of the table of rounds; ``fewer`` is dense FedAvg's bytes over those at its left."""


def run_view(
    progress: Progress, width: int, height: int, *, title: str = "", whole: bool = False
) -> RenderableType:
    """Return the lines that show a run.

    Parameters
    ----------
    progress : Progress
        The run.
    width, height : int
        Of the terminal, in characters.
    title : str
        Stands before the name of the run.
    whole : bool
        Whether the lines stay when the run has ended: then all sites are shown, and as many rounds
        as fit two screens.
    """
    parts: list[RenderableType] = [_head(progress, title), _bars(progress)]
    rounds, sites = progress.ended, list(progress.sites.values())
    room = height - 1 - HEAD_LINES - 2 * TABLE_LINES
    if whole:
        num_rounds, num_sites = 2 * height, len(sites)
    else:
        num_rounds = min(len(rounds), max(room // 2, room - len(sites)))
        num_sites = room - num_rounds
    if rounds and num_rounds > 0:
        parts += [Text(""), _table(ROUND_COLUMNS, rounds[-num_rounds:], width)]
    if progress.config is not None and num_sites > 0:
        parts += _site_lines(progress, sites, num_sites, width)
    return Group(*parts)


def _head(progress: Progress, title: str) -> Text:
    names = [title] if title else []
    if progress.config is not None:
        names.append(f"{progress.config.settings.get('method')} on {progress.config.data.name}")
    names.append(progress.stage)
    return Text(" · ".join(names), style="bold", no_wrap=True, overflow="ellipsis")


def _bars(progress: Progress) -> Table:
    """Return a bar for the run, and one for the replies of its round."""
    grid = Table.grid(padding=(0, 1), expand=True)
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True, justify="right")
    left = "" if progress.seconds_left is None else time_left(progress.seconds_left)
    done = progress.ended[-1].round if progress.ended else 0
    words = [f"{done} of {progress.last_round} rounds", left]
    share = progress.share
    grid.add_row("run", _bar(share), " · ".join(filter(None, words)))
    if progress.status is not None and progress.waits_for:
        replied = len(progress.status.asked) - len(progress.waits_for)
        words = [f"{replied} of {len(progress.status.asked)} sites"]
        if progress.seconds_in_round is not None:
            words.append(human_seconds(progress.seconds_in_round))
        grid.add_row("round", _bar(progress.share_of_round), " · ".join(words))
    return grid


def _bar(share: float) -> ProgressBar:
    return ProgressBar(1.0, share, complete_style="cyan", finished_style="green")


def _site_lines(
    progress: Progress, sites: list[SiteProgress], most: int, width: int
) -> list[RenderableType]:
    at_work = set(progress.waits_for)
    hidden = max(0, len(sites) - most)
    if hidden:  # who is waited for first; a line says how many are left
        hidden += 1
        sites = sorted(sites, key=lambda site: site.name not in at_work)[: most - 1]
    replied = set(progress.status.replied) if progress.status and at_work else set()

    def state(site: SiteProgress) -> str:
        if site.name in at_work:
            return "at work"
        return "replied" if site.name in replied else site.outcome or MISSING

    def style(site: SiteProgress) -> str:
        return _STATE_STYLES.get(state(site), "yellow")

    columns: Sequence[LiveColumn[SiteProgress]] = (
        LiveColumn("site", lambda site: site.name, number=False),
        LiveColumn("state", state, number=False, style=style),
        LiveColumn("accuracy", lambda site: _decimal(site.accuracy), 2),
        LiveColumn("train loss", lambda site: _decimal(site.train_loss), 3),
        LiveColumn("up", lambda site: human_bytes(site.bytes_up), 6),
        LiveColumn("down", lambda site: human_bytes(site.bytes_down), 6),
        LiveColumn("sent", lambda site: human_bytes(site.bytes_up + site.bytes_down), 1),
        LiveColumn("fewer", lambda site: _factor(site.compression(progress.dense_bytes)), 1),
        LiveColumn("work", lambda site: _seconds(site.seconds), 4),
    )
    lines: list[RenderableType] = [Text(""), _table(columns, sites, width)]
    if hidden:
        lines.append(Text(f"and {hidden} more sites", style="dim"))
    return lines


def _factor(factor: float | None) -> str:
    return MISSING if factor is None else f"{factor:.1f}×"


def _seconds(seconds: float | None) -> str:
    return MISSING if seconds is None else human_seconds(seconds)


def _table(columns: Sequence[LiveColumn[Row]], rows: Sequence[Row], width: int) -> Table:
    """Return a table in which no number is cut: where there is no room, columns make way."""
    texts = {column: [column.text(row) for row in rows] for column in columns}
    least = {column: _least_width(column, texts[column]) for column in columns}
    kept = list(columns)
    while GAP * (len(kept) - 1) + sum(least[column] for column in kept) > width:
        goes = max(column.goes for column in kept)
        if not goes:
            break
        kept = [column for column in kept if column.goes != goes]
    table = Table(box=None, padding=(0, GAP, 0, 0), header_style="dim", pad_edge=False)
    for column in kept:
        table.add_column(
            Text(column.title),
            justify="right" if column.number else "left",
            no_wrap=True,
            overflow="ellipsis",
            min_width=least[column],
        )
    for number, row in enumerate(rows):
        cells = (Text(texts[column][number], style=column.style(row)) for column in kept)
        table.add_row(*cells)
    return table


def _least_width(column: LiveColumn[Row], texts: Sequence[str]) -> int:
    longest = max(cell_len(text) for text in (column.title, *texts))
    return longest if column.number else min(longest, LEAST_NAME)
