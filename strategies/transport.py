"""How messages reach the sites and how replies and uploads come back.

Flower's own ``send_and_receive`` looks for replies every three seconds, and does not report which
ones never came. :func:`send_and_receive` looks more often, returns one result per message, can
answer a reply within the same call, and recognizes a reply that comes after its call has ended.

Uploads travel in chunks that suit a thin link, see :data:`UPLOAD_CHUNK_BYTES`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Array, ArrayRecord, Message
from flwr.serverapp import Grid

from rsdgc.errors import WireError
from rsdgc.plain_text import plain_line
from strategies.messages import PACKED
from strategies.received_arrays import received_bytes

# While replies arrive they are fetched at the faster rate. In a quiet spell the pause grows to the
# slower one: with many sites every look is a request for all outstanding ids, and a round that
# takes minutes loses nothing by two seconds.
FASTEST_POLL_S = 0.1
SLOWEST_POLL_S = 2.0
POLL_GROWTH = 1.3

UPLOAD_CHUNK_BYTES = 128 * 1024
"""Largest array of an upload.

Flower 1.41 sends an array in objects of up to 5 MiB, two at a time. It gives a reply up if no
object has arrived for three minutes. It also repeats a request that was not answered within 30 s,
and then refuses the second copy. Over a thin link a large upload is lost this way, and the site's
round with it. Two chunks of this size take 21 s at 0.1 Mbit/s.
"""

MAX_UPLOAD_CHUNKS = 8192
"""Chunks of an upload of 1 GiB. A reply with more arrays is refused before they are joined."""

_WRAPPING = re.compile(r"^(<class '[^']*'>:<'|Exception \w+ occurred\. Message: )+|'>$")


@dataclass
class PendingReplies:
    """Ids of earlier messages without a reply, and the replies that have come since.

    The caller processes the late replies in ``arrived``, and clears them.
    """

    waiting: set[str] = field(default_factory=set)
    arrived: list[Message] = field(default_factory=list)

    def poll(self, grid: Grid) -> None:
        """Fetch the replies that have arrived."""
        if not self.waiting:
            return
        for reply in grid.pull_messages(list(self.waiting)):
            if reply.metadata.reply_to_message_id in self.waiting:
                self.waiting.remove(reply.metadata.reply_to_message_id)
                self.arrived.append(reply)


def send_and_receive(
    grid: Grid,
    messages: Sequence[Message],
    timeout_s: float,
    *,
    follow_up: Callable[[int, Message], Message | None] | None = None,
    unanswered: PendingReplies | None = None,
) -> list[Message | None]:
    """Send all messages, of which a node may get several, and wait for their replies.

    ``follow_up`` is called with the position of a message and its reply. If it returns a message,
    that is sent, and the reply to it takes the first reply's place. ``unanswered`` receives the
    ids of messages that got no reply; those that it has are polled during the wait.

    Returns
    -------
    list of Message or None
        The reply to each message, in the order sent; None if nothing came in time or the message
        could not be sent. A reply may carry an error instead of content.
    """
    replies: list[Message | None] = [None] * len(messages)
    positions = _push(grid, dict(enumerate(messages)))
    deadline = time.monotonic() + timeout_s
    poll_s = FASTEST_POLL_S
    while positions:
        arrived = list(grid.pull_messages(list(positions)))
        follow_ups: dict[int, Message] = {}
        for reply in arrived:
            index = positions.pop(reply.metadata.reply_to_message_id, None)
            if index is None:
                continue
            message = None if follow_up is None else follow_up(index, reply)
            if message is None:
                replies[index] = reply
            else:
                follow_ups[index] = message
        positions |= _push(grid, follow_ups)
        if unanswered is not None:
            unanswered.poll(grid)
        if not positions or time.monotonic() >= deadline:
            break
        poll_s = FASTEST_POLL_S if arrived else min(poll_s * POLL_GROWTH, SLOWEST_POLL_S)
        time.sleep(poll_s)
    if unanswered is not None:
        unanswered.waiting |= positions.keys()
    return replies


def error_summary(reason: str | None) -> str:
    r"""Return an error that Flower wrapped as one line of bounded length.

    >>> error_summary("<class 'X'>:<'\nException X occurred. Message: no chips'>")
    'no chips'
    """
    lines = [line.strip() for line in (reason or "").splitlines() if line.strip()]
    return plain_line(_WRAPPING.sub("", lines[-1]) if lines else "no reason given")


def chunk_upload(payload: bytes) -> ArrayRecord:
    """Return an encoded upload as the arrays of a reply.

    One array named ``packed`` if one chunk holds the upload; otherwise ``packed-0000`` and so on.
    """
    content = np.frombuffer(payload, dtype=np.uint8)
    if content.size <= UPLOAD_CHUNK_BYTES:
        return ArrayRecord({PACKED: Array(content)})
    starts = range(0, content.size, UPLOAD_CHUNK_BYTES)
    chunks = (Array(content[start : start + UPLOAD_CHUNK_BYTES]) for start in starts)
    return ArrayRecord(dict(zip(_chunk_names(len(starts)), chunks, strict=True)))


def join_upload(record: ArrayRecord) -> bytes:
    """Return the upload that :func:`chunk_upload` cut.

    Raises
    ------
    WireError
        The arrays are not the chunks of an upload.
    """
    names = [PACKED] if len(record) == 1 else _chunk_names(min(len(record), MAX_UPLOAD_CHUNKS))
    if not names or set(record) != set(names):
        arrays = ", ".join(list(record)[:3]) or "none"
        raise WireError(f"the arrays are {arrays}, not one packed upload")
    return b"".join(received_bytes(record[name]) for name in names)


def _chunk_names(count: int) -> list[str]:
    return [f"{PACKED}-{number:04}" for number in range(count)]


def _push(grid: Grid, messages: dict[int, Message]) -> dict[str, int]:
    """Send messages by position; return the position of each message id."""
    if not messages:
        return {}
    ids = list(grid.push_messages(list(messages.values())))
    # Flower returns None for a message that it could not send, or fewer ids than messages.
    return {sent: index for sent, index in zip(ids, messages, strict=False) if sent}
