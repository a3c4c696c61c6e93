"""Checks on what sites send: nothing of a reply is used before it has passed here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from rsdgc import ModelSpec, Scheme, SparseUpdate, decode
from rsdgc.errors import WireError
from strategies import messages
from strategies.sites import SiteInfo
from strategies.transport import error_summary, join_upload


class ReplyRefused(Exception):  # noqa: N818  # it is an outcome that is counted, not a failure
    """A reply that is not used.

    Parameters
    ----------
    reason : str
        Short and the same for all of a kind: refusals are counted by it.
    detail : str
        What was wrong in this one.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def read_metric(reply: Message, key: str) -> Any:
    """Return a field of the report; :class:`ReplyRefused` if it is not there."""
    record = reply.content.metric_records.get(messages.METRICS)
    if record is None or key not in record:
        raise ReplyRefused("incomplete report", f"no '{key}'")
    return record[key]


def read_num_examples(reply: Message, card: SiteInfo) -> int:
    """Return the weight of an upload: a whole number, at least 1, at most what was registered."""
    value = read_metric(reply, messages.NUM_EXAMPLES)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ReplyRefused("num-examples out of range", f"{value!r} is not a number")
    if value != int(value) or not 1 <= value <= card.num_train:
        raise ReplyRefused("num-examples out of range", f"{value} is not in 1…{card.num_train}")
    return int(value)


def read_class_counts(reply: Message, key: str, length: int) -> tuple[NDArray[np.int64], float]:
    """Return a report's counts, int64 [length], and its mean loss."""
    if reply.has_error():
        raise ReplyRefused("error at the site", error_summary(reply.error.reason))
    values = read_metric(reply, key)
    loss = read_metric(reply, messages.SCORE_LOSS)
    if not isinstance(values, list) or len(values) != length:
        raise ReplyRefused("incomplete report", f"'{key}' does not hold {length} counts")
    if any(not isinstance(v, int) or not 0 <= v < 2**40 for v in values):
        raise ReplyRefused("incomplete report", f"'{key}' holds a value that is no count")
    usable = isinstance(loss, int | float) and math.isfinite(loss)
    return np.array(values, dtype=np.int64), float(loss) if usable else 0.0


def read_upload(reply: Message) -> bytes:
    """Return the one encoded upload of a reply."""
    record = reply.content.array_records.get(messages.UPDATE)
    if record is None:
        raise ReplyRefused("not a valid upload", f"the reply has no '{messages.UPDATE}' arrays")
    try:
        return join_upload(record)
    except WireError as error:
        raise ReplyRefused("not a valid upload", str(error)) from None


def decode_upload(
    payload: bytes,
    spec: ModelSpec,
    scheme: Scheme,
    run_id: int,
    server_round: int,
    version: int,
) -> SparseUpdate:
    """Decode an upload and check that it belongs to this run, round, model and scheme."""
    try:
        update = decode(payload, spec, scheme)
    except WireError as error:
        raise ReplyRefused("not a valid upload", str(error)) from None
    if update.stamp.run != run_id:
        raise ReplyRefused("from another run", f"run {update.stamp.run}, not {run_id}")
    if update.stamp.round != server_round:
        raise ReplyRefused("from another round", f"round {update.stamp.round}, not {server_round}")
    if update.stamp.base != version:
        raise ReplyRefused("from another version", f"version {update.stamp.base}, not {version}")
    return update
