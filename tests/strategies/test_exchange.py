import time

import pytest
from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict

from strategies.exchange import LONGEST_REASON, Overdue, exchange, last_line
from tests.loopback import LoopbackGrid


def echo(message: Message, context: Context) -> Message:
    return Message(RecordDict({"c": message.content.config_records["c"]}), reply_to=message)


def messages(count: int) -> list[Message]:
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
    assert [number(reply) for reply in exchange(grid, messages(5), 1.0)] == [0, 1, 2, 3, 4]


def test_who_does_not_answer_in_time_is_none() -> None:
    def drop_odd(message: Message, reply: Message) -> Message | None:
        return None if message.content.config_records["c"]["number"] % 2 else reply

    grid = LoopbackGrid(echo, [{}], {}, fault=drop_odd)
    began = time.monotonic()
    assert [number(reply) for reply in exchange(grid, messages(4), 0.3)] == [0, None, 2, None]
    assert time.monotonic() - began < 5


def test_nothing_to_send_is_nothing_to_wait_for() -> None:
    assert exchange(LoopbackGrid(echo, [], {}), [], 60.0) == []


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
def test_an_error_is_told_in_one_line(reason: str | None, line: str) -> None:
    assert last_line(reason) == line


def test_a_long_error_is_cut_between_words() -> None:
    line = last_line("worker killed for memory " * 1000)
    assert len(line) <= LONGEST_REASON
    assert line.startswith("worker killed for memory ")
    assert line.endswith((" worker …", " killed …", " for …", " memory …"))


def test_a_long_word_is_cut_and_what_is_short_stays_as_it_is() -> None:
    line = last_line("x" * (LONGEST_REASON + 1))
    assert line == "x" * (LONGEST_REASON - 2) + " …"
    assert last_line("no file a  b.tif") == "no file a  b.tif"


def test_a_reply_may_be_answered_in_the_same_call() -> None:
    def ask_again(index: int, reply: Message) -> Message | None:
        return messages(9)[8] if index == 1 and number(reply) == 1 else None

    grid = LoopbackGrid(echo, [{}], {})
    found = exchange(grid, messages(3), 1.0, follow_up=ask_again)
    assert [number(reply) for reply in found] == [0, 8, 2]


def test_a_late_reply_is_recognised() -> None:
    held: list[tuple[str, Message]] = []

    def hold(message: Message, reply: Message) -> Message | None:
        if message.content.config_records["c"]["number"] != 1 or held:
            return reply
        held.append((message.metadata.message_id, reply))
        return None

    grid, overdue = LoopbackGrid(echo, [{}], {}, fault=hold), Overdue()
    assert number(exchange(grid, messages(3), 0.1, overdue=overdue)[1]) is None
    assert overdue.waiting == {held[0][0]}
    grid.replies.update(held)
    found = exchange(grid, messages(3), 0.1, overdue=overdue)
    assert [number(reply) for reply in found] == [0, 1, 2]
    assert [number(reply) for reply in overdue.arrived] == [1]
    assert overdue.waiting == set()
