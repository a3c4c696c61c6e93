"""Checks on what sites send: nothing of a reply is used before it has passed here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from flwr.app import Message
from numpy.typing import NDArray

from rsdgc import ModelSpec, Scheme, SparseUpdate, decode, protocol
from rsdgc.errors import WireError
from strategies.exchange import last_line
from strategies.pieces import joined
from strategies.roster import SiteCard


class Refused(Exception):  # noqa: N818  # it is an outcome that is counted, not a failure
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


def metric(reply: Message, key: str) -> Any:
    """Return a field of the report; :class:`Refused` if it is not there."""
    record = reply.content.metric_records.get(protocol.METRICS)
    if record is None or key not in record:
        raise Refused("incomplete report", f"no '{key}'")
    return record[key]


def num_examples(reply: Message, card: SiteCard) -> int:
    """Return the weight of an upload: a whole number, at least 1, at most what was registered."""
    value = metric(reply, protocol.NUM_EXAMPLES)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Refused("num-examples out of range", f"{value!r} is not a number")
    if value != int(value) or not 1 <= value <= card.num_train:
        raise Refused("num-examples out of range", f"{value} is not in 1…{card.num_train}")
    return int(value)


def class_counts(reply: Message, key: str, length: int) -> tuple[NDArray[np.int64], float]:
    """Return counts int64[length] of a report and its mean loss; :class:`Refused` if unusable."""
    if reply.has_error():
        raise Refused("error at the site", last_line(reply.error.reason))
    values = metric(reply, key)
    loss = metric(reply, protocol.SCORE_LOSS)
    if not isinstance(values, list) or len(values) != length:
        raise Refused("incomplete report", f"'{key}' does not hold {length} counts")
    if any(not isinstance(v, int) or not 0 <= v < 2**40 for v in values):
        raise Refused("incomplete report", f"'{key}' holds a value that is no count")
    usable = isinstance(loss, int | float) and math.isfinite(loss)
    return np.array(values, dtype=np.int64), float(loss) if usable else 0.0


def packed_upload(reply: Message) -> bytes:
    """Return the one encoded upload of a reply."""
    record = reply.content.array_records.get(protocol.UPDATE)
    if record is None:
        raise Refused("not a valid upload", f"the reply has no '{protocol.UPDATE}' arrays")
    try:
        return joined(record)
    except WireError as error:
        raise Refused("not a valid upload", str(error)) from None


def upload(
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
        raise Refused("not a valid upload", str(error)) from None
    if update.stamp.run != run_id:
        raise Refused("from another run", f"run {update.stamp.run}, not {run_id}")
    if update.stamp.round != server_round:
        raise Refused("from another round", f"round {update.stamp.round}, not {server_round}")
    if update.stamp.base != version:
        raise Refused("from another version", f"version {update.stamp.base}, not {version}")
    return update
