"""What a strategy tells of a run while it goes on."""

from __future__ import annotations

from collections.abc import Sequence

from strategies.ledger import RoundEntry


class RunObserver:
    """Is told of the messages and the rounds of a run; this one does nothing.

    A subclass overrides what it wants to know. The run waits while a method works, and ends if it
    raises an exception: a method must be quick, and keep its failures to itself.
    """

    def messages_sent(self, phase: str, server_round: int, sites: Sequence[str]) -> None:
        """Note that messages of a round, or of the final evaluation (``evaluate``), go out."""

    def site_replied(self, site: str) -> None:
        """Note that one of these sites has replied; its reply has not been checked yet."""

    def round_ended(self, entry: RoundEntry, last_round: int) -> None:
        """Note a round of so many: the ledger has it, but for the scores of its model."""


class Observers(RunObserver):
    """Passes on what it is told, in the order of ``members``."""

    def __init__(self, *members: RunObserver) -> None:
        self._members = members

    def messages_sent(self, phase: str, server_round: int, sites: Sequence[str]) -> None:
        """Pass it on."""
        for member in self._members:
            member.messages_sent(phase, server_round, sites)

    def site_replied(self, site: str) -> None:
        """Pass it on."""
        for member in self._members:
            member.site_replied(site)

    def round_ended(self, entry: RoundEntry, last_round: int) -> None:
        """Pass it on."""
        for member in self._members:
            member.round_ended(entry, last_round)
