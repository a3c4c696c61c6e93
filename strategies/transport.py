"""How messages reach the sites and how replies and uploads come back.

Flower's own ``send_and_receive`` looks for replies every three seconds, and does not report which
ones never came. Its ``pull_messages`` inflates all replies of a pull without a ``try``, takes in
whatever a reply expands to, and waits up to two hours for the objects of a reply that was
announced. :func:`send_and_receive` looks more often, returns one result per message, can answer a
reply within the same call, and recognizes a reply that comes after its call has ended. It pulls
each reply on its own (:class:`ReplyPull`), so that a site can neither end the run nor delay or lose
the reply of another.

Uploads travel in chunks that suit a thin link, see :data:`UPLOAD_CHUNK_BYTES`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from logging import WARNING
from typing import Any

import httpx
import numpy as np
from flwr.app import Array, ArrayRecord, Error, Message, Metadata
from flwr.app.message import make_message
from flwr.common import log
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid

from rsdgc.errors import WireError
from rsdgc.plain_text import plain_line
from strategies.messages import PACKED
from strategies.received_arrays import received_bytes
from strategies.reply_objects import (
    SMALL_REPLY,
    OversizedReplyError,
    ReplyLimits,
    listed_objects,
    open_reply,
)

# While replies arrive they are fetched at the faster rate. In a quiet spell the pause grows to the
# slower one, and is never shorter than the look before it: with many sites every look is a request
# for each outstanding id, and a round that takes minutes loses nothing by two seconds.
FASTEST_POLL_S = 0.02
SLOWEST_POLL_S = 2.0
POLL_GROWTH = 1.3

MALFORMED_REPLY = "malformed reply"
OVERSIZED_REPLY = "oversized reply"
INCOMPLETE_REPLY = "incomplete reply"
"""Reason for refusing a reply whose objects the site began to send, and then stopped."""

MAX_PULL_FAILURES = 3
"""Requests for a reply that the SuperLink may answer with an error before the reply is refused. Its
database may be locked for a moment; what it cannot serialize, it will never serve."""

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


class RefusedReply(Message):
    """Stands for a reply that was refused before it was opened; an error to Flower.

    Attributes
    ----------
    reason : str
        :data:`MALFORMED_REPLY`, :data:`OVERSIZED_REPLY` or :data:`INCOMPLETE_REPLY`.
    detail : str
        What is wrong with it.
    num_bytes : int
        What was received of it.
    """

    def __init__(
        self, message_id: str, node_id: int, reason: str, detail: str, num_bytes: int
    ) -> None:
        metadata = Metadata(
            run_id=0,
            message_id="",
            src_node_id=node_id,
            dst_node_id=SUPERLINK_NODE_ID,
            reply_to_message_id=message_id,
            group_id="",
            created_at=time.time(),
            ttl=1.0,
            message_type="query",
        )
        detail = plain_line(detail)
        error = Error(code=0, reason=f"{reason}: {detail}")
        super().__init__(metadata=metadata, error=error)  # type: ignore[call-overload]
        self.reason = reason
        self.detail = detail
        self.num_bytes = num_bytes


class ReplyPull:
    """Pulls the reply to one message: nothing in it can raise, nor reach another reply.

    A SuperLink announces a reply before the site has sent all its objects. These are fetched as
    they come, so that one site's slow upload keeps nobody waiting.

    Parameters
    ----------
    message_id, node_id
        The message, and the node that it was sent to.
    limits : ReplyLimits
        What the reply may hold.
    """

    def __init__(self, message_id: str, node_id: int, limits: ReplyLimits) -> None:
        self._message_id = message_id
        self._node_id = node_id
        self._limits = limits
        self._metadata: Metadata | None = None
        self._missing: list[str] = []
        self._contents: dict[str, bytes] = {}
        self._failures = 0
        #: what has been received of the reply
        self.num_bytes = 0

    def poll(self, grid: Grid) -> Message | None:
        """Return the reply, or a :class:`RefusedReply` in its place; None if it is not there yet.

        What the SuperLink or the network do wrong is raised: it is no fault of the site's.
        """
        # Flower's public interface opens a reply before anybody can look at it. That is good enough
        # for a simulation, whose sites are processes of the same machine.
        client = getattr(grid, "_runtime_client", None)
        reply: Message | None
        try:
            reply = self._pull_opened(grid) if client is None else self._pull(client, grid)
        except httpx.TransportError:
            raise
        except Exception as error:  # whatever Flower's and protobuf's parsers come upon
            if isinstance(error, httpx.HTTPStatusError):
                self._failures += 1
                if self._failures < MAX_PULL_FAILURES:
                    return None
            reason, detail = _refusal(error)
            reply = RefusedReply(self._message_id, self._node_id, reason, detail, self.num_bytes)
        if reply is not None and self._metadata is not None:
            self._confirm(client, grid, self._metadata.message_id)
        return reply

    def _pull(self, client: Any, grid: Grid) -> Message | None:
        """Pull what the SuperLink has of a reply; open it once it is complete."""
        if self._metadata is None and not self._pull_announcement(client, grid):
            return None
        if not self._pull_objects(client, grid):
            return None
        assert self._metadata is not None
        contents, self._contents = self._contents, {}
        reply = open_reply(self._metadata.message_id, contents, self._limits)
        return make_message(
            self._metadata,
            content=None if reply.has_error() else reply.content,
            error=reply.error if reply.has_error() else None,
        )

    def _pull_opened(self, grid: Grid) -> Message | None:
        """Pull a reply by Flower's public interface, and check what it expanded to."""
        for reply in grid.pull_messages([self._message_id]):
            if reply.metadata.reply_to_message_id != self._message_id:
                continue
            if not reply.has_error():
                self.num_bytes = sum(
                    sum(len(array.data) for array in record.values())
                    for record in reply.content.array_records.values()
                )
                if self.num_bytes > self._limits.num_bytes:
                    raise OversizedReplyError(f"its arrays have {self.num_bytes} bytes")
            return reply
        return None

    def _pull_announcement(self, client: Any, grid: Grid) -> bool:
        """Fetch the list of the reply's objects; return whether there is one."""
        answer = client.PullMessages(PullAppMessagesRequest(message_ids=[self._message_id]))
        for proto, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            if proto.metadata.reply_to_message_id != self._message_id:
                # What a site has sent to the server unasked. It comes with every pull, once.
                self._confirm(client, grid, tree.object_id)
                continue
            # The SuperLink has compared these with the node that the message was sent to. The
            # metadata in the objects are the site's own, and may name any message and node.
            self._metadata = message_from_proto(proto).metadata
            self.num_bytes = tree.ByteSize()
            self._missing = listed_objects(tree, self._limits)
        return self._metadata is not None

    def _pull_objects(self, client: Any, grid: Any) -> bool:
        """Fetch the objects that the site has sent by now; return whether these are all."""
        while self._missing:
            answer = client.PullObject(
                PullObjectRequest(
                    node=grid.node, run_id=grid.run.run_id, object_id=self._missing[0]
                )
            )
            if not answer.object_found:
                raise _IncompleteReplyError
            if not answer.object_available:
                return False
            self._contents[self._missing.pop(0)] = answer.object_content
            self.num_bytes += len(answer.object_content)
            if self.num_bytes > self._limits.sent_bytes:
                raise OversizedReplyError(f"it has more than {self._limits.sent_bytes} bytes")
        return True

    def _confirm(self, client: Any, grid: Any, object_id: str) -> None:
        """Let the SuperLink delete a message's objects."""
        request = ConfirmMessageReceivedRequest(
            node=grid.node, run_id=grid.run.run_id, message_object_id=object_id
        )
        try:
            client.ConfirmMessageReceived(request)
        except httpx.HTTPStatusError as error:  # they are deleted with the run
            log(WARNING, "the SuperLink keeps a message that was received: %s", error)


class _IncompleteReplyError(Exception):
    """The SuperLink no longer has an object of a reply."""


def _refusal(error: Exception) -> tuple[str, str]:
    """Return the reason for refusing a reply, and what is wrong with it."""
    if isinstance(error, OversizedReplyError):
        return OVERSIZED_REPLY, str(error)
    if isinstance(error, WireError):
        return MALFORMED_REPLY, str(error)
    if isinstance(error, _IncompleteReplyError):
        return INCOMPLETE_REPLY, "the site stopped sending it"
    if isinstance(error, httpx.HTTPStatusError):
        return INCOMPLETE_REPLY, f"the SuperLink cannot serve it ({error})"
    return MALFORMED_REPLY, f"{type(error).__name__}: {error}"


class PendingReplies:
    """Earlier messages without a reply, and the replies that have come since.

    The caller processes the late replies in ``arrived``, and clears them.
    """

    def __init__(self) -> None:
        self.arrived: list[Message] = []
        self._pulls: dict[str, ReplyPull] = {}

    @property
    def waiting(self) -> set[str]:
        """Ids of the messages without a reply."""
        return set(self._pulls)

    def expect(self, pulls: Mapping[str, ReplyPull]) -> None:
        """Add messages by id, with what has been pulled of their replies."""
        self._pulls |= pulls

    def poll(self, grid: Grid) -> None:
        """Fetch the replies that have arrived."""
        for message_id, pull in list(self._pulls.items()):
            reply = pull.poll(grid)
            if reply is not None:
                del self._pulls[message_id]
                self.arrived.append(reply)


def send_and_receive(
    grid: Grid,
    messages: Sequence[Message],
    timeout_s: float,
    *,
    follow_up: Callable[[int, Message], Message | None] | None = None,
    unanswered: PendingReplies | None = None,
    limits: ReplyLimits = SMALL_REPLY,
) -> list[Message | None]:
    """Send all messages, of which a node may get several, and wait for their replies.

    ``follow_up`` is called with the position of a message and its reply. If it returns a message,
    that is sent, and the reply to it takes the first reply's place. ``unanswered`` receives the
    messages that got no reply; those that it has are polled during the wait. ``limits`` hold for
    each message: two replies in place of one share them.

    Returns
    -------
    list of Message or None
        The reply to each message, in the order sent; None if nothing came in time or the message
        could not be sent. A reply may carry an error instead of content, and is a
        :class:`RefusedReply` if it could not be opened.
    """
    replies: list[Message | None] = [None] * len(messages)
    positions = _push(grid, dict(enumerate(messages)))
    pulls = expected_replies(positions, [messages[i] for i in positions.values()], limits)
    deadline = time.monotonic() + timeout_s
    poll_s = FASTEST_POLL_S
    while positions:
        began = time.monotonic()
        arrived = False
        follow_ups: dict[int, Message] = {}
        left: dict[int, ReplyLimits] = {}
        for message_id, pull in list(pulls.items()):
            reply = pull.poll(grid)
            if reply is None:
                continue
            arrived = True
            del pulls[message_id]
            index = positions.pop(message_id)
            message = None if follow_up is None else follow_up(index, reply)
            if message is None:
                replies[index] = reply
            else:
                follow_ups[index] = message
                left[index] = limits.less(pull.num_bytes)
        for message_id, index in _push(grid, follow_ups).items():
            positions[message_id] = index
            pulls |= expected_replies([message_id], [follow_ups[index]], left[index])
        if unanswered is not None:
            unanswered.poll(grid)
        if not positions or time.monotonic() >= deadline:
            break
        poll_s = FASTEST_POLL_S if arrived else min(poll_s * POLL_GROWTH, SLOWEST_POLL_S)
        time.sleep(max(poll_s, time.monotonic() - began))
    if unanswered is not None:
        unanswered.expect(pulls)
    return replies


def expected_replies(
    message_ids: Iterable[str], messages: Iterable[Message], limits: ReplyLimits = SMALL_REPLY
) -> dict[str, ReplyPull]:
    """Return what pulls the reply to each message that was sent, by id."""
    return {
        message_id: ReplyPull(message_id, message.metadata.dst_node_id, limits)
        for message_id, message in zip(message_ids, messages, strict=False)
        if message_id
    }


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
