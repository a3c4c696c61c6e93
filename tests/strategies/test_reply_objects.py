from __future__ import annotations

import json
import os
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_object_tree

from rsdgc.errors import WireError
from strategies.reply_objects import (
    SMALL_REPLY,
    OversizedReplyError,
    ReplyLimits,
    listed_objects,
    open_reply,
)
from strategies.transport import chunk_upload
from tests.flower_link import Objects, identify
from tests.strategies.reply_mutants import mutant

MUTANTS = 100_000 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 3000

identify()


def reply(arrays: ArrayRecord | None = None) -> Message:
    content = RecordDict(
        {
            "update": arrays or chunk_upload(np.random.default_rng(0).bytes(300_000)),
            "metrics": MetricRecord({"num-examples": 7, "train-loss": 0.5, "counts": [1, 2, 3]}),
        }
    )
    return Message(content, 1, MessageType.TRAIN)


def dense() -> Message:
    layers = {"a": np.ones((3, 4)), "b": np.zeros(4), "c": np.zeros(4), "d": np.zeros((0, 4))}
    arrays = {name: Array(layer.astype(np.float32)) for name, layer in layers.items()}
    return reply(ArrayRecord(arrays))


def opened(objects: Objects, limits: ReplyLimits = SMALL_REPLY) -> Message:
    """Open a reply as the server does, without the pull."""
    listed = listed_objects(objects.declared(), limits)
    received = {each: objects.contents[each] for each in listed if each in objects.contents}
    return open_reply(objects.root, received, limits)


@pytest.mark.parametrize("make", [reply, dense])
def test_a_valid_reply_opens_to_what_was_sent(make: object) -> None:
    sent = make()  # type: ignore[operator]
    received = opened(Objects.of(sent))
    assert received.content == sent.content


def test_an_error_opens_to_an_error() -> None:
    sent = Message(Error(code=3, reason="no chips"), reply_to=reply())
    assert opened(Objects.of(sent)).error.reason == "no chips"


def test_a_list_holds_each_object_once_and_children_first() -> None:
    sent = dense()
    listed = listed_objects(get_object_tree(sent), SMALL_REPLY)
    assert listed[-1] == sent.object_id
    assert set(listed) == set(Objects.of(sent).contents)
    assert len(listed) == len(set(listed))


@pytest.mark.slow
@pytest.mark.timeout(3600)  # for the thorough profile
@pytest.mark.parametrize("make", [reply, dense])
def test_a_changed_reply_opens_or_is_refused(make: object) -> None:
    rng = np.random.default_rng(15)
    valid = Objects.of(make())  # type: ignore[operator]
    refused = 0
    for _ in range(MUTANTS // 2):
        try:
            assert isinstance(opened(mutant(rng, valid)), Message)
        except WireError:
            refused += 1
    assert refused > MUTANTS // 4


def with_array(**fields: object) -> Objects:
    objects = Objects.of(dense())
    target = objects.ids("Array")[0]
    body = json.loads(objects.body(target)) | fields
    return objects.with_body(target, json.dumps(body).encode())


def with_names(kind: str, count: int) -> Objects:
    objects = Objects.of(dense())
    target = objects.ids(kind)[0]
    names = json.loads(objects.body(target))
    many = {f"{name}-{i}": child for name, child in names.items() for i in range(count)}
    return objects.with_body(target, json.dumps(many).encode())


def test_what_a_few_names_expand_to_is_refused_before_it_is_made() -> None:
    """37 kB that are repeated 2,000 times would be 75 MB."""
    chunk = np.random.default_rng(0).bytes(37_000)
    objects = Objects.of(reply(chunk_upload(chunk)))
    target = objects.ids("Array")[0]
    fields = json.loads(objects.body(target)) | {"arraychunk_ids": [0] * 2000}
    hostile = objects.with_body(target, json.dumps(fields).encode())
    tracemalloc.start()
    with pytest.raises(OversizedReplyError, match="expand to 74"):
        opened(hostile)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "objects",
    [
        with_array(arraychunk_ids=[1]),
        with_array(arraychunk_ids=[-1]),
        with_array(arraychunk_ids=[True]),
        with_array(arraychunk_ids=None),
        with_array(shape="3"),
        with_array(dtype=3),
        replace(Objects.of(dense()), root=Objects.of(dense()).ids("RecordDict")[0]),
        replace(Objects.of(dense()), root="0" * 64),
        Objects.of(dense()).with_body(Objects.of(dense()).ids("Array")[0], b"[" * 100_000),
        Objects.of(dense()).with_body(Objects.of(dense()).ids("RecordDict")[0], b'{"a":' * 900),
    ],
)
def test_objects_that_are_no_message_are_refused(objects: Objects) -> None:
    with pytest.raises(WireError):
        opened(objects)


@pytest.mark.parametrize("kind", ["ArrayRecord", "RecordDict"])
def test_one_array_under_many_names_counts_as_often(kind: str) -> None:
    limits = ReplyLimits(num_bytes=20_000, record_bytes=1000)
    assert len(opened(with_names(kind, 2), limits).content) > 1
    with pytest.raises(OversizedReplyError):
        opened(with_names(kind, 200), limits)


def test_equal_arrays_of_a_model_are_one_object_and_no_fault() -> None:
    layers = {f"block{i}.norm.bias": Array(np.zeros(64, np.float32)) for i in range(200)}
    sent = reply(ArrayRecord(layers))
    limits = ReplyLimits(num_bytes=200 * 512, arrays=200)
    assert opened(Objects.of(sent), limits).content == sent.content


def test_limits_hold_for_objects_bytes_and_records() -> None:
    sent = reply()
    enough = ReplyLimits(num_bytes=310_000, arrays=3)
    assert opened(Objects.of(sent), enough).content == sent.content
    with pytest.raises(OversizedReplyError, match="arrays"):
        opened(Objects.of(sent), ReplyLimits(num_bytes=290_000, arrays=3))
    with pytest.raises(OversizedReplyError, match="metrics"):
        opened(Objects.of(sent), replace(enough, record_bytes=50))
    many = {f"layer-{i}": Array(np.full(1, i)) for i in range(50)}
    with pytest.raises(OversizedReplyError, match="objects"):
        opened(Objects.of(reply(ArrayRecord(many))), ReplyLimits(num_bytes=10_000, arrays=3))
    long_error = Message(Error(code=0, reason="x" * 2**21), reply_to=sent)
    with pytest.raises(OversizedReplyError, match="error"):
        opened(Objects.of(long_error))


def test_a_second_reply_has_what_the_first_left() -> None:
    assert ReplyLimits(num_bytes=100).less(30).num_bytes == 70
    assert ReplyLimits(num_bytes=100).less(300).num_bytes == 0
