"""What a site replies, built anew from the parts that have been checked.

Flower's message ends here: what aggregates, scores or reports sees a :class:`TrainReply` or an
:class:`EvaluateReply`, in which every figure has its type and range. The reading functions raise
:class:`~strategies.validation.ReplyRefused` for everything else, whatever is unknown included.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from logging import WARNING

from flwr.app import ArrayRecord, Message, MetricRecord
from flwr.common import log

from rsdgc import ModelSpec, Scheme, SparseUpdate, Stamp, decode
from rsdgc.arrays import Int64
from rsdgc.errors import WireError, describe_error
from rsdgc.plain_text import plain_line
from strategies import messages
from strategies.ledger import SiteEntry, content_bytes, error_bytes
from strategies.metrics import ClassCounts
from strategies.sites import SiteInfo
from strategies.transport import join_upload
from strategies.validation import CONTRADICTORY, INCOMPLETE, ReplyRefused, Report, check_records

INVALID_UPLOAD = "not a valid upload"


@contextmanager
def refusing(entry: SiteEntry) -> Iterator[None]:
    """Record in a site's entry why its reply is refused, and go on with the other sites'."""
    when = f"in round {entry.round}" if entry.round else "before the first round"
    try:
        yield
    except ReplyRefused as refusal:
        entry.reason = refusal.reason
        log(WARNING, "%s refused %s: %s", entry.site, when, refusal)
    except Exception as error:
        # What no check foresaw must cost this site its round, and not all sites theirs.
        entry.reason = "unreadable reply"
        text = plain_line(describe_error(error))
        log(WARNING, "%s refused %s: %s: %s", entry.site, when, entry.reason, text)


def count_arrival(reply: Message | None, entry: SiteEntry) -> Message:
    """Return a reply, its bytes counted; raise :class:`ReplyRefused` if it did not come."""
    if reply is None:
        raise ReplyRefused("no reply", "it did not come in time")
    if reply.has_content():
        entry.bytes_up += content_bytes(reply.content)
    else:
        entry.receive_error(error_bytes(reply))
    return reply


@dataclass(frozen=True, eq=False)
class TrainReply:
    """A reply to a round's task.

    The arrays are still as they arrived. Who decodes them checks them: :func:`read_upload`,
    :meth:`strategies.running_statistics.RunningStatistics.read`.
    """

    update: ArrayRecord
    running: ArrayRecord | None
    num_examples: int  #: weight of the upload, 1 to the chips that the site trains on
    train_loss: float | None  #: None if it was not finite
    seconds: tuple[float, ...]  #: of each of :data:`messages.WORK_STEPS`
    version: int  #: of the replica on the site's disk; 0 with a dense method
    test: ClassCounts | None  #: of the received model; None in a round without scores
    val: ClassCounts | None  #: the same on the validation split


@dataclass(frozen=True, eq=False)
class EvaluateReply:
    """A reply to the final evaluation."""

    confusion: Int64  #: int64 [K, K] on the test split, the reference in rows
    loss: float | None  #: mean cross-entropy there; None if it was not finite
    val: ClassCounts | None
    local: ArrayRecord | None  #: entries that stay at the site, as they arrived

    @property
    def test(self) -> ClassCounts:
        """The counts on the test split."""
        return ClassCounts.from_confusion(self.confusion, self.loss)


def read_train_reply(
    reply: Message, site: SiteInfo, num_classes: int, *, scored: bool, published: int | None
) -> TrainReply:
    """Return a reply to a round's task.

    Parameters
    ----------
    reply : Message
        As it arrived.
    site : SiteInfo
        Who was asked. Its counts of chips limit what it may report.
    num_classes : int
        Classes of the run, K.
    scored : bool
        Whether the round's task asks for scores.
    published : int or None
        Version of the published model; None with a dense method, whose sites have no replica.
    """
    content = check_records(
        reply,
        {
            messages.METRICS: MetricRecord,
            messages.UPDATE: ArrayRecord,
            messages.RUNNING: ArrayRecord,
        },
    )
    report = Report(content, messages.METRICS)
    _check_no_request(report)
    reason = "num-examples out of range"
    num_examples = report.count(messages.NUM_EXAMPLES, site.num_train, least=1, reason=reason)
    train_loss, seconds = report.loss(messages.TRAIN_LOSS), report.seconds(messages.SECONDS)
    version = 0 if published is None else report.count(messages.VERSION, published)
    test = val = None
    if scored:
        test = _read_scores(
            report, messages.SCORE_LOSS, messages.CLASS_COUNTS, num_classes, site.num_test
        )
        val = _read_val(report, site, num_classes)
    report.close()
    arrays = content.array_records
    if messages.UPDATE not in arrays:
        raise ReplyRefused(INVALID_UPLOAD, f"the reply has no '{messages.UPDATE}' arrays")
    update, running = arrays[messages.UPDATE], arrays.get(messages.RUNNING)
    return TrainReply(update, running, num_examples, train_loss, seconds, version, test, val)


def read_evaluate_reply(reply: Message, site: SiteInfo, num_classes: int) -> EvaluateReply:
    """Return a reply to the final evaluation; the parameters are :func:`read_train_reply`'s."""
    content = check_records(reply, {messages.METRICS: MetricRecord, messages.LOCAL: ArrayRecord})
    report = Report(content, messages.METRICS)
    _check_no_request(report)
    samples = report.count(messages.NUM_EXAMPLES, site.num_test)
    loss = report.loss(messages.SCORE_LOSS)
    confusion = report.counts(messages.CONFUSION, num_classes**2).reshape(num_classes, num_classes)
    if samples != confusion.sum():
        detail = f"it scores {samples} chips, its confusion matrix {confusion.sum()}"
        raise ReplyRefused(CONTRADICTORY, detail)
    val = _read_val(report, site, num_classes)
    report.close()
    return EvaluateReply(confusion, loss, val, content.array_records.get(messages.LOCAL))


def is_request(reply: Message, request: str) -> bool:
    """Return whether a reply asks for the model, and for that alone.

    The requests are ``resync``, ``frozen`` and ``transform``.
    """
    try:
        content = check_records(reply, {messages.METRICS: MetricRecord})
        report = Report(content, messages.METRICS)
        report.count(request, 1)
        report.close()
    except ReplyRefused:
        return False
    return True


def read_upload(
    record: ArrayRecord, spec: ModelSpec, scheme: Scheme, expected: Stamp
) -> SparseUpdate:
    """Decode the upload of a reply and check that it belongs to this run, round and version."""
    try:
        update = decode(join_upload(record), spec, scheme)
    except WireError as error:
        raise ReplyRefused(INVALID_UPLOAD, str(error)) from None
    for field, name in (("run", "run"), ("round", "round"), ("base", "version")):
        number, wanted = getattr(update.stamp, field), getattr(expected, field)
        if number != wanted:
            raise ReplyRefused(f"from another {name}", f"{name} {number}, not {wanted}")
    return update


def _check_no_request(report: Report) -> None:
    # The first request was answered within the round.
    for request in (messages.RESYNC, messages.FROZEN, messages.TRANSFORM):
        if request in report:
            raise ReplyRefused(INCOMPLETE, f"it asks again for the model ('{request}')")


def _read_val(report: Report, site: SiteInfo, num_classes: int) -> ClassCounts | None:
    keys = messages.VAL_CLASS_COUNTS
    return _read_scores(report, messages.VAL_LOSS, keys, num_classes, site.num_val)


def _read_scores(
    report: Report, loss_key: str, keys: Sequence[str], num_classes: int, limit: int
) -> ClassCounts | None:
    """Return the scores on a split of ``limit`` chips; None if the report has none of them."""
    if not any(key in report for key in (loss_key, *keys)):
        return None
    loss = report.loss(loss_key)
    reference, predicted, correct = (report.counts(key, num_classes) for key in keys)
    counts = ClassCounts(reference, predicted, correct, loss)
    counts.check(limit)
    return counts
