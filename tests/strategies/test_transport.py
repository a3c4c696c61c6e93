from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.supercore import constant as flower
from flwr.superlink.grid import InMemoryGrid
from hypothesis import given
from hypothesis import strategies as st

from rsdgc.errors import WireError
from rsdgc.plain_text import MAX_LINE
from strategies import messages, transport
from strategies.reply_objects import SMALL_REPLY, ReplyLimits
from strategies.transport import (
    INCOMPLETE_REPLY,
    MALFORMED_REPLY,
    MAX_UPLOAD_CHUNKS,
    OVERSIZED_REPLY,
    UPLOAD_CHUNK_BYTES,
    PendingReplies,
    RefusedReply,
    ReplyPull,
    chunk_upload,
    error_summary,
    join_upload,
    send_and_receive,
)
from tests.flower_link import LinkGrid, Objects, Tamper
from tests.loopback import LoopbackGrid


def echo(message: Message, context: Context) -> Message:
    return Message(RecordDict({"c": message.content.config_records["c"]}), reply_to=message)


def make_messages(count: int) -> list[Message]:
    return [
        Message(
            content=RecordDict({"c": ConfigRecord({"number": number})}),
            message_type=MessageType.QUERY,
            dst_node_id=101,
        )
        for number in range(count)
    ]


def number(reply: Message | None) -> object:
    return None if reply is None else reply.content.config_records["c"]["number"]


def test_replies_come_in_the_order_sent() -> None:
    grid = LoopbackGrid(echo, [{}], {})
    assert [number(reply) for reply in send_and_receive(grid, make_messages(5), 1.0)] == [
        0,
        1,
        2,
        3,
        4,
    ]


def test_who_does_not_answer_in_time_is_none() -> None:
    def drop_odd(message: Message, reply: Message) -> Message | None:
        return None if message.content.config_records["c"]["number"] % 2 else reply

    grid = LoopbackGrid(echo, [{}], {}, fault=drop_odd)
    began = time.monotonic()
    assert [number(reply) for reply in send_and_receive(grid, make_messages(4), 0.3)] == [
        0,
        None,
        2,
        None,
    ]
    assert time.monotonic() - began < 30


def test_nothing_to_send_is_nothing_to_wait_for() -> None:
    assert send_and_receive(LoopbackGrid(echo, [], {}), [], 60.0) == []


@pytest.mark.parametrize(
    ("reason", "line"),
    [
        ("Traceback:\n  File x\nDataError: no chips\n\n", "DataError: no chips"),
        ("<class 'flwr.X'>:<'\nException X occurred. Message: no chips'>", "no chips"),
        ("<class 'rsdgc.errors.DataError'>:<'no chips'>", "no chips"),
        ("  ", "no reason given"),
        (None, "no reason given"),
    ],
)
def test_an_error_is_summarized_in_one_line(reason: str | None, line: str) -> None:
    assert error_summary(reason) == line


def test_a_long_error_is_cut_between_words() -> None:
    line = error_summary("worker killed for memory " * 1000)
    assert len(line) <= MAX_LINE
    assert line.startswith("worker killed for memory ")
    assert line.endswith((" worker …", " killed …", " for …", " memory …"))


def test_a_long_word_is_cut_and_what_is_short_stays_as_it_is() -> None:
    line = error_summary("x" * (MAX_LINE + 1))
    assert line == "x" * (MAX_LINE - 2) + " …"
    assert error_summary("no file a  b.tif") == "no file a  b.tif"


def test_a_reply_may_be_answered_in_the_same_call() -> None:
    def ask_again(index: int, reply: Message) -> Message | None:
        return make_messages(9)[8] if index == 1 and number(reply) == 1 else None

    grid = LoopbackGrid(echo, [{}], {})
    found = send_and_receive(grid, make_messages(3), 1.0, follow_up=ask_again)
    assert [number(reply) for reply in found] == [0, 8, 2]


def test_a_late_reply_is_recognized() -> None:
    held: list[tuple[str, Message]] = []

    def hold(message: Message, reply: Message) -> Message | None:
        if message.content.config_records["c"]["number"] != 1 or held:
            return reply
        held.append((message.metadata.message_id, reply))
        return None

    grid, unanswered = LoopbackGrid(echo, [{}], {}, fault=hold), PendingReplies()
    assert number(send_and_receive(grid, make_messages(3), 0.1, unanswered=unanswered)[1]) is None
    assert unanswered.waiting == {held[0][0]}
    grid.replies.update(held)
    found = send_and_receive(grid, make_messages(3), 0.1, unanswered=unanswered)
    assert [number(reply) for reply in found] == [0, 1, 2]
    assert [number(reply) for reply in unanswered.arrived] == [1]
    assert unanswered.waiting == set()


OBJECTS_SENT = 6
"""Of two messages with a record each: the grid's sites do not confirm what they receive."""


def answer(message: Message, context: Context) -> Message:
    """Echo a message in a record of its own: the SuperLink has that of the message already."""
    record = ConfigRecord({**message.content.config_records["c"], "by": context.node_id})
    return Message(RecordDict({"c": record}), reply_to=message)


def spoof(message: Message, objects: Objects) -> Objects:
    """Claim to be another node, in a reply to another message."""
    changed = Message(RecordDict({"c": ConfigRecord({"number": 99})}), reply_to=message)
    changed.metadata.__dict__["_reply_to_message_id"] = "0" * 64
    changed.metadata.__dict__["_src_node_id"] = 102
    return Objects.of(changed)


def over_the_link(
    tamper: Tamper, limits: ReplyLimits = SMALL_REPLY, timeout_s: float = 0.3
) -> tuple[list[Message | None], LinkGrid]:
    """Send to two nodes, of which the first is hostile; return the replies."""

    def first_alone(message: Message, objects: Objects) -> Objects | None:
        hostile = message.metadata.dst_node_id == 101
        return tamper(message, objects) if hostile else objects

    grid = LinkGrid(answer, 2, first_alone)
    messages = make_messages(2)
    messages[1].metadata.dst_node_id = 102
    return send_and_receive(grid, messages, timeout_s, limits=limits), grid


def test_a_reply_is_known_by_what_it_was_pulled_for() -> None:
    (first, second), _ = over_the_link(spoof)
    assert first is not None
    assert first.metadata.src_node_id == 101
    assert [number(first), number(second)] == [99, 1]


def test_a_message_that_answers_nothing_is_not_taken_for_a_reply() -> None:
    """Flower's pull also brings what a site addresses to the server on its own account."""

    def tamper(message: Message, objects: Objects) -> Objects:
        unasked = Message(RecordDict({"c": ConfigRecord({"number": 7})}), 1, MessageType.QUERY)
        grid.send_objects(unasked, Objects.of(unasked).with_body(unasked.object_id, b"\xff"))
        return objects

    grid = LinkGrid(answer, 1, tamper)
    replies = send_and_receive(grid, make_messages(2), 1.0)
    assert [number(reply) for reply in replies] == [0, 1]
    assert len(grid.state.object_store) == OBJECTS_SENT


def test_a_malformed_reply_is_refused_and_the_next_one_received() -> None:
    def tamper(message: Message, objects: Objects) -> Objects:
        return objects.with_body(objects.ids("RecordDict")[0], b"[" * 10_000)

    (first, second), grid = over_the_link(tamper)
    assert isinstance(first, RefusedReply)
    assert (first.reason, first.metadata.src_node_id) == (MALFORMED_REPLY, 101)
    assert first.num_bytes > 10_000
    assert number(second) == 1
    assert len(grid.state.object_store) == OBJECTS_SENT


def test_the_end_of_each_reply_is_confirmed_once() -> None:
    def tamper(message: Message, objects: Objects) -> Objects:
        broken = message.metadata.dst_node_id == 101
        return objects.with_body(objects.ids("RecordDict")[0], b"[" * 99) if broken else objects

    grid = LinkGrid(answer, 2, tamper)
    inner, confirmed = grid._client.ConfirmMessageReceived, []

    def confirm(request: Any) -> Any:
        confirmed.append(request.message_object_id)
        return inner(request)

    grid._client.__dict__["ConfirmMessageReceived"] = confirm
    messages = make_messages(2)
    messages[1].metadata.dst_node_id = 102
    first, second = send_and_receive(grid, messages, 1.0)
    assert isinstance(first, RefusedReply)
    assert number(second) == 1
    assert len(confirmed) == len(set(confirmed)) == 2


def test_a_large_reply_is_refused_and_the_next_one_received() -> None:
    def tamper(message: Message, objects: Objects) -> Objects:
        return Objects.of(Message(RecordDict({"u": chunk_upload(bytes(10**6))}), reply_to=message))

    (first, second), _ = over_the_link(tamper, ReplyLimits(num_bytes=10**5))
    assert isinstance(first, RefusedReply)
    assert first.reason == OVERSIZED_REPLY
    assert number(second) == 1


def test_a_reply_of_many_objects_is_refused_by_its_announcement_and_counts_it() -> None:
    def tamper(message: Message, objects: Objects) -> Objects:
        many = {f"layer-{i}": Array(np.full(1, i)) for i in range(500)}
        return Objects.of(Message(RecordDict({"u": ArrayRecord(many)}), reply_to=message))

    (first, second), _ = over_the_link(tamper)
    assert isinstance(first, RefusedReply)
    assert first.reason == OVERSIZED_REPLY
    assert 1000 * 64 < first.num_bytes < 1100 * 80
    assert number(second) == 1


@pytest.mark.parametrize("size", [40_000, 60_000])
def test_two_replies_to_a_round_share_its_limit(size: int) -> None:
    def large(message: Message, context: Context) -> Message:
        upload = chunk_upload(bytes(size - int(message.content.config_records["c"]["number"])))
        return Message(RecordDict({"u": upload}), reply_to=message)

    grid, asked = LinkGrid(large, 1), make_messages(2)[1:]
    (reply,) = send_and_receive(
        grid,
        make_messages(1),
        5.0,
        follow_up=lambda _, reply: None if reply.has_error() else asked.pop() if asked else None,
        limits=ReplyLimits(num_bytes=100_000),
    )
    assert isinstance(reply, RefusedReply) == (size > 50_000)


def test_the_simulation_refuses_a_large_reply_too() -> None:
    def large(message: Message, context: Context) -> Message:
        return Message(RecordDict({"u": chunk_upload(bytes(10**6))}), reply_to=message)

    grid = LoopbackGrid(large, [{}], {})
    limits = ReplyLimits(num_bytes=10**5)
    (reply,) = send_and_receive(grid, make_messages(1), 1.0, limits=limits)
    assert isinstance(reply, RefusedReply)
    assert reply.reason == OVERSIZED_REPLY
    assert reply.num_bytes > 10**6


def test_replies_come_through_the_grid_of_a_simulation() -> None:
    link = LinkGrid(answer, 1)
    grid = InMemoryGrid(SimpleNamespace(state=lambda: link.state))  # type: ignore[arg-type]
    grid.set_run(link.run)
    (message_id,) = grid.push_messages(sent := make_messages(1))
    pull = ReplyPull(message_id, 101, SMALL_REPLY)
    assert pull.poll(grid) is None
    reply = Message(RecordDict({"c": ConfigRecord({"number": 5})}), reply_to=sent[0])
    reply.metadata.__dict__["_message_id"] = "reply"
    assert link.state.store_message_res(reply)
    assert number(pull.poll(grid)) == 5


def test_a_reply_that_is_announced_and_not_sent_keeps_nobody_waiting() -> None:
    def withhold(message: Message, objects: Objects) -> Objects:
        return replace(objects, withheld=frozenset(objects.ids("ConfigRecord")))

    began = time.monotonic()
    (first, second), _ = over_the_link(withhold)
    assert time.monotonic() - began < 30
    assert first is None
    assert number(second) == 1


def test_an_upload_that_stops_is_refused_and_one_that_goes_on_is_received() -> None:
    grid, unanswered = LinkGrid(answer, 1), PendingReplies()
    sent: list[Objects] = []

    def withhold(message: Message, objects: Objects) -> Objects:
        sent.append(objects)
        return replace(objects, withheld=frozenset(objects.ids("ConfigRecord")))

    grid.tamper = withhold
    messages = make_messages(2)
    assert send_and_receive(grid, messages, 0.1, unanswered=unanswered) == [None, None]
    session = grid.state._object_push_session_by_root[sent[1].root]
    for each in sent[1].ids("ConfigRecord"):
        grid.state.store_object(7, session, each, sent[1].contents[each])
    grid.state.object_store.delete(sent[0].root)
    unanswered.poll(grid)
    stopped, complete = unanswered.arrived
    assert isinstance(stopped, RefusedReply)
    assert stopped.reason == INCOMPLETE_REPLY
    assert number(complete) == 1
    assert unanswered.waiting == set()


def test_what_the_superlink_cannot_serve_is_refused_after_some_tries() -> None:
    grid = LinkGrid(answer, 1)
    inner, asked = grid._client.PullObject, []

    def fail(request: Any) -> Any:
        asked.append(request)
        answer = httpx.Response(500, request=httpx.Request("POST", "http://superlink"))
        return inner(request) if len(asked) > failures else answer.raise_for_status()

    grid._client.__dict__["PullObject"] = fail
    failures = 2
    assert number(send_and_receive(grid, make_messages(1), 5.0)[0]) == 0
    failures = 1000
    (reply,) = send_and_receive(grid, make_messages(1), 5.0)
    assert isinstance(reply, RefusedReply)
    assert reply.reason == INCOMPLETE_REPLY


def test_a_superlink_that_is_gone_is_no_fault_of_a_site() -> None:
    grid = LinkGrid(answer, 1)

    def gone(request: Any) -> Any:
        raise httpx.ConnectError("refused")

    grid._client.__dict__["PullMessages"] = gone
    with pytest.raises(httpx.ConnectError):
        send_and_receive(grid, make_messages(1), 1.0)


def test_any_error_of_the_public_pull_is_a_refusal() -> None:
    grid = LoopbackGrid(echo, [{}], {})
    inner = grid.pull_messages

    def pull(ids: Any) -> Any:
        replies = inner(ids)
        if number(replies[0]) == 1:
            raise RecursionError
        return replies

    grid.pull_messages = pull  # type: ignore[method-assign]
    first, second, third = send_and_receive(grid, make_messages(3), 1.0)
    assert [number(first), number(third)] == [0, 2]
    assert isinstance(second, RefusedReply)
    assert second.reason == MALFORMED_REPLY


THINNEST_BITS_PER_S = 100_000
REQUEST_TIMEOUT_S = 30


@given(size=st.integers(0, 5 * UPLOAD_CHUNK_BYTES), seed=st.integers(0, 9))
def test_chunks_join_to_the_upload_that_was_cut(size: int, seed: int) -> None:
    payload = np.random.default_rng(seed).bytes(size)
    record = chunk_upload(payload)
    assert all(array.numpy().size <= UPLOAD_CHUNK_BYTES for array in record.values())
    assert len(record) == max(1, -(-size // UPLOAD_CHUNK_BYTES))
    assert join_upload(record) == payload


def test_a_small_upload_is_one_array() -> None:
    assert list(chunk_upload(bytes(UPLOAD_CHUNK_BYTES))) == [messages.PACKED]


def test_the_order_of_arrival_does_not_matter() -> None:
    payload = np.random.default_rng(0).bytes(3 * UPLOAD_CHUNK_BYTES)
    record = chunk_upload(payload)
    assert join_upload(ArrayRecord(dict(reversed(list(record.items()))))) == payload


def broken() -> dict[str, ArrayRecord]:
    chunks = chunk_upload(bytes(3 * UPLOAD_CHUNK_BYTES))
    one = Array(np.zeros(4, np.uint8))
    unreadable = Array(dtype="uint8", shape=(4,), stype="numpy.ndarray", data=b"no array")
    names = list(chunks)
    return {
        "nothing": ArrayRecord({}),
        "another name": ArrayRecord({"weights": one}),
        "a chunk is missing": ArrayRecord({name: chunks[name] for name in (names[0], names[2])}),
        "a chunk too many": ArrayRecord({**chunks, messages.PACKED: one}),
        "floats": ArrayRecord({messages.PACKED: Array(np.zeros(4, np.float32))}),
        "two dimensions": ArrayRecord({messages.PACKED: Array(np.zeros((2, 2), np.uint8))}),
        "one chunk of floats": ArrayRecord({**chunks, names[1]: Array(np.zeros(4, np.float32))}),
        "not an array": ArrayRecord({messages.PACKED: unreadable}),
        "too many": ArrayRecord({f"packed-{i:04}": one for i in range(MAX_UPLOAD_CHUNKS + 1)}),
    }


@pytest.mark.parametrize("name", list(broken()))
def test_arrays_that_are_not_an_upload_are_refused(name: str) -> None:
    with pytest.raises(WireError):
        join_upload(broken()[name])


def test_two_chunks_pass_a_thin_link_before_flower_gives_up() -> None:
    """Flower sends two objects side by side and waits this long for either."""
    side_by_side = flower.FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES
    seconds = side_by_side * transport.UPLOAD_CHUNK_BYTES * 8 / THINNEST_BITS_PER_S
    assert seconds < REQUEST_TIMEOUT_S < flower.OBJECT_PUSH_SESSION_TTL_SECONDS
