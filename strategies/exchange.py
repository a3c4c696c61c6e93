"""Send messages to sites and collect what comes back, knowing who did not answer.

Flower's own ``send_and_receive`` looks for replies every three seconds and says nothing of those
that never came. This one looks more often and returns a result for every message sent. A reply
may be answered within the same call, and one that comes after its call is still recognised.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from flwr.app import Message
from flwr.serverapp import Grid

FASTEST_POLL_S = 0.1
SLOWEST_POLL_S = 2.0

LONGEST_REASON = 1000
"""Characters: Ray tells of the whole machine's memory where a worker was ended for want of it."""

FollowUp = Callable[[int, Message], Message | None]

_WRAPPING = re.compile(r"^(<class '[^']*'>:<'|Exception \w+ occurred\. Message: )+|'>$")


@dataclass
class Overdue:
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


def exchange(
    grid: Grid,
    messages: Sequence[Message],
    timeout_s: float,
    *,
    follow_up: FollowUp | None = None,
    overdue: Overdue | None = None,
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


def last_line(reason: str | None) -> str:
    r"""Return what went wrong, in one line of bounded length, of an error that Flower wrapped.

    >>> last_line("<class 'X'>:<'\nException X occurred. Message: no chips'>")
    'no chips'
    """
    lines = [line.strip() for line in (reason or "").splitlines() if line.strip()]
    reason = _WRAPPING.sub("", lines[-1]) if lines else "no reason given"
    if len(reason) <= LONGEST_REASON:
        return reason
    return reason[: LONGEST_REASON - 2].rsplit(" ", 1)[0] + " …"


def _push(grid: Grid, messages: dict[int, Message]) -> dict[str, int]:
    """Send messages, each under a position; return the positions of their ids."""
    if not messages:
        return {}
    ids = list(grid.push_messages(list(messages.values())))
    return {sent: index for sent, index in zip(ids, messages, strict=False) if sent}
