"""Sums over the byte ledger: per site, per round, and what was refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fl_app.runs.records import Run
from strategies.ledger import SiteEntry


@dataclass
class SiteTotal:
    """What one site sent and received over the whole run, refused uploads included.

    Attributes
    ----------
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
