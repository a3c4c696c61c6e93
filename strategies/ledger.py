"""The byte ledger: what crossed the network, per round, site, direction and group of layers.

``rounds.jsonl`` in the run folder has a line per round and site, ``history.jsonl`` a line per
round, with the accuracy of the global model after it (round 0: before training).

Each line of ``rounds.jsonl`` has a ``phase``: ``train`` for the task of a round and its reply,
``evaluate`` for the final evaluation, ``late`` for a reply that came after its round had ended,
``statistics`` for a site's sums, which are collected before the first round. All of these bytes
are counted, including those of resynchronizations. Two more are no messages: ``roll-call`` for a
node that is left out, and ``suspended`` for a site that is set aside for some rounds, with the
reason.

The ledger counts the content of the messages that were really sent, as Flower serializes it:
arrays with their headers, and every other field of a task or report.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID
from pydantic import TypeAdapter, ValidationError

from rsdgc import SparseUpdate
from rsdgc.documents import explain_invalid, parse_json, shorten
from rsdgc.errors import RunError
from strategies.checkpoints import State
from strategies.metrics import Scores
from strategies.transport import RefusedReply

SITES_FILE = "rounds.jsonl"
"""A line for each message: :class:`SiteEntry`."""
HISTORY_FILE = "history.jsonl"
"""A line for each round: :class:`RoundEntry`."""
FILES = (SITES_FILE, HISTORY_FILE)
BYTES = ("bytes_up", "bytes_down", "dense_bytes_up", "dense_bytes_down")

WHOLE_MODEL = "whole model"
"""Group of the bytes of a model that is sent whole, which has no parts to tell apart."""

TRAIN = "train"
"""Phase of the entry of a round's task and its reply."""
LATE = "late"
"""Phase of the entry of a reply to the task of a round that has ended."""
EVALUATE = "evaluate"
"""Phase of the entry of the final evaluation."""
STATISTICS = "statistics"
"""Phase of the entry of a site's sums, which are collected before the first round."""
ROLL_CALL = "roll-call"
"""Phase of the entry of a node that takes no part."""
SUSPENDED = "suspended"
"""Phase of the entry of a site that is set aside for some rounds."""

FROZEN_GROUP = "frozen part"
"""Group of the bytes of the frozen part, sent to a site that lacks it."""
REFERENCE_GROUP = "transform reference"
"""Group of the bytes of the channel transform's reference, sent to a site that lacks it."""

ERROR_GROUP = "error"
"""Group of the bytes of a reply that carries an error, or that was refused before it was opened."""


@dataclass
class SiteEntry:
    """One message to a site and its reply: a line of ``rounds.jsonl``.

    ``accepted`` says whether the site's upload, scores or statistics were used, and ``reason`` why
    not. The bytes ``by_group`` are those of the parts of the network (:func:`layer_group`) and of
    everything else. If the site's replica was out of sync (``resynced``), the bytes include
    ``bytes_resync``, for the request and the whole model. ``accepted_share`` is the share of an
    accepted update that is in the model if norm clipping has shortened it (:mod:`rsdgc.clipping`),
    or 0 if the aggregation rule has left it out; None otherwise. ``time`` is when the line was
    written, in UTC (ISO 8601).
    """

    round: int
    site: str
    bytes_down: int = 0
    bytes_up: int = 0
    accepted: bool = False
    reason: str = ""
    num_examples: int = 0
    train_loss: float | None = None
    #: of the model that the site received, on its test split; None if it did not score it
    accuracy: float | None = None
    seconds: float = 0.0  #: of the site's work, by its clock, and of that the steps
    score_seconds: float | None = None
    train_seconds: float | None = None
    compress_seconds: float | None = None
    up_by_group: dict[str, int] = field(default_factory=dict)
    down_by_group: dict[str, int] = field(default_factory=dict)
    phase: str = TRAIN
    resynced: bool = False
    bytes_resync: int = 0
    accepted_share: float | None = None
    #: from the moment the message was sent until its reply was here, on the server's clock; the
    #: transfers, the wait for a free processor and the site's work are in it
    reply_seconds: float | None = None
    time: str = ""

    @property
    def clipped(self) -> bool:
        """Whether the model took a share of the update only."""
        return self.accepted_share is not None

    @property
    def refused(self) -> bool:
        """Whether an upload, or scores of the final model, were requested and not used."""
        if self.phase in (ROLL_CALL, SUSPENDED):
            return False
        return not self.accepted and (self.phase != EVALUATE or bool(self.reason))

    @property
    def dense_up(self) -> bool:
        """Whether dense FedAvg would have received a model: with every reply to a round's task."""
        return self.bytes_up > 0 and self.phase in (TRAIN, LATE) and not self.failed

    @property
    def dense_down(self) -> bool:
        """Whether dense FedAvg would have sent a model: with every task, none to resynchronize."""
        return self.phase in (TRAIN, EVALUATE)

    @property
    def silent(self) -> bool:
        """Whether these were requested and nothing came back."""
        return self.refused and self.bytes_up == 0

    @property
    def failed(self) -> bool:
        """Whether an error came back, or something that could not be opened."""
        return ERROR_GROUP in self.up_by_group

    def record_work(self, parts: Sequence[float]) -> None:
        """Record the seconds of each of :data:`messages.WORK_STEPS`."""
        self.seconds = round(sum(parts), 4)
        steps = [float(f"{part:.3g}") for part in parts]
        self.score_seconds, self.train_seconds, self.compress_seconds, _ = steps

    def receive_error(self, num_bytes: int) -> None:
        """Count the bytes of a reply without content, if the site sent any."""
        if num_bytes:
            self.bytes_up += num_bytes
            self.up_by_group[ERROR_GROUP] = num_bytes

    def send(self, groups: Mapping[str, int], num_bytes: int) -> None:
        """Count a message to the site: its bytes by group, the rest of it as ``task``."""
        sums = Counter(self.down_by_group)
        sums.update(groups)
        sums["task"] += num_bytes - sum(groups.values())
        self.down_by_group = dict(sums)
        self.bytes_down += num_bytes


@dataclass
class RoundEntry:
    """One round of all sites: a line of ``history.jsonl``, once its model has been scored.

    ``sites`` is the number of those whose upload was accepted, of ``asked`` ones. ``by_site`` has
    the accuracy on the test split of each site that scored the model. ``time`` is the end of the
    round, in UTC (ISO 8601).
    """

    round: int
    bytes_up: int = 0
    bytes_down: int = 0
    dense_bytes_up: int = 0
    dense_bytes_down: int = 0
    sites: int = 0
    asked: int = 0
    refused: int = 0
    suspended: int = 0  #: sites that were set aside
    clipped: int = 0  #: updates of which the model took a share only
    resyncs: int = 0
    bytes_resync: int = 0
    seconds: float = 0.0
    ratios: dict[str, float] = field(default_factory=dict)
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    kappa: float | None = None
    loss: float | None = None
    val_accuracy: float | None = None
    val_balanced_accuracy: float | None = None
    val_loss: float | None = None
    num_test: int = 0  #: test chips that the scores stand on
    num_val: int = 0
    by_site: dict[str, float] = field(default_factory=dict)
    #: until the tasks were sent: for sites, and to pack the tasks
    wait_seconds: float | None = None
    time: str = ""


_ROUND = TypeAdapter(RoundEntry)


class Ledger:
    """Counts bytes and refusals, and writes them to the run folder.

    Parameters
    ----------
    folder : Path or None
        The run folder; None keeps the ledger in memory only.
    dense_bytes : int
        Bytes of the whole model in float32: what FedAvg would send to a site and receive from it.
    """

    def __init__(self, folder: Path | None, dense_bytes: int) -> None:
        self.folder = folder
        self.dense_bytes = dense_bytes
        self.rounds: list[RoundEntry] = [RoundEntry(0)]  #: round 0 (before training) first
        self.refusals: Counter[str] = Counter()  #: number of refused replies by reason
        self.suspensions: Counter[str] = Counter()  #: times that a site was set aside, by name
        self._scored = 0

    def record(self, entries: list[SiteEntry]) -> None:
        """Record the messages of the last round, or of what precedes the first."""
        refusals = [entry.reason for entry in entries if not entry.accepted]
        self.rounds[-1].refused = len(refusals)
        self.rounds[-1].clipped = sum(entry.clipped for entry in entries)
        self.refusals.update(refusals)
        self.count(entries)

    def close_round(
        self,
        entries: list[SiteEntry],
        ratios: dict[str, float],
        seconds: float,
        wait_seconds: float | None = None,
    ) -> None:
        """Add a round with its messages; its score follows with :meth:`score_round`."""
        # Five digits: the file has a line of all layers per round.
        digits = {name: float(f"{ratio:.5g}") for name, ratio in ratios.items()}
        accepted = [entry.accepted for entry in entries if entry.phase == TRAIN]
        self.rounds.append(
            RoundEntry(
                len(self.rounds),
                sites=sum(accepted),
                asked=len(accepted),
                seconds=round(seconds, 3),
                wait_seconds=None if wait_seconds is None else round(wait_seconds, 3),
                ratios=digits,
                time=utc_time(),
            )
        )
        self.record(entries)

    def suspend(self, entries: list[SiteEntry], absent: int) -> None:
        """Enter the suspensions that the last round began, and how many sites it did without."""
        self.rounds[-1].suspended = absent
        self.suspensions.update(entry.site for entry in entries)
        self.count(entries)

    def count(self, entries: list[SiteEntry]) -> None:
        """Add messages to the last round's bytes, and write their lines."""
        total = self.rounds[-1]
        for entry in entries:
            total.bytes_up += entry.bytes_up
            total.bytes_down += entry.bytes_down
            total.dense_bytes_up += self.dense_bytes * entry.dense_up
            total.dense_bytes_down += self.dense_bytes * entry.dense_down
            total.resyncs += entry.resynced
            total.bytes_resync += entry.bytes_resync
            entry.time = utc_time()
            self._append(SITES_FILE, entry)

    def score_round(
        self,
        round_number: int,
        scores: Scores | None,
        val: Scores | None = None,
        sites: Iterable[SiteEntry] = (),
    ) -> None:
        """Write the line of a round, with the scores of the model after it.

        They are those on the test splits, and on the validation splits if sites have some.
        ``sites`` are the entries of the messages whose replies brought them.
        """
        entry = self.rounds[round_number]
        scored = {site.site: site.accuracy for site in sites if site.accuracy is not None}
        entry.by_site = {name: round(scored[name], 6) for name in sorted(scored)}
        if scores is not None and scores.num_examples:
            entry.accuracy = scores.accuracy
            entry.balanced_accuracy = scores.balanced_accuracy
            entry.kappa = scores.kappa
            entry.loss = scores.loss
            entry.num_test = scores.num_examples
        if val is not None:
            entry.val_accuracy = val.accuracy
            entry.val_balanced_accuracy = val.balanced_accuracy
            entry.val_loss = val.loss
            entry.num_val = val.num_examples
        self._append(HISTORY_FILE, entry)
        self._scored = round_number + 1

    def totals(self) -> dict[str, Any]:
        """Return bytes and compression of the whole run, as ``summary.json`` has them."""
        names = ("clipped", "resyncs", "bytes_resync", *BYTES)
        sums = {name: sum(getattr(entry, name) for entry in self.rounds) for name in names}
        up, down, dense_up, dense_down = (sums[name] for name in BYTES)
        return {
            **sums,
            "compression_up": _ratio(dense_up, up),
            "compression_down": _ratio(dense_down, down),
            "compression_total": _ratio(dense_up + dense_down, up + down),
        }

    def state(self) -> State:
        """Return how long the files are, forced to disk, and what is not in them yet."""
        lengths = {}
        # A run that resumes cuts off the lines beyond a length, but needs those before it: they
        # must be on disk before the checkpoint that names the length is.
        if self.folder is not None:
            for name in FILES:
                with (self.folder / name).open("ab") as file:
                    os.fsync(file.fileno())
                    lengths[name] = file.tell()
        pending = [asdict(entry) for entry in self.rounds[self._scored :]]
        values = {
            "lengths": lengths,
            "pending": pending,
            "refusals": dict(self.refusals),
            "suspensions": dict(self.suspensions),
        }
        return State(values=values)

    def restore(self, state: State) -> None:
        """Cut the files back to the lengths of a :meth:`state`, and continue from there.

        Raises
        ------
        RunError
            The files are shorter than they were, or damaged.
        """
        assert self.folder is not None
        lengths, refusals = state.counts("lengths"), state.counts("refusals")
        # Checkpoints of earlier versions have none.
        suspensions = state.counts("suspensions") if "suspensions" in state.values else {}
        for name in FILES:
            path = self.folder / name
            if name not in lengths:
                raise RunError(f"it does not say how long {path} was")
            if not path.is_file() or path.stat().st_size < lengths[name]:
                raise RunError(f"{path} is shorter than at the checkpoint: the folder is damaged")
        # Rounds in memory are those of the file, and those that were not scored at the checkpoint.
        path = self.folder / HISTORY_FILE
        with path.open("rb") as file:
            scored = file.read(lengths[path.name]).splitlines()
        pending = state.values.get("pending")
        if not isinstance(pending, list):
            raise RunError(f"its value pending is {shorten(pending)}, not a list of rounds")
        try:
            rounds = [_read_round(parse_json(line.decode())) for line in scored]
            rest = [_read_round(entry) for entry in pending]
        except ValueError as error:
            raise RunError(f"{path}, or what is to follow in it, is damaged: {error}") from None
        # Nothing is cut off before all of it is known to be usable.
        for name in FILES:
            os.truncate(self.folder / name, lengths[name])
        self.rounds, self._scored = rounds + rest, len(rounds)
        self.refusals, self.suspensions = Counter(refusals), Counter(suspensions)

    def clear_files(self) -> None:
        """Delete the files, for a run that starts over."""
        if self.folder is not None:
            for name in FILES:
                (self.folder / name).unlink(missing_ok=True)

    def _append(self, name: str, entry: SiteEntry | RoundEntry) -> None:
        if self.folder is not None:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(entry), allow_nan=False) + "\n")


def _read_round(values: Any) -> RoundEntry:
    """Return a round's entry; ValueError if JSON values are not one."""
    try:
        return _ROUND.validate_python(values)
    except ValidationError as error:
        raise ValueError(explain_invalid(error)) from None


def utc_time() -> str:
    """Return the present time in UTC to the second, in ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def content_bytes(content: RecordDict) -> int:
    """Return the bytes of a message's content: all arrays, metrics, config values and names."""
    return sum(len(name) + _record_bytes(record) for name, record in content.items())


def _record_bytes(record: ArrayRecord | ConfigRecord | MetricRecord) -> int:
    if not isinstance(record, ConfigRecord):
        return record.count_bytes()
    # As Flower counts them, but it raises an error at a value that is empty.
    return sum(len(key) + _value_bytes(value) for key, value in record.items())


def _value_bytes(value: object) -> int:
    if isinstance(value, list):
        return sum(map(_value_bytes, value))
    if isinstance(value, str | bytes):
        return len(value)
    return 1 if isinstance(value, bool) else 8


def error_bytes(reply: Message) -> int:
    """Return the bytes that a site sent as an error, or as a reply that could not be opened."""
    if isinstance(reply, RefusedReply):
        return reply.num_bytes
    # Flower itself answers for a site that is not connected.
    if reply.metadata.src_node_id == SUPERLINK_NODE_ID:
        return 0
    return len((reply.error.reason or "").encode(errors="replace"))


def layer_group(layer: str) -> str:
    """Return the part of a network that a layer belongs to: the first word of its name."""
    return layer.partition(".")[0]


def update_bytes(update: SparseUpdate) -> Counter[str]:
    """Return the bytes of an encoded update by group of layers, its header apart."""
    groups = Counter(header=update.header_bytes)
    for layer, num_bytes in zip(update.spec.layers, update.layer_bytes.tolist(), strict=True):
        groups[layer_group(layer.name)] += num_bytes
    return groups


def _ratio(dense: float, real: float) -> float:
    return round(dense / real, 3) if real else 0.0
