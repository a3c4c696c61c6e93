"""Sums over the byte ledger: per site, per round, and what was refused."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from fl_app.runs.records import Run
from strategies.ledger import ROLL_CALL, TRAIN, SiteEntry


@dataclass
class SiteTotal:
    """What one site sent and received over the whole run, refused uploads included."""

    site: str
    bytes_up: int = 0
    bytes_down: int = 0
    #: bytes up of each group of layers, headers included
    up_by_group: Counter[str] = field(default_factory=Counter)
    #: accepted, refused, silent: rounds in which its upload was accepted, was refused, or did
    #: not come
    accepted: int = 0
    refused: int = 0
    silent: int = 0
    clipped: int = 0  #: rounds in which the model took a share of its update only
    num_examples: int = 0  #: training samples that it reported last

    def add(self, entry: SiteEntry) -> None:
        """Count one more round of this site."""
        self.bytes_up += entry.bytes_up
        self.bytes_down += entry.bytes_down
        self.up_by_group.update(entry.up_by_group)
        self.accepted += entry.accepted and entry.phase == TRAIN
        self.silent += entry.silent
        self.clipped += entry.clipped
        self.refused += entry.refused and not entry.silent
        self.num_examples = entry.num_examples or self.num_examples


def site_totals(run: Run) -> list[SiteTotal]:
    """Return the totals of every site, in the data's order; a site never asked has zeros."""
    totals = {site: SiteTotal(site) for site in run.sites}
    for entry in run.site_entries:
        if entry.phase != ROLL_CALL:
            totals[entry.site].add(entry)
    return list(totals.values())


def refusals_by_round(run: Run) -> dict[int, list[SiteEntry]]:
    """Return, by round, the sites whose upload was refused or missing."""
    rounds: dict[int, list[SiteEntry]] = {}
    for entry in run.site_entries:
        if entry.refused:
            rounds.setdefault(entry.round, []).append(entry)
    return rounds


def refusals_by_reason(run: Run) -> list[tuple[str, int]]:
    """Count refused or missing uploads by reason, most frequent first."""
    counts = Counter(run.summary.refused)
    if not counts:  # an older run, whose reasons only the ledger has
        counts.update(
            entry.reason or ("no reply" if entry.silent else "no reason recorded")
            for entry in run.site_entries
            if entry.refused
        )
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def train_losses(run: Run) -> dict[int, float]:
    """Return, by round, the mean loss of training over the chips of the sites that reported one."""
    sums: dict[int, tuple[float, int]] = {}
    for entry in run.site_entries:
        if entry.accepted and entry.phase == TRAIN and entry.train_loss is not None:
            loss, chips = sums.get(entry.round, (0.0, 0))
            weight = max(1, entry.num_examples)
            sums[entry.round] = (loss + entry.train_loss * weight, chips + weight)
    return {number: loss / chips for number, (loss, chips) in sums.items()}
