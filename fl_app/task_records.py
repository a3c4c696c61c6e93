"""What a task of the server says to a site, and what the site replies: Flower's records.

:mod:`strategies.messages` lists the records and fields of every message.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from logging import WARNING
from typing import TypeVar

import numpy as np
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.common import log
from numpy.typing import NDArray

from clients.frozen_cache import FrozenPartMissing
from clients.replica import ReferenceMissing, ReplicaOutOfSync
from clients.scores import Score, SiteScores
from clients.task import ReceivedModel, RoundResult, RoundTask, RunOrigin
from clients.training import TrainSettings
from fl_app.settings import Settings
from rsdgc import ModelSpec
from rsdgc.channel_transform import transformed_size
from rsdgc.errors import RunError, WireError
from rsdgc.patches import unpack_patches
from strategies import messages
from strategies.model_record import received_model
from strategies.received_arrays import received_bytes, received_floats
from strategies.transport import join_upload

Value = TypeVar("Value", bytes, int, float)


def train_settings(
    settings: Settings, learning_rate: float, clip_scale: float = 1.0
) -> TrainSettings:
    """Return how a site trains in a round of this learning rate, and scale of `clip-norm`."""
    return TrainSettings(
        optimizer=settings.optimizer,
        lr=learning_rate,
        momentum=settings.resolved("momentum"),
        weight_decay=settings.resolved("weight_decay"),
        batch_size=settings.batch_size,
        epochs=settings.local_epochs,
        steps=settings.local_steps,
        clip_norm=settings.clip_norm * clip_scale,
        augment=settings.augment,
        crop=settings.crop,
        amp=settings.amp,
        jitter=settings.jitter,
        band_dropout=settings.band_dropout,
        modality_dropout=settings.modality_dropout,
        label_smoothing=settings.label_smoothing,
        balanced_loss=settings.class_weights == "balanced",
        balanced_batches=settings.sampling == "balanced",
        proximal=settings.proximal,
    )


def read_value(task: ConfigRecord, key: str, default: Value) -> Value:
    """Return a field of a task, of the type of its default."""
    value = task.get(key, default)
    if isinstance(default, float) and isinstance(value, int):
        value = float(value)
    if not isinstance(value, type(default)):
        raise RunError(
            f"the server's task has {key}={value!r} where a value such as {default!r} is expected: "
            "install the same version at the server and at all sites"
        )
    return value


def _learning_rate(task: ConfigRecord) -> float:
    rate = read_value(task, messages.LEARNING_RATE, 0.0)
    if not 0 < rate < math.inf:
        raise RunError(
            f"the server's task has {messages.LEARNING_RATE}={rate}, and it must be above 0: "
            "install the same version at the server and at all sites"
        )
    return rate


def _clip_scale(task: ConfigRecord) -> float:
    scale = read_value(task, messages.CLIP_SCALE, 1.0)
    if not 0 < scale <= 1:
        raise RunError(
            f"the server's task has {messages.CLIP_SCALE}={scale}, and it must be above 0, up to "
            "1: install the same version at the server and at all sites"
        )
    return scale


def run_origin(context: Context, task: ConfigRecord) -> RunOrigin:
    """Return the run that asks. A resumed run keeps its number, but Flower gives it a new one."""
    # Bytes, for Flower's run numbers have 64 bits and its records hold signed integers.
    run = read_value(task, messages.RUN, b"")
    kept_rounds = read_value(task, messages.KEPT_ROUNDS, b"")
    return RunOrigin(
        run=int.from_bytes(run, "little") if run else context.run_id,
        attempt=context.run_id,
        resumed_round=read_value(task, messages.RESUMED_ROUND, 0),
        kept_rounds=messages.unpack_rounds(kept_rounds) if kept_rounds else (),
    )


def received_by(message: Message, task: ConfigRecord, spec: ModelSpec) -> ReceivedModel:
    """Return the model that a message brings, or what it says of it.

    Raises :class:`RunError` or :class:`ReplicaOutOfSync` if it arrived damaged.
    """
    version = read_value(task, messages.VERSION, 0)
    fingerprint = read_value(task, messages.FINGERPRINT, b"")
    running = message.content.array_records.get(messages.RUNNING)
    try:
        statistics = b"" if running is None else join_upload(running)
    except WireError as error:
        raise RunError(f"the running statistics arrived damaged: {error}") from None
    transform = read_value(task, messages.TRANSFORM, b"")
    received = ReceivedModel(
        version, fingerprint, statistics=statistics, reference_fingerprint=transform
    )
    record = message.content.array_records.get(messages.MODEL)
    if record is None:
        return received
    if messages.PATCHES in record:
        try:
            patches = unpack_patches(bytes(received_bytes(record[messages.PATCHES])))
        except WireError as error:
            raise ReplicaOutOfSync(str(error)) from None
        return replace(received, patches=tuple(patches))
    try:
        whole = received_model(record, spec)
    except WireError as error:
        raise RunError(
            f"the server's model is not this site's, float32[{spec.size}] ({error}): use the same "
            "version and data at all sites"
        ) from None
    return replace(received, whole=whole, reference=_received_reference(message, spec))


def _received_reference(message: Message, spec: ModelSpec) -> NDArray[np.float32] | None:
    record = message.content.array_records.get(messages.TRANSFORM)
    if record is None:
        return None
    try:
        return received_floats(record[messages.PACKED], (transformed_size(spec),))
    except (KeyError, WireError) as error:
        raise RunError(f"the reference of the transform arrived damaged: {error}") from None


def received_frozen_part(message: Message) -> bytes | None:
    """Return the frozen part of the model if a message brings it."""
    record = message.content.array_records.get(messages.FROZEN)
    if record is None:
        return None
    try:
        return join_upload(record)
    except WireError as error:
        raise RunError(f"the frozen part of the model arrived damaged: {error}") from None


def round_task(settings: Settings, origin: RunOrigin, task: ConfigRecord) -> RoundTask:
    """Return what a site does in a round."""
    number = read_value(task, messages.ROUND, 0)
    return RoundTask(
        origin=origin,
        round=number,
        score=messages.is_scored(number, settings.evaluate_every),
        train=train_settings(settings, _learning_rate(task), _clip_scale(task)),
        compressed=settings.method != "fedavg",
        seed=settings.seed,
        scheme=settings.scheme(),
        indicator=settings.resolved("indicator"),
        mean_weight=settings.nsi_mean_weight,
        std_weight=settings.nsi_std_weight,
        ratios=np.asarray(task.get(messages.RATIOS, []), dtype=np.float64),
        budget_bytes=read_value(task, messages.BUDGET_BYTES, 0.0),
        momentum_correction=settings.resolved("momentum_correction"),
        step_ahead=settings.resolved("step_ahead"),
        accepted_round=read_value(task, messages.ACCEPTED_ROUND, 0),
        accepted_share=read_value(task, messages.ACCEPTED_SHARE, 1.0),
    )


def train_metrics(result: RoundResult) -> MetricRecord:
    """Return the numbers of a site's reply to a task of training."""
    metrics = MetricRecord(
        {
            messages.NUM_EXAMPLES: result.num_examples,
            messages.TRAIN_LOSS: result.train_loss,
            messages.SECONDS: messages.pack_seconds(_work_parts(result)),
        }
    )
    if result.scores is not None:
        metrics[messages.SCORE_LOSS] = result.scores.test.loss
        metrics.update(_class_counts(result.scores.test, messages.CLASS_COUNTS))
        metrics.update(validation_metrics(result.scores))
    if result.weights is None:
        metrics[messages.VERSION] = result.version
    return metrics


def _work_parts(result: RoundResult) -> list[float]:
    """Return the seconds of each of :data:`messages.WORK_STEPS`."""
    steps = [result.score_seconds, result.train_seconds, result.compress_seconds]
    return [*steps, max(0.0, result.seconds - sum(steps))]


def validation_metrics(scores: SiteScores) -> dict[str, float | list[int]]:
    """Return the fields of the validation split; none without one."""
    if scores.val is None:
        return {}
    counts = _class_counts(scores.val, messages.VAL_CLASS_COUNTS)
    return {messages.VAL_LOSS: scores.val.loss, **counts}


def _class_counts(score: Score, keys: Sequence[str]) -> dict[str, list[int]]:
    """Return samples by reference class, by predicted class, and those that are right."""
    confusion = score.confusion
    counts = (confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal())
    return {key: count.tolist() for key, count in zip(keys, counts, strict=True)}


def request_reply(message: Message, reason: Exception) -> Message:
    """Ask the server for the whole model, and for what else the reason says that a site lacks."""
    log(WARNING, "asking the server for the whole model: %s", reason)
    request = messages.RESYNC
    if isinstance(reason, FrozenPartMissing):
        request = messages.FROZEN
    elif isinstance(reason, ReferenceMissing):
        request = messages.TRANSFORM
    metrics = MetricRecord({request: 1})
    return Message(RecordDict({messages.METRICS: metrics}), reply_to=message)
