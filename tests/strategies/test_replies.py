from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from rsdgc import Scheme, Stamp
from strategies import messages
from strategies.replies import (
    TrainReply,
    is_request,
    read_evaluate_reply,
    read_train_reply,
    read_upload,
)
from strategies.transport import chunk_upload
from strategies.validation import ReplyRefused
from tests.strategies.fake_sites import CLASSES, NUM_TEST, SPEC, FakeSites, loopback, site_manager

SITE = site_manager().sites["north"]


def reply(metrics: dict[str, Any], update: bool = True) -> Message:
    loopback(FakeSites())  # messages are made within a run
    content = RecordDict({messages.METRICS: MetricRecord(metrics)})
    if update:
        content[messages.UPDATE] = ArrayRecord({"x": Array(np.zeros(1, np.float32))})
    return Message(content, dst_node_id=1, message_type="train")


def figures(*, scores: bool) -> dict[str, Any]:
    metrics: dict[str, Any] = {messages.NUM_EXAMPLES: 3, messages.VERSION: 2}
    metrics |= {messages.TRAIN_LOSS: 0.5, messages.SECONDS: messages.pack_seconds([1, 5, 0.5, 0.5])}
    if scores:
        metrics |= {messages.SCORE_LOSS: 1.0, messages.REFERENCE: [2, 2, 0]}
        metrics |= {messages.PREDICTED: [3, 1, 0], messages.CORRECT: [2, 1, 0]}
    return metrics


def read(metrics: dict[str, Any], *, scored: bool = True, published: int | None = 2) -> TrainReply:
    return read_train_reply(reply(metrics), SITE, len(CLASSES), scored=scored, published=published)


def test_a_reply_with_scores_and_one_without() -> None:
    checked = read(figures(scores=True))
    assert (checked.num_examples, checked.train_loss) == (3, 0.5)
    assert checked.seconds == (1, 5, 0.5, 0.5)
    assert (checked.version, checked.running, checked.val) == (2, None, None)
    assert checked.test is not None
    assert (checked.test.accuracy, checked.test.samples) == (0.75, 4)
    assert read(figures(scores=False)).test is None
    dense = figures(scores=False)
    del dense[messages.VERSION]
    assert read(dense, published=None).version == 0


def test_scores_that_were_not_asked_for_are_refused() -> None:
    """One site alone would decide the accuracy of such a round."""
    assert read(figures(scores=False), scored=False).test is None
    with pytest.raises(ReplyRefused, match="unexpected content: a figure 'score-loss'"):
        read(figures(scores=True), scored=False)


def test_half_of_the_scores_are_refused() -> None:
    for key in (messages.SCORE_LOSS, *messages.CLASS_COUNTS):
        metrics = figures(scores=True)
        del metrics[key]
        with pytest.raises(ReplyRefused, match=f"incomplete report: no '{key}'"):
            read(metrics)


def test_a_version_is_one_that_has_been_published() -> None:
    with pytest.raises(ReplyRefused, match=r"malformed report: version is 2, not in 0…1"):
        read(figures(scores=False), published=1)
    with pytest.raises(ReplyRefused, match="unexpected content: a figure 'version'"):
        read(figures(scores=False), published=None)


def test_a_request_asks_for_the_model_and_does_nothing_else() -> None:
    for request in (messages.RESYNC, messages.FROZEN):
        assert is_request(reply({request: 1}, update=False), request)
        assert not is_request(reply({request: 1}), request)
        assert not is_request(reply({request: 1, "more": 1}, update=False), request)
        assert not is_request(reply({request: 0.5}, update=False), request)
        with pytest.raises(ReplyRefused, match="incomplete report: it asks again for the model"):
            read({request: 1})


def test_the_final_evaluation_has_as_many_samples_as_its_matrix() -> None:
    metrics = {messages.SCORE_LOSS: 1.0, messages.CONFUSION: [2, 1, 0, 0, 3, 0, 0, 0, 0]}
    message = reply({**metrics, messages.NUM_EXAMPLES: NUM_TEST}, update=False)
    checked = read_evaluate_reply(message, SITE, len(CLASSES))
    assert checked.confusion.tolist() == [[2, 1, 0], [0, 3, 0], [0, 0, 0]]
    assert checked.test.accuracy == pytest.approx(5 / 6)
    with pytest.raises(ReplyRefused, match="contradictory scores: it scores 5 chips"):
        read_evaluate_reply(
            reply({**metrics, messages.NUM_EXAMPLES: 5}, update=False), SITE, len(CLASSES)
        )


def test_an_upload_that_cannot_be_decoded_is_refused() -> None:
    for record in (ArrayRecord(), chunk_upload(b"RSDG")):
        with pytest.raises(ReplyRefused, match="not a valid upload"):
            read_upload(record, SPEC, Scheme(), Stamp(1, 1, 0))
