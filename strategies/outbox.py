"""What was sent to which site in the current round, and the bytes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from logging import WARNING

from flwr.app import Message
from flwr.common import log

from strategies.ledger import LATE, SiteEntry, content_bytes, error_bytes
from strategies.transport import PendingReplies

LATE_REPLY = "late reply"
"""Reason for refusing an upload that came after its round had ended."""


@dataclass(frozen=True)
class SentMessage:
    """A message to a site."""

    message: Message
    site: str
    round: int

    @property
    def id(self) -> str:
        """Flower's id of the message, which it gets when it is sent."""
        return self.message.metadata.message_id


class Outbox:
    """The messages of the current round, and unanswered ones of earlier rounds.

    ``sent`` holds this round's messages in the order sent, without follow-ups; ``entries`` the
    ledger's entry of each site, by name; ``unanswered`` what got no reply in earlier rounds.
    """

    def __init__(self) -> None:
        self.sent: list[SentMessage] = []
        self.entries: dict[str, SiteEntry] = {}
        self.unanswered = PendingReplies()
        self._follow_ups: list[SentMessage] = []
        self._earlier: dict[str, SentMessage] = {}

    def begin(self) -> None:
        """Start a round. Messages of the last one that are unanswered count as late from now on."""
        # Ids are final now: Flower sets them when messages are sent.
        self._earlier |= {sent.id: sent for sent in self.sent + self._follow_ups}
        late = self.unanswered.waiting & self._earlier.keys()
        self._earlier = {message_id: self._earlier[message_id] for message_id in late}
        self.sent, self.entries, self._follow_ups = [], {}, []

    def add(
        self, message: Message, site: str, server_round: int, phase: str, groups: Mapping[str, int]
    ) -> None:
        """Record a message of this round, with the bytes of its arrays by group of layers."""
        entry = self.entries.setdefault(site, SiteEntry(server_round, site, phase=phase))
        entry.send(groups, content_bytes(message.content))
        self.sent.append(SentMessage(message, site, server_round))

    def add_resync(
        self, index: int, reply: Message, message: Message, groups: dict[str, int]
    ) -> None:
        """Record the answer to a reply to ``sent[index]`` that asks for the whole model."""
        sent = self.sent[index]
        entry = self.entries[sent.site]
        request_bytes, answer_bytes = content_bytes(reply.content), content_bytes(message.content)
        entry.send(groups, answer_bytes)
        entry.bytes_up += request_bytes
        entry.bytes_resync += request_bytes + answer_bytes
        entry.resynced = True
        self._follow_ups.append(SentMessage(message, sent.site, sent.round))

    def replies_by_site(self, replies: Iterable[Message]) -> dict[str, Message]:
        """Return the first reply of each site; ignore what replies to no message of this round."""
        sites = {sent.id: sent.site for sent in self.sent + self._follow_ups}
        by_site: dict[str, Message] = {}
        for reply in replies:
            site = sites.get(reply.metadata.reply_to_message_id)
            if site is not None:
                by_site.setdefault(site, reply)
        return by_site

    def end(self) -> list[SiteEntry]:
        """End a round: return its entries, and those of replies to earlier rounds.

        The sites of late replies learn with the next task that their upload was not accepted, and
        add it back to their residuals.
        """
        late = []
        for reply in self.unanswered.arrived:
            sent = self._earlier.pop(reply.metadata.reply_to_message_id, None)
            if sent is None:
                continue
            entry = SiteEntry(sent.round, sent.site, phase=LATE, reason=LATE_REPLY)
            if reply.has_error():
                entry.receive_error(error_bytes(reply))
                if not entry.bytes_up:
                    continue  # Flower's own error; the round has counted "no reply"
            else:
                entry.bytes_up = content_bytes(reply.content)
            log(WARNING, "%s refused: %s to round %d", entry.site, LATE_REPLY, entry.round)
            late.append(entry)
        self.unanswered.arrived.clear()
        return [*self.entries.values(), *sorted(late, key=lambda entry: (entry.round, entry.site))]
