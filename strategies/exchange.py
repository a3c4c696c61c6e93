"""Send messages to sites and collect what comes back, knowing who did not answer.

Flower's own ``send_and_receive`` looks for replies every three seconds and says nothing of those
that never came. This one looks more often and returns a result for every message sent.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from flwr.app import Message
from flwr.serverapp import Grid

FASTEST_POLL_S = 0.1
SLOWEST_POLL_S = 2.0

_WRAPPING = re.compile(r"^(<class '[^']*'>:<'|Exception \w+ occurred\. Message: )+|'>$")


def exchange(grid: Grid, messages: Sequence[Message], timeout_s: float) -> list[Message | None]:
    """Send all messages and wait for their replies.

    Parameters
    ----------
    grid : Grid
        Flower's connection to the nodes.
    messages : sequence of Message
        What to send; a node may get several.
    timeout_s : float
        Longest wait for all replies, seconds.

    Returns
    -------
    list of Message or None
        The reply to each message, in the order sent; None where nothing came in time, or where
        the message could not be sent. A reply may carry an error instead of content.
    """
    if not messages:
        return []
    ids = list(grid.push_messages(list(messages)))
    ids += [""] * (len(messages) - len(ids))
    waiting = {message_id for message_id in ids if message_id}
    replies: dict[str, Message] = {}
    deadline = time.monotonic() + timeout_s
    poll_s = FASTEST_POLL_S
    while waiting:
        arrived = list(grid.pull_messages(list(waiting)))
        for reply in arrived:
            replies.setdefault(reply.metadata.reply_to_message_id, reply)
        waiting -= replies.keys()
        if not waiting or time.monotonic() >= deadline:
            break
        poll_s = FASTEST_POLL_S if arrived else min(poll_s * 1.3, SLOWEST_POLL_S)
        time.sleep(poll_s)
    return [replies.get(message_id) if message_id else None for message_id in ids]


def last_line(reason: str | None) -> str:
    r"""Return what went wrong, in one line, of an error that Flower has wrapped.

    >>> last_line("<class 'X'>:<'\nException X occurred. Message: no chips'>")
    'no chips'
    """
    lines = [line.strip() for line in (reason or "").splitlines() if line.strip()]
    return _WRAPPING.sub("", lines[-1]) if lines else "no reason given"
