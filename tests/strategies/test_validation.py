import math

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from strategies import messages
from strategies.validation import (
    MAX_LOSS,
    MAX_SECONDS,
    ReplyRefused,
    Report,
    check_no_error,
    check_records,
)
from tests.loopback import LoopbackGrid

ALLOWED = {messages.METRICS: MetricRecord, messages.UPDATE: ArrayRecord}


@pytest.fixture(autouse=True)
def _task_identity() -> None:
    LoopbackGrid(lambda message, context: message, [], {})  # replies need the identity of a run


def task() -> Message:
    return Message(RecordDict({messages.TASK: ConfigRecord()}), 101, "train")


def report(value: object) -> Report:
    figures = {} if value is None else {"figure": value}
    content = RecordDict({messages.METRICS: MetricRecord(figures)})  # type: ignore[arg-type]
    return Report(content, messages.METRICS)


@pytest.mark.parametrize("value", [0, -1, 11, 2.5, 3.0, math.nan, math.inf, [3], 2**64 - 1, None])
def test_a_count_is_a_whole_number_within_its_limits(value: object) -> None:
    with pytest.raises(ReplyRefused, match=r"^(out of range: figure is .* not in 1…10|incomplete)"):
        report(value).count("figure", 10, least=1, reason="out of range")
    assert report(10).count("figure", 10) == 10


@pytest.mark.parametrize("part", [-1.0, math.nan, math.inf, MAX_SECONDS * 2])
@pytest.mark.parametrize("place", range(4))
def test_durations_are_finite_and_bounded(part: float, place: int) -> None:
    parts = [1.0] * 4
    parts[place] = part
    with pytest.raises(ReplyRefused, match=r"malformed report: figure is .* not durations"):
        report(messages.pack_seconds(parts)).seconds("figure")


@pytest.mark.parametrize("value", [-1.0, -1, 1.5, math.nan, 2**63, 2**64 - 1, [1]])
def test_durations_are_packed_into_one_number(value: object) -> None:
    with pytest.raises(ReplyRefused, match=r"malformed report: figure is .* not durations"):
        report(value).seconds("figure")


@given(st.lists(st.floats(0, MAX_SECONDS / 2), min_size=4, max_size=4))
def test_durations_keep_three_digits(parts: list[float]) -> None:
    packed = messages.pack_seconds(parts)
    assert MetricRecord({"": packed}).count_bytes() == MetricRecord({"": 1.0}).count_bytes()
    read = report(packed).seconds("figure")
    assert read == pytest.approx(parts, rel=2**-8, abs=1e-30)


def test_a_loss_counts_if_it_is_finite_and_bounded() -> None:
    losses = [report(value).loss("figure") for value in (0.0, 2, math.nan, math.inf, MAX_LOSS * 2)]
    assert losses == [0.0, 2.0, None, None, None]
    for value in (-1e-9, -math.inf, [0.5]):
        with pytest.raises(ReplyRefused, match=r"malformed report: figure is .* not a loss"):
            report(value).loss("figure")


@pytest.mark.parametrize(
    "counts",
    [[1, 2], [1, 2, 3, 4], [1, 2, -1], [1, 2, 2**40], [1.0, 2.0, 3.0], [], [2**63] * 3, 6, 0.5],
)
def test_counts_are_as_many_as_expected_and_possible(counts: object) -> None:
    with pytest.raises(ReplyRefused, match="malformed report"):
        report(counts).counts("figure", 3)
    assert report([1, 2, 3]).counts("figure", 3).tolist() == [1, 2, 3]


def test_booleans_are_no_numbers() -> None:
    figures = report(1)
    for read in (lambda: figures.count("figure", 1), lambda: figures.loss("figure")):
        figures._figures["figure"] = True
        with pytest.raises(ReplyRefused):
            read()


def test_a_figure_that_nobody_asked_for_is_refused() -> None:
    figures = report(1)
    assert "figure" in figures
    with pytest.raises(ReplyRefused, match="unexpected content: a figure 'figure'"):
        figures.close()
    figures.count("figure", 1)
    assert "figure" not in figures
    figures.close()


def test_records_are_those_that_are_expected() -> None:
    update = ArrayRecord({"x": Array(np.zeros(1, np.uint8))})
    for content in (
        RecordDict({messages.UPDATE: update, "more": ConfigRecord({"x": 1})}),
        RecordDict({messages.UPDATE: update, messages.RUNNING: update}),
        RecordDict({messages.UPDATE: MetricRecord({"x": 1})}),
        RecordDict({messages.METRICS: ConfigRecord({"x": 1})}),
    ):
        with pytest.raises(ReplyRefused, match="unexpected content"):
            check_records(Message(content, reply_to=task()), ALLOWED)
    content = RecordDict({messages.UPDATE: update})
    assert check_records(Message(content, reply_to=task()), ALLOWED) == content


def test_an_error_is_refused_by_its_text() -> None:
    error = Message(Error(code=0, reason="DataError: no chips\x1b[2J"), reply_to=task())
    with pytest.raises(ReplyRefused, match=r"error at the site: DataError: no chips\\x1b\[2J"):
        check_no_error(error)
    with pytest.raises(ReplyRefused, match="error at the site"):
        check_records(error, ALLOWED)


def test_the_detail_of_a_refusal_is_one_short_line() -> None:
    name = "\x1b[2J\n" + "x" * 10_000
    with pytest.raises(ReplyRefused) as caught:
        check_records(Message(RecordDict({name: MetricRecord()}), reply_to=task()), ALLOWED)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200
