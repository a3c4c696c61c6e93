"""Checks on what sites send. Nothing of a reply is used before it has passed them."""

from __future__ import annotations

from collections.abc import Mapping
from reprlib import repr as short_repr
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from rsdgc.arrays import Int64
from rsdgc.plain_text import plain_line
from strategies import messages
from strategies.transport import RefusedReply, error_summary

MAX_COUNT = 2**40
"""Limit of a count: the sum over a million sites still fits int64."""
MAX_SECONDS = 30 * 24 * 3600.0
"""Longest work on one task that a site may report."""
MAX_LOSS = 1e6
"""Largest mean loss that counts, in nats. A larger one says no more than that a model diverged."""

INCOMPLETE = "incomplete report"
MALFORMED = "malformed report"
CONTRADICTORY = "contradictory scores"
UNEXPECTED = "unexpected content"

Record = ArrayRecord | ConfigRecord | MetricRecord


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
    if isinstance(reply, RefusedReply):
        raise ReplyRefused(reply.reason, reply.detail)
    if reply.has_error():
        raise ReplyRefused("error at the site", error_summary(reply.error.reason))


def check_records(reply: Message, allowed: Mapping[str, type[Record]]) -> RecordDict:
    """Return a reply's content, which may have the records ``allowed`` by name and no others."""
    check_no_error(reply)
    content = reply.content if reply.has_content() else None
    if not isinstance(content, RecordDict):
        raise ReplyRefused(UNEXPECTED, "the reply has no records")
    for name, record in content.items():
        kind = allowed.get(name)
        if kind is None:
            raise ReplyRefused(UNEXPECTED, f"a record {short_repr(name)}")
        if not isinstance(record, kind):
            raise ReplyRefused(
                UNEXPECTED, f"record '{name}' is of {type(record).__name__}, not {kind.__name__}"
            )
    return content


class Report:
    """The figures of a reply, which are read one by one; :meth:`close` refuses those left over.

    Every method raises :class:`ReplyRefused` if a figure is absent, of another type or out of
    range.

    Parameters
    ----------
    content : RecordDict
        Of a reply, as :func:`check_records` returns it.
    name : str
        The record that holds the figures.
    """

    def __init__(self, content: RecordDict, name: str) -> None:
        self._figures = dict(content.metric_records.get(name, {}))

    def __contains__(self, key: str) -> bool:
        """Return whether a figure has not been read yet."""
        return key in self._figures

    def count(self, key: str, limit: int, *, least: int = 0, reason: str = MALFORMED) -> int:
        """Read a whole number from ``least`` to ``limit``."""
        value = self._take(key)
        if type(value) is not int or not least <= value <= limit:
            raise ReplyRefused(reason, f"{key} is {short_repr(value)}, not in {least}…{limit}")
        return value

    def seconds(self, key: str) -> tuple[float, ...]:
        """Read the durations of the steps of a site's work (:func:`messages.pack_seconds`)."""
        value = self._take(key)
        parts = messages.unpack_seconds(value) if type(value) is int and 0 <= value < 2**63 else ()
        if not parts or any(not 0 <= part <= MAX_SECONDS for part in parts):
            raise ReplyRefused(MALFORMED, f"{key} is {short_repr(value)}, not durations")
        return parts

    def loss(self, key: str) -> float | None:
        """Read a mean loss; None for one that is not finite or above :data:`MAX_LOSS`."""
        value = self._take(key)
        # A negative cross-entropy does not exist, and would win the choice of the best round.
        if type(value) not in (int, float) or value < 0:
            raise ReplyRefused(MALFORMED, f"{key} is {short_repr(value)}, not a loss")
        return float(value) if value <= MAX_LOSS else None  # NaN is no less than anything

    def counts(self, key: str, length: int) -> Int64:
        """Read counts, int64 [length]."""
        value = self._take(key)
        if not isinstance(value, list) or len(value) != length:
            raise ReplyRefused(MALFORMED, f"'{key}' does not hold {length} counts")
        if any(type(count) is not int or not 0 <= count < MAX_COUNT for count in value):
            raise ReplyRefused(MALFORMED, f"'{key}' holds a value that is not a count")
        return np.array(value, dtype=np.int64)

    def close(self) -> None:
        """Refuse the report if figures are left that nobody has asked for."""
        if self._figures:
            raise ReplyRefused(UNEXPECTED, f"a figure {short_repr(next(iter(self._figures)))}")

    def _take(self, key: str) -> Any:
        if key not in self._figures:
            raise ReplyRefused(INCOMPLETE, f"no '{key}'")
        return self._figures.pop(key)
