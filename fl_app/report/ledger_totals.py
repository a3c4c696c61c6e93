"""Sums over the byte ledger: per site, per round, and what was refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fl_app.runs.records import Run
    from strategies.ledger import SiteEntry


@dataclass
class SiteTotal:
    """What one site sent and received over the whole run.

    Attributes
    ----------
    bytes_up, bytes_down : int
        Bytes on the wire, refused uploads included.
    up_by_group : Counter
        Bytes up of each group of layers, headers included.
    accepted, refused, silent : int
        Rounds in which its upload was accepted, was refused, or did not come.
    num_examples : int
        Training samples that it reported last.
    """

    site: str
    bytes_up: int = 0
    bytes_down: int = 0
    up_by_group: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    refused: int = 0
    silent: int = 0
    num_examples: int = 0

    def add(self, visit: SiteEntry) -> None:
        """Count one more round of this site."""
        self.bytes_up += visit.bytes_up
        self.bytes_down += visit.bytes_down
        self.up_by_group.update(visit.up_by_group)
        self.accepted += visit.accepted and visit.phase == "train"
        self.silent += visit.silent
        self.refused += visit.refused and not visit.silent
        self.num_examples = visit.num_examples or self.num_examples


def site_totals(run: Run) -> list[SiteTotal]:
    """Return the totals of every site, in the data's order; a site never asked has zeros."""
    totals = {site: SiteTotal(site) for site in run.sites}
    for visit in run.visits:
        totals[visit.site].add(visit)
    return list(totals.values())


def layer_groups(totals: list[SiteTotal]) -> list[str]:
    """Return the names of the layer groups, in the order in which uploads list them."""
    return list(dict.fromkeys(group for total in totals for group in total.up_by_group))


def refusals_by_round(run: Run) -> dict[int, list[SiteEntry]]:
    """Return, by round, the sites whose upload was refused or missing."""
    rounds: dict[int, list[SiteEntry]] = {}
    for visit in run.visits:
        if visit.refused:
            rounds.setdefault(visit.round, []).append(visit)
    return rounds


def refusals_by_reason(run: Run) -> list[tuple[str, int]]:
    """Count refused or missing uploads by reason, most frequent first.

    The counts are the summary's; those of older runs, whose summary has none, are the ledger's.
    """
    counts = Counter(run.summary.refused)
    if not counts:
        counts.update(
            visit.reason or ("no reply" if visit.silent else "no reason recorded")
            for visit in run.visits
            if visit.refused
        )
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def cumulative_bytes(run: Run) -> tuple[list[int], list[int]]:
    """Return bytes up, and bytes both ways, from the start to the end of each round."""
    up, total = [], []
    sum_up = sum_total = 0
    for line in run.history:
        sum_up += line.bytes_up
        sum_total += line.bytes_up + line.bytes_down
        up.append(sum_up)
        total.append(sum_total)
    return up, total
