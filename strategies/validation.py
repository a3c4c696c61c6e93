"""Checks on what sites send. Nothing of a reply is used before it has passed them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from flwr.app import Message

from rsdgc import ModelSpec, Scheme, SparseUpdate, Stamp, decode
from rsdgc.arrays import Int64
from rsdgc.errors import WireError
from rsdgc.plain_text import plain_line
from strategies import messages
from strategies.transport import error_summary, join_upload

MAX_COUNT = 2**40
"""Limit of a count: the sum over a million sites still fits int64."""


class ReplyRefused(Exception):  # noqa: N818  # an outcome that is counted, not a failure
    """A reply that is not used.

    The ``reason`` is the kind of refusal, without figures, as refusals are counted by it. The
    ``detail`` says what is wrong with this reply.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {plain_line(detail)}")
        self.reason = reason


def check_no_error(reply: Message) -> None:
    """Raise :class:`ReplyRefused` if the reply carries an error instead of content."""
    if reply.has_error():
        raise ReplyRefused("error at the site", error_summary(reply.error.reason))


def finite_or_none(value: object) -> float | None:
    """Return a reported number as a float, or None if it is not a finite number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def read_metric(reply: Message, key: str) -> Any:
    """Return a field of the report; raise :class:`ReplyRefused` if it is absent."""
    record = reply.content.metric_records.get(messages.METRICS)
    if record is None or key not in record:
        raise ReplyRefused("incomplete report", f"no '{key}'")
    return record[key]


def read_num_examples(reply: Message, limit: int) -> int:
    """Return the weight of an upload: a whole number from 1 to the chips that the site has."""
    value = read_metric(reply, messages.NUM_EXAMPLES)
    reason = "num-examples out of range"
    if finite_or_none(value) is None:
        raise ReplyRefused(reason, f"{value!r} is not a number")
    if value != int(value) or not 1 <= value <= limit:
        raise ReplyRefused(reason, f"{value} is not in 1…{limit}")
    return int(value)


def read_class_counts(
    reply: Message, key: str, length: int, loss_key: str = messages.SCORE_LOSS
) -> tuple[Int64, float]:
    """Return the counts of a report, int64 [length], and its mean loss (0 if not finite)."""
    check_no_error(reply)
    counts = read_metric(reply, key)
    loss = read_metric(reply, loss_key)
    if not isinstance(counts, list) or len(counts) != length:
        raise ReplyRefused("incomplete report", f"'{key}' does not hold {length} counts")
    if any(not isinstance(count, int) or not 0 <= count < MAX_COUNT for count in counts):
        raise ReplyRefused("incomplete report", f"'{key}' holds a value that is not a count")
    # A negative cross-entropy does not exist, and would win the choice of the best round.
    return np.array(counts, dtype=np.int64), max(0.0, finite_or_none(loss) or 0.0)


def check_counts(counts: Int64, limit: int) -> None:
    """Refuse counts by class that no confusion matrix has.

    ``counts``, int64 [3, K], are samples by reference, by prediction, and correct ones; ``limit``
    are the chips that the site has.
    """
    reference, predicted, correct = counts
    if reference.sum() != predicted.sum() or (correct > np.minimum(reference, predicted)).any():
        raise ReplyRefused("incomplete report", "its counts by class contradict one another")
    check_limit(int(reference.sum()), limit)


def check_limit(scored: int, limit: int) -> None:
    """Raise :class:`ReplyRefused` if a site scored more chips than it has."""
    if scored > limit:
        raise ReplyRefused("incomplete report", f"it scores {scored} chips, the site has {limit}")


def read_upload(reply: Message, spec: ModelSpec, scheme: Scheme, expected: Stamp) -> SparseUpdate:
    """Decode the upload of a reply and check that it belongs to this run, round and version."""
    record = reply.content.array_records.get(messages.UPDATE)
    if record is None:
        raise ReplyRefused("not a valid upload", f"the reply has no '{messages.UPDATE}' arrays")
    try:
        update = decode(join_upload(record), spec, scheme)
    except WireError as error:
        raise ReplyRefused("not a valid upload", str(error)) from None
    for field, name in (("run", "run"), ("round", "round"), ("base", "version")):
        number, wanted = getattr(update.stamp, field), getattr(expected, field)
        if number != wanted:
            raise ReplyRefused(f"from another {name}", f"{name} {number}, not {wanted}")
    return update
