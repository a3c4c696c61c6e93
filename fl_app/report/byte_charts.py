"""Where the bytes went: the share sent of each layer, and the bytes of each site."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from data_prep.number_format import bytes_text, bytes_tick, plural
from data_prep.pictures.csv_table import CsvTable
from data_prep.pictures.plot import DOWN, INK, MUTED, QUIET, Plot, draw, tidy
from fl_app.report.ledger_totals import SiteTotal, site_totals
from fl_app.runs.records import Run

#: Rows with which the heat map of ratios stays legible; the largest layers are kept.
MAX_LAYERS = 60
#: Sites that are drawn; those with the most bytes are kept.
MAX_SITES = 32

_LEGEND_COLUMNS = 10
_RATIO_COLORS = LinearSegmentedColormap.from_list(
    "ratios", ["#1d3557", "#2a6f97", "#4aa8a0", "#a7c957", "#f2e57c"]
)
_GROUP_COLORS = LinearSegmentedColormap.from_list(
    "groups", ["#5fbfae", "#3a93c2", "#6470c4", "#a35ba0", "#d0707a"]
)


def compressed_layers(run: Run) -> list[str]:
    """Return the layers that were sparsified in some round, in the model's order."""
    names = dict.fromkeys(name for line in run.history for name in line.ratios)
    return [name for name in names if any(line.ratios.get(name, 1.0) < 1.0 for line in run.history)]


def ratio_heat_map(run: Run) -> Plot | None:
    """Draw the share of each layer sent up, over the rounds; None if all were sent whole."""
    names = compressed_layers(run)
    if not names:
        return None
    if len(names) > MAX_LAYERS:
        sizes = {layer.name: layer.size for layer in run.config.layers}
        kept = set(sorted(names, key=lambda name: -sizes.get(name, 0))[:MAX_LAYERS])
        names = [name for name in names if name in kept]
    lines = [line for line in run.history if line.ratios]
    by_round = {line.round: line.ratios for line in lines}
    # A round without a quorum has none, and stays empty.
    rounds = range(lines[0].round, lines[-1].round + 1)
    ratios = np.array(
        [[by_round.get(number, {}).get(name, np.nan) for number in rounds] for name in names]
    )
    low = float(np.min(ratios, initial=0.5, where=ratios > 0))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        rows, first, last = len(names), rounds[0], rounds[-1]
        image = axes.imshow(
            np.ma.masked_invalid(np.where(ratios > 0, ratios, np.nan)),
            cmap=_RATIO_COLORS,
            norm=LogNorm(low, 1.0),
            aspect="auto",
            interpolation="none",
            extent=(first - 0.5, last + 0.5, rows - 0.5, -0.5),
        )
        axes.set_yticks(range(rows), names, fontsize=7.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_xlabel("round")
        tidy(axes, grid=None)
        bar = figure.colorbar(image, ax=axes, pad=0.015, aspect=max(12, 2.4 * rows), fraction=0.04)
        bar.ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        bar.ax.yaxis.set_minor_locator(NullLocator())
        bar.ax.tick_params(length=0)
        bar.outline.set_visible(False)

    label = f"Share sent of {plural(len(names), 'layer')} over {plural(len(lines), 'round')}"
    rows = [[line.round, *(line.ratios.get(name) for name in names)] for line in lines]
    table = CsvTable(["round", *names], rows)
    return draw("ratios", label, (10.2, 1.0 + 0.185 * len(names)), paint, table)


def site_bars(run: Run) -> Plot | None:
    """Draw the bytes of each site, up by group of layers and down; None if nothing was sent."""
    totals = sorted(site_totals(run), key=lambda total: -total.bytes_up - total.bytes_down)
    kept = {total.site for total in totals[:MAX_SITES]}
    totals = [total for total in site_totals(run) if total.site in kept]
    if not any(total.bytes_up or total.bytes_down for total in totals):
        return None
    up, down = [total.bytes_up for total in totals], [total.bytes_down for total in totals]

    def paint(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        _stack_up(left, totals)
        right.barh(range(len(totals)), down, 0.7, color=DOWN)
        left.set_yticks(range(len(totals)), [total.site for total in totals])
        left.invert_yaxis()
        _finish_bars(left, "up, by group of layers", up)
        _finish_bars(right, "down", down)
        figure.legend(loc="outside lower left", ncols=_LEGEND_COLUMNS, fontsize=8, handlelength=1.0)

    label = "Bytes per site: " + ", ".join(
        f"{total.site} {bytes_text(total.bytes_up)} up and {bytes_text(total.bytes_down)} down"
        for total in totals
    )
    groups = list(dict.fromkeys(group for total in totals for group in total.up_by_group))
    columns = ["site", "bytes_up", "bytes_down", *(f"up_{group}" for group in groups)]
    rows = [
        [t.site, t.bytes_up, t.bytes_down, *(t.up_by_group.get(g, 0) for g in groups)]
        for t in totals
    ]
    table = CsvTable(columns, rows)
    return draw("sites", label, (10.2, 1.35 + 0.26 * len(totals)), paint, table)


def _stack_up(axes: Axes, totals: list[SiteTotal]) -> None:
    """Stack each site's uploads by group of layers; the header is gray."""
    # In the order in which uploads list them.
    groups = list(dict.fromkeys(group for total in totals for group in total.up_by_group))
    named = [group for group in groups if group != "header"]
    colors = dict(zip(named, _GROUP_COLORS(np.linspace(0, 1, len(named))), strict=True))
    start = np.zeros(len(totals))
    for group in groups:
        widths = np.array([total.up_by_group.get(group, 0) for total in totals], dtype=np.float64)
        color = colors.get(group, MUTED)
        axes.barh(range(len(totals)), widths, 0.7, left=start, color=color, label=group)
        start += widths
    rest = np.array([total.bytes_up for total in totals]) - start
    if (rest > 0).any():
        axes.barh(range(len(totals)), rest, 0.7, left=start, color=QUIET, label="not itemized")


def _finish_bars(axes: Axes, title: str, sums: list[int]) -> None:
    """Write each bar's sum at its end and leave room for it."""
    top = max(1, *sums)
    for row, count in enumerate(sums):
        end = count + 0.015 * top
        axes.text(end, row, bytes_text(count), va="center", fontsize=7.5, color=INK)
    axes.set_xlim(0, top * 1.24)
    axes.set_title(title, loc="left", fontsize=8.5, color=MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(lambda value, _: bytes_tick(value))
    tidy(axes, grid="x")
    axes.spines["bottom"].set_visible(False)
