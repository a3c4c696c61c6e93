from __future__ import annotations

import time

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.supercore import constant as flower
from hypothesis import given
from hypothesis import strategies as st

from rsdgc.errors import WireError
from rsdgc.plain_text import MAX_LINE
from strategies import messages, transport
from strategies.transport import (
    MAX_UPLOAD_CHUNKS,
    UPLOAD_CHUNK_BYTES,
    PendingReplies,
    chunk_upload,
    error_summary,
    join_upload,
    send_and_receive,
)
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
    assert time.monotonic() - began < 5


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
