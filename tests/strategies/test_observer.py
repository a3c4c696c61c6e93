"""Who watches a run is told of its messages, replies and rounds, in their order."""

from __future__ import annotations

from collections.abc import Sequence

from strategies.ledger import RoundEntry
from strategies.model_record import to_record
from strategies.observer import Observers, RunObserver
from tests.strategies.fake_sites import (
    NAMES,
    SPEC,
    FakeSites,
    initial_weights,
    loopback,
    rs_dgc,
)


class Diary(RunObserver):
    def __init__(self) -> None:
        self.lines: list[tuple[object, ...]] = []

    def messages_sent(self, phase: str, server_round: int, sites: Sequence[str]) -> None:
        self.lines.append((phase, server_round, *sites))

    def site_replied(self, site: str) -> None:
        self.lines.append((site,))

    def round_ended(self, entry: RoundEntry, last_round: int) -> None:
        self.lines.append(("end", entry.round, last_round, entry.sites))


def test_messages_replies_and_rounds_are_told_in_their_order() -> None:
    strategy, first, second = rs_dgc(), Diary(), Diary()
    strategy.observer = Observers(first, second)
    grid, arrays = loopback(FakeSites()), to_record(initial_weights(), SPEC)
    strategy.start(grid, arrays, num_rounds=2, timeout=5.0)
    replies = [(name,) for name in NAMES]
    assert first.lines == [
        *(("train", 1, *NAMES), *replies, ("end", 1, 2, len(NAMES))),
        *(("train", 2, *NAMES), *replies, ("end", 2, 2, len(NAMES))),
        *(("evaluate", 2, *NAMES), *replies),
    ]
    assert second.lines == first.lines
