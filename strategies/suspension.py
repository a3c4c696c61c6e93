"""Sites that answer again and again with nothing of use are asked less often.

A site of which :attr:`Suspensions.after` replies in a row were refused, were errors, or did not
come in time, is set aside for some rounds and then asked again. If that reply is of no use, too, it
is set aside for twice as long, up to a bound; an accepted one clears it. A hostile site costs the
others little this way. So does one with a full disk, which comes back by itself, and one that is
connected and never replies, which costs each round its time-out. A site whose replies are accepted
is never set aside. Flower's error for a node that is gone does not count for or against it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields

from flwr.app import Message

from strategies.checkpoints import State
from strategies.ledger import SUSPENDED, SiteEntry
from strategies.transport import RefusedReply

FIRST_ROUNDS = 2
"""Rounds of a site's first suspension."""
MOST_ROUNDS = 32
"""Rounds of the longest suspension."""

NO_REPLY_CODES = (3, 4, 5)
"""Errors that Flower itself answers with for a node that is gone, some before the time-out."""


@dataclass
class Record:
    """What is held against a site: failures since the last accepted reply, and suspensions.

    ``refused`` counts replies that were refused, were errors, or did not come in time. ``until`` is
    the last round of the present or the last suspension, ``rounds`` its length.
    """

    refused: int = 0
    rounds: int = 0
    until: int = 0


@dataclass
class Suspensions:
    """Decides which sites are not asked in a round.

    ``after`` is the number of failures in a row that suspends a site; 0: none is suspended.
    """

    after: int = 0
    records: dict[str, Record] = field(default_factory=dict)

    def sites(self, server_round: int) -> set[str]:
        """Return the sites that are set aside in a round."""
        return {name for name, record in self.records.items() if record.until >= server_round}

    def absent(self, server_round: int, connected: Collection[str], needed: int) -> set[str]:
        """Return which connected sites not to ask in a round.

        At least ``needed`` are asked, or all there are: a suspension must not cost the quorum.
        Those that are due first are asked first.
        """
        suspended = self.sites(server_round).intersection(connected)
        num_missing = max(1, needed) - (len(connected) - len(suspended))
        if num_missing > 0:
            order = sorted(suspended, key=lambda name: (self.records[name].until, name))
            suspended -= set(order[:num_missing])
        return suspended

    def observe(
        self, server_round: int, entries: Mapping[str, SiteEntry], replies: Mapping[str, Message]
    ) -> list[SiteEntry]:
        """Learn from the entries of a round, by site; return an entry for each new suspension."""
        started = []
        for name, entry in sorted(entries.items()):
            reply = replies.get(name)
            if entry.accepted:
                self.records.pop(name, None)
            elif self.after and not _is_gone(reply):
                record = self.records.setdefault(name, Record())
                record.refused += 1
                if record.refused >= self.after:
                    record.rounds = min(MOST_ROUNDS, 2 * record.rounds or FIRST_ROUNDS)
                    record.until = server_round + record.rounds
                    reason = f"set aside for {record.rounds} rounds: {entry.reason}"
                    started.append(SiteEntry(server_round, name, phase=SUSPENDED, reason=reason))
        return started

    def state(self) -> State:
        """Return the records, by site."""
        names = [each.name for each in fields(Record)]
        return State(
            values={
                name: {site: getattr(record, name) for site, record in self.records.items()}
                for name in names
            }
        )

    def restore(self, state: State) -> None:
        """Continue from what :meth:`state` returned."""
        columns = {each.name: state.counts(each.name) for each in fields(Record)}
        self.records = {
            site: Record(**{name: column[site] for name, column in columns.items()})
            for site in columns["refused"]
        }


def _is_gone(reply: Message | None) -> bool:
    """Return whether Flower says that it has lost the node."""
    if reply is None or isinstance(reply, RefusedReply):
        return False
    return reply.has_error() and reply.error.code in NO_REPLY_CODES
