"""Sums over the byte ledger: per site, per round, and what was refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fl_app.runs.records import Run, SiteRound


@dataclass
class SiteTotal:
    """What one site did over the whole run.

    Attributes
    ----------
    bytes_up, bytes_down : int
        Bytes on the wire, refused uploads included.
    up_by_group : dict
        Bytes up of each group of layers, headers included.
    accepted, refused, silent : int
        Rounds in which its upload was accepted, refused, or never came.
    num_examples : int
        Training samples it reported last.
    """

    site: str
    bytes_up: int = 0
    bytes_down: int = 0
    up_by_group: dict[str, int] = field(default_factory=dict)
    accepted: int = 0
    refused: int = 0
    silent: int = 0
    num_examples: int = 0

    def add(self, visit: SiteRound) -> None:
        """Count one more round of this site."""
        self.bytes_up += visit.bytes_up
        self.bytes_down += visit.bytes_down
        for group, count in visit.up_by_group.items():
            self.up_by_group[group] = self.up_by_group.get(group, 0) + count
        self.accepted += visit.accepted and visit.phase == "train"
        self.silent += visit.silent
        self.refused += visit.refused and not visit.silent
        self.num_examples = visit.num_examples or self.num_examples


def site_totals(run: Run) -> list[SiteTotal]:
    """Totals of every site of the run, in the data's order; a site never asked has zeros."""
    totals = {site: SiteTotal(site) for site in run.sites}
    for visit in run.visits:
        totals[visit.site].add(visit)
    return list(totals.values())


def layer_groups(totals: list[SiteTotal]) -> list[str]:
    """Names of the layer groups, in the order in which uploads list them."""
    return list(dict.fromkeys(group for total in totals for group in total.up_by_group))


def refusals_by_round(run: Run) -> dict[int, list[SiteRound]]:
    """Return the rounds with an upload refused or missing, and those visits."""
    rounds: dict[int, list[SiteRound]] = {}
    for visit in run.visits:
        if visit.refused:
            rounds.setdefault(visit.round, []).append(visit)
    return rounds


def refusals_by_reason(run: Run) -> list[tuple[str, int]]:
    """Refused or missing uploads by reason, most frequent first.

    The summary's count is taken where it has one; older runs without it are counted from the
    ledger.
    """
    counts = Counter(run.summary.refused)
    if not counts:
        missing = "no reply"
        counts.update(
            visit.reason or (missing if visit.silent else "no reason recorded")
            for visit in run.visits
            if visit.refused
        )
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def cumulative_bytes(run: Run) -> tuple[list[int], list[int]]:
    """Bytes up, and bytes in both directions, from the start to the end of each round."""
    up, total = [], []
    sum_up = sum_total = 0
    for line in run.history:
        sum_up += line.bytes_up
        sum_total += line.bytes_up + line.bytes_down
        up.append(sum_up)
        total.append(sum_total)
    return up, total
