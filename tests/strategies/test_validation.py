import math

import pytest
from flwr.app import ConfigRecord, Error, Message, MetricRecord, RecordDict

from rsdgc import ModelSpec, Scheme, Stamp
from strategies import messages
from strategies.validation import (
    ReplyRefused,
    check_no_error,
    finite_or_none,
    read_class_counts,
    read_num_examples,
    read_upload,
)
from tests.loopback import LoopbackGrid

SPEC = ModelSpec.from_shapes({"fc.weight": (3, 4)})


@pytest.fixture(autouse=True)
def _task_identity() -> None:
    LoopbackGrid(lambda message, context: message, [], {})  # replies need the identity of a run


def reply(**fields: object) -> Message:
    task = Message(RecordDict({messages.TASK: ConfigRecord()}), 101, "train")
    named = {key.replace("_", "-"): value for key, value in fields.items()}
    content = RecordDict({messages.METRICS: MetricRecord(named)})  # type: ignore[arg-type]
    return Message(content, reply_to=task)


@pytest.mark.parametrize("value", [0, -1, 11, 2.5, math.nan, math.inf, [3]])
def test_a_weight_is_a_whole_number_up_to_what_the_site_has(value: object) -> None:
    with pytest.raises(ReplyRefused, match="num-examples out of range"):
        read_num_examples(reply(num_examples=value), limit=10)
    assert read_num_examples(reply(num_examples=10), limit=10) == 10
    assert read_num_examples(reply(num_examples=3.0), limit=10) == 3


@pytest.mark.parametrize("counts", [[1, 2], [1, 2, -1], [1, 2, 2**40], [1.0, 2.0, 3.0], 6])
def test_counts_are_as_many_as_expected_and_possible(counts: object) -> None:
    with pytest.raises(ReplyRefused, match="incomplete report"):
        read_class_counts(reply(correct=counts, score_loss=1.0), messages.CORRECT, 3)


def test_a_loss_that_is_not_finite_counts_as_zero() -> None:
    report = reply(correct=[1, 2, 3], score_loss=math.nan)
    counts, loss = read_class_counts(report, messages.CORRECT, 3)
    assert (counts.tolist(), loss) == ([1, 2, 3], 0.0)
    assert [finite_or_none(value) for value in (1, 0.5, math.inf, "1", None)] == [
        1.0,
        0.5,
        None,
        None,
        None,
    ]


def test_an_error_and_a_missing_upload_are_refused_by_name() -> None:
    task = Message(RecordDict({messages.TASK: ConfigRecord()}), 101, "train")
    error = Message(Error(code=0, reason="DataError: no chips"), reply_to=task)
    with pytest.raises(ReplyRefused, match="error at the site: DataError: no chips"):
        check_no_error(error)
    with pytest.raises(ReplyRefused, match="no 'update' arrays"):
        read_upload(reply(), SPEC, Scheme(), Stamp(1, 1, 0))
