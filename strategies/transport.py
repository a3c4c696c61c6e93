"""Send messages to sites and collect what comes back, knowing who did not answer.

Flower's own ``send_and_receive`` looks for replies every three seconds and says nothing of those
that never came. This one looks more often and returns a result for every message sent. A reply
may be answered within the same call, and one that comes after its call is still recognised.

An upload as pieces small enough for a thin link.

Flower 1.41 sends an array in chunks of 5 MiB, two side by side. It gives up a reply of which no
chunk has arrived for three minutes, and repeats a request that was not answered in 30 s, whose
second copy it then refuses: over a thin link a large upload, and its site's round, are lost. Two
pieces of an eighth of a mebibyte take 21 s at 0.1 Mbit/s.
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
from strategies import messages

FASTEST_POLL_S = 0.1
SLOWEST_POLL_S = 2.0

MAX_ERROR_LENGTH = 1000
"""Characters: Ray tells of the whole machine's memory where a worker was ended for want of it."""

FollowUp = Callable[[int, Message], Message | None]

_WRAPPING = re.compile(r"^(<class '[^']*'>:<'|Exception \w+ occurred\. Message: )+|'>$")


@dataclass
class PendingReplies:
    """Messages of earlier calls that nobody has answered, and what came for them since.

    Attributes
    ----------
    waiting : set of str
        Ids of the messages.
    arrived : list of Message
        Late replies, for the caller to look at and clear.
    """

    waiting: set[str] = field(default_factory=set)
    arrived: list[Message] = field(default_factory=list)

    def look(self, grid: Grid) -> None:
        """Collect what has come."""
        for reply in grid.pull_messages(list(self.waiting)) if self.waiting else ():
            if reply.metadata.reply_to_message_id in self.waiting:
                self.waiting.remove(reply.metadata.reply_to_message_id)
                self.arrived.append(reply)


def send_and_receive(
    grid: Grid,
    messages: Sequence[Message],
    timeout_s: float,
    *,
    follow_up: FollowUp | None = None,
    overdue: PendingReplies | None = None,
) -> list[Message | None]:
    """Send all messages and wait for their replies.

    Parameters
    ----------
    grid : Grid
        Flower's connection to the nodes.
    messages : sequence of Message
        What to send; a node may get several.
    timeout_s : float
        Longest wait for all replies, seconds.
    follow_up : callable, optional
        Gets the position of a message and its reply; a message that it returns is sent in
        answer, and what comes back to that takes the reply's place.
    overdue : Overdue, optional
        Where messages without a reply are remembered; its older ones are looked for here.

    Returns
    -------
    list of Message or None
        The reply to each message, in the order sent; None where nothing came in time, or where
        the message could not be sent. A reply may carry an error instead of content.
    """
    replies: list[Message | None] = [None] * len(messages)
    positions = _push(grid, dict(enumerate(messages)))
    deadline = time.monotonic() + timeout_s
    poll_s = FASTEST_POLL_S
    while positions:
        arrived = list(grid.pull_messages(list(positions)))
        answers: dict[int, Message] = {}
        for reply in arrived:
            index = positions.pop(reply.metadata.reply_to_message_id, None)
            if index is None:
                continue
            answer = None if follow_up is None else follow_up(index, reply)
            if answer is None:
                replies[index] = reply
            else:
                answers[index] = answer
        positions |= _push(grid, answers)
        if overdue is not None:
            overdue.look(grid)
        if not positions or time.monotonic() >= deadline:
            break
        poll_s = FASTEST_POLL_S if arrived else min(poll_s * 1.3, SLOWEST_POLL_S)
        time.sleep(poll_s)
    if overdue is not None:
        overdue.waiting |= positions.keys()
    return replies


def error_summary(reason: str | None) -> str:
    r"""Return what went wrong, in one line of bounded length, of an error that Flower wrapped.

    >>> last_line("<class 'X'>:<'\nException X occurred. Message: no chips'>")
    'no chips'
    """
    lines = [line.strip() for line in (reason or "").splitlines() if line.strip()]
    reason = _WRAPPING.sub("", lines[-1]) if lines else "no reason given"
    if len(reason) <= MAX_ERROR_LENGTH:
        return reason
    return reason[: MAX_ERROR_LENGTH - 2].rsplit(" ", 1)[0] + " …"


def _push(grid: Grid, messages: dict[int, Message]) -> dict[str, int]:
    """Send messages, each under a position; return the positions of their ids."""
    if not messages:
        return {}
    ids = list(grid.push_messages(list(messages.values())))
    return {sent: index for sent, index in zip(ids, messages, strict=False) if sent}


UPLOAD_CHUNK_BYTES = 128 * 1024
MAX_UPLOAD_CHUNKS = 8192
"""As many as 1 GiB has; more is refused before anything is joined."""


def chunk_upload(payload: bytes) -> ArrayRecord:
    """Return an encoded upload as the arrays of a reply.

    Parameters
    ----------
    payload : bytes
        The upload.

    Returns
    -------
    ArrayRecord
        One array named ``packed``, where one piece holds it; else ``packed-0000`` and so on.
    """
    content = np.frombuffer(payload, dtype=np.uint8)
    if content.size <= UPLOAD_CHUNK_BYTES:
        return ArrayRecord({messages.PACKED: Array(content)})
    starts = range(0, content.size, UPLOAD_CHUNK_BYTES)
    pieces = (Array(content[start : start + UPLOAD_CHUNK_BYTES]) for start in starts)
    return ArrayRecord(dict(zip(_names(len(starts)), pieces, strict=True)))


def join_upload(record: ArrayRecord) -> bytes:
    """Return what :func:`chunk_upload` was given.

    Raises
    ------
    WireError
        The arrays are not pieces of an upload.
    """
    names = [messages.PACKED] if len(record) == 1 else _names(min(len(record), MAX_UPLOAD_CHUNKS))
    if not names or set(record) != set(names):
        msg = f"the arrays are {', '.join(list(record)[:3]) or 'none'}, not one packed upload"
        raise WireError(msg)
    return b"".join(_content(record[name]) for name in names)


def _content(array: Array) -> bytes:
    try:
        values = array.numpy()
    except (ValueError, TypeError, OSError, EOFError) as error:
        msg = f"an array cannot be read ({error})"
        raise WireError(msg) from None
    if values.dtype != np.uint8 or values.ndim != 1:
        msg = f"an array is {values.dtype}{list(values.shape)}, not bytes"
        raise WireError(msg)
    return values.tobytes()


def _names(count: int) -> list[str]:
    return [f"{messages.PACKED}-{number:04}" for number in range(count)]
