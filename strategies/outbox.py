"""Who was sent what, whose reply is whose, and what it all weighed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from logging import WARNING

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common import log

from strategies import messages
from strategies.downlink import Download
from strategies.ledger import SiteEntry, content_bytes
from strategies.sites import SiteInfo
from strategies.transport import PendingReplies

Value = (
    bool | int | float | str | bytes
    | list[bool] | list[int] | list[float] | list[str] | list[bytes]
)  # fmt: skip
ConfigFields = dict[str, Value]
"""Entries of a config record, as Flower takes them."""

LATE_REPLY = "late reply"
"""Reason of an upload that came after its round had ended."""


@dataclass(frozen=True)
class SentMessage:
    """One message to a site."""

    message: Message
    card: SiteInfo
    round: int
    kind: str


class Outbox:
    """The letters of one round, and those of earlier ones that nobody has answered.

    Attributes
    ----------
    letters : list of Letter
        One a site, in the order sent.
    entries : dict of str to SiteEntry
        What the ledger is to know of each site, by name.
    overdue : Overdue
        Letters of earlier rounds without a reply.
    """

    def __init__(self) -> None:
        self.letters: list[SentMessage] = []
        self.entries: dict[str, SiteEntry] = {}
        self.overdue = PendingReplies()
        self.ttl_s: float | None = None
        self._followed: list[SentMessage] = []
        self._earlier: dict[str, SentMessage] = {}

    def begin(self, phase: str) -> None:
        """Start a round; what of the last one is unanswered is overdue from now on."""
        before = {_id(letter): letter for letter in self.letters + self._followed}
        self._earlier |= before
        self._earlier = {i: self._earlier[i] for i in self.overdue.waiting & self._earlier.keys()}
        self.letters, self.entries, self._followed = [], {}, []
        self._phase = phase

    def write(
        self, kind: str, card: SiteInfo, number: int, task: ConfigFields, parcel: Download
    ) -> None:
        """Add a letter to a site that has none yet in this round."""
        self.entries[card.name] = SiteEntry(number, card.name, 0, phase=self._phase)
        self.letters.append(self._letter(kind, card, number, task, parcel))

    def write_again(
        self, letter: SentMessage, task: ConfigFields, parcel: Download, reply: Message
    ) -> Message:
        """Answer a reply that asks for the whole model."""
        entry = self.entries[letter.card.name]
        asked, before = content_bytes(reply.content), entry.bytes_down
        entry.bytes_up += asked
        entry.resynced = True
        again = self._letter(letter.kind, letter.card, letter.round, task, parcel)
        entry.bytes_resync += asked + entry.bytes_down - before
        self._followed.append(again)
        return again.message

    def by_site(self, replies: Iterable[Message]) -> dict[str, Message]:
        """Return the first reply to each site's letter; what answers no letter is left aside."""
        owners = {_id(letter): letter.card.name for letter in self.letters + self._followed}
        found: dict[str, Message] = {}
        for reply in replies:
            name = owners.get(reply.metadata.reply_to_message_id)
            if name is not None:
                found.setdefault(name, reply)
        return found

    def late(self) -> list[SiteEntry]:
        """Return entries of the replies that came too late; their sites take the uploads back."""
        entries = []
        for reply in self.overdue.arrived:
            letter = self._earlier.pop(reply.metadata.reply_to_message_id, None)
            if letter is None or reply.has_error():
                continue
            entry = SiteEntry(letter.round, letter.card.name, 0, phase="late", reason=LATE_REPLY)
            entry.bytes_up = content_bytes(reply.content)
            log(WARNING, "%s refused: %s to round %d", entry.site, LATE_REPLY, entry.round)
            entries.append(entry)
        self.overdue.arrived.clear()
        return sorted(entries, key=lambda entry: (entry.round, entry.site))

    def _letter(
        self, kind: str, card: SiteInfo, number: int, task: ConfigFields, parcel: Download
    ) -> SentMessage:
        content = RecordDict({messages.TASK: ConfigRecord(task)})
        if parcel.arrays is not None:
            content[messages.MODEL] = parcel.arrays
        message = Message(
            content=content, message_type=kind, dst_node_id=card.node_id, ttl=self.ttl_s
        )
        self.entries[card.name].send(parcel.groups, content_bytes(content))
        return SentMessage(message, card, number, kind)


def _id(letter: SentMessage) -> str:
    return letter.message.metadata.message_id
