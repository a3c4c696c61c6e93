"""What a run knows of Flower's nodes: their registered names, who was asked, and who is left out.

A node has a **registered name** if its public key was registered under one, as ``rsdgc server
register`` does. Only the server's operator can do that, so the name is as good as the key. A node
without one is that of a simulation, or of a SuperLink without node authentication.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from logging import WARNING

from flwr.app import Message
from flwr.common import log
from flwr.serverapp import Grid

from rsdgc.errors import RunError
from rsdgc.plain_text import MAX_NAME, is_plain, plain_line
from strategies.transport import PendingReplies, expected_replies

REFUSED_POLL_S = 20.0
"""A refused node is asked again after this time: in a deployment that costs it a process.

The time doubles, up to :data:`REFUSED_POLL_MOST_S`, as long as the reason stays the same.
"""
REFUSED_POLL_MOST_S = 60.0
NODE = "node "
"""Begins what a node without a usable name is called; its number follows."""
MOST_LISTED = 20
"""Sites that are named in a message, of those that one reason keeps from a run."""


class JoinRefused(RunError):  # noqa: N818  # an outcome that is counted, not a failure
    """A node cannot take part as it is; the other sites can do without it.

    The ``reason`` is the kind, without names and figures. The text of the error says more.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class LeftOut:
    """A node that takes no part: what it is called, the kind of the reason, and the reason."""

    name: str
    reason: str
    detail: str


class NodeBook:
    """Flower's nodes by number, as far as a run has seen them.

    Parameters
    ----------
    registered_only : bool
        Whether a node without a registered name is refused.
    """

    def __init__(self, *, registered_only: bool = False) -> None:
        self.registered_only = registered_only
        #: all registered names seen, also of nodes that are away: no other node may take them
        self.registered: set[str] = set()
        self.left_out: dict[int, LeftOut] = {}  #: the nodes that are refused now
        self.news: list[LeftOut] = []  #: refusals that the ledger does not have yet
        self._names: dict[int, str] = {}
        self._asked: set[int] = set()
        self._queries = PendingReplies()
        self._asked_by: dict[str, int] = {}  # the node by the id of the message to it
        self._ask_again_at: dict[int, float] = {}
        self._pause_s: dict[int, float] = {}  # before a refused node is asked again
        self._present: set[int] = set()  # the nodes that were connected at the last look

    def connected(self, grid: Grid) -> set[int]:
        """Return the connected nodes, and learn their registered names."""
        infos = list(grid.get_nodes())
        self._names |= {info.node_id: info.name for info in infos if info.name}
        self.registered.update(self._names.values())
        present = {info.node_id for info in infos}
        for node in self._ask_again_at.keys() & (present - self._present):
            self._ask_again_at[node] = -math.inf  # it was away: its site may have been mended
        self._present = present
        return present

    def registered_name(self, node: int) -> str:
        """Return a node's registered name; empty if it has none."""
        return self._names.get(node, "")

    def label(self, node: int, claimed: Iterable[str] = (), taken: Iterable[str] = ()) -> str:
        """Return what to call a node: its registered name, or the one that it claims.

        It is called by its number if the claimed name is that of another site.
        """
        own, names = self.registered_name(node), list(claimed)
        if own:
            return f"site {plain_line(own, MAX_NAME)}"
        free = len(names) == 1 and names[0] not in {*taken, *self.registered}
        return f"site {names[0]}" if free and is_plain(names[0]) else f"{NODE}{node}"

    # ---- who is asked ---------------------------------------------------------------------------

    def due(self, nodes: Iterable[int]) -> list[int]:
        """Return the nodes to ask now: new ones, and those refused some time ago, sorted."""
        now = time.monotonic()
        return sorted(
            node
            for node in nodes
            if node not in self._asked or self._ask_again_at.get(node, math.inf) <= now
        )

    def asked(self, node: int) -> None:
        """Note that a node was asked now: one that does not answer is not due again at once."""
        self._asked.add(node)
        if node in self._ask_again_at:
            self._ask_again_at[node] = time.monotonic() + self._pause_s[node]

    def expect(self, message_ids: Sequence[str], queries: Sequence[Message]) -> None:
        """Expect answers to the messages that were sent: those with an id."""
        for message_id, query in zip(message_ids, queries, strict=False):
            if message_id:
                self.asked(query.metadata.dst_node_id)
                self._asked_by[message_id] = query.metadata.dst_node_id
        self._queries.expect(expected_replies(message_ids, queries))

    @property
    def waiting(self) -> set[int]:
        """The nodes that were asked and have not answered."""
        return {self._asked_by[message_id] for message_id in self._queries.waiting}

    def answered_by(self, nodes: Iterable[int]) -> bool:
        """Return whether each of some nodes was asked and has answered; False if there are none."""
        named = set(nodes)
        return bool(named) and named <= self._asked - self.waiting

    def collect(self, grid: Grid) -> Iterator[tuple[int, Message]]:
        """Yield the answers that have arrived, by node."""
        self._queries.poll(grid)
        arrived, self._queries.arrived = self._queries.arrived, []
        for reply in arrived:
            yield self._asked_by.pop(reply.metadata.reply_to_message_id), reply

    # ---- who is refused -------------------------------------------------------------------------

    def refuse(self, node: int, name: str, refusal: JoinRefused) -> None:
        """Leave a node out; log it if the reason is new. It is asked again after some time."""
        entry = LeftOut(name, refusal.reason, plain_line(str(refusal)))
        pause_s = min(2 * self._pause_s.get(node, 0.0), REFUSED_POLL_MOST_S)
        if self.left_out.get(node) != entry:
            log(WARNING, "%s is left out: %s: %s", name, entry.reason, entry.detail)
            self.news.append(entry)
            pause_s = REFUSED_POLL_S
        self.left_out[node] = entry
        self._pause_s[node] = pause_s
        self._ask_again_at[node] = time.monotonic() + pause_s

    def miss(self, node: int, detail: str) -> None:
        """Leave out a node that has not answered; it is not asked again, and may still answer."""
        self.refuse(node, self.label(node), JoinRefused("no answer", detail))
        del self._ask_again_at[node]

    def admit(self, node: int) -> None:
        """Forget that a node was refused: it has joined."""
        self.left_out.pop(node, None)
        self._ask_again_at.pop(node, None)
        self._pause_s.pop(node, None)

    def summary(self) -> str:
        """Return who is left out and why as a part of a message; empty if nobody is."""
        groups: dict[str, list[str]] = {}
        for entry in self.names_left_out():
            groups.setdefault(f"{entry.reason}: {entry.detail}", []).append(entry.name)
        listed = "; ".join(f"{_listed(names)} ({why})" for why, names in groups.items())
        return f"left out: {listed}; " if listed else ""

    def names_left_out(self) -> list[LeftOut]:
        """Return who is left out, sorted by name."""
        return list(dict.fromkeys(self._sorted()))

    def _sorted(self) -> list[LeftOut]:
        return sorted(self.left_out.values(), key=lambda entry: (entry.name, entry.reason))


def _listed(labels: Sequence[str]) -> str:
    """List what :meth:`NodeBook.label` calls some nodes; several that have only numbers: how many.

    Those numbers are Flower's, random ones of 19 digits.
    """
    numbered = [label for label in labels if label.startswith(NODE)]
    texts = [label for label in labels if label not in numbered]
    if len(texts) > MOST_LISTED:
        texts[MOST_LISTED:] = [f"{len(texts) - MOST_LISTED} more sites"]
    if numbered:
        texts.append(numbered[0] if len(numbered) == 1 else f"{len(numbered)} nodes")
    return ", ".join(texts)
