"""Flower's ClientApp: say which sites are here, work rounds, score the final model.

:mod:`strategies.messages` lists the records and fields of every message.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from logging import WARNING
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import log
from numpy.typing import NDArray

from clients.acceleration import compile_model
from clients.device_memory import MemoryPlan, free_bytes
from clients.evaluation import Score, SiteScores
from clients.frozen_cache import FrozenPartMissing, load_frozen_part
from clients.micro_batch import MicroBatch, MicroBatches
from clients.model_parts import ModelParts
from clients.replica import ReferenceMissing, ReplicaOutOfSync
from clients.site import Site
from clients.task import ReceivedModel, RoundResult, RoundTask, RunOrigin
from clients.training import TrainSettings, choose_device
from data_prep.common_statistics import CommonStatistics, site_sums
from fl_app.gpu_memory import plan_gpu
from fl_app.home import home
from fl_app.models import takes_modalities
from fl_app.models.code_signature import model_signature
from fl_app.prepared_model import prepare_model
from fl_app.settings import Settings
from fl_app.site_data import (
    NodeData,
    check_trainable,
    describe_sites,
    load_split,
    modality_infos,
    node_data,
)
from rsdgc import ModelSpec
from rsdgc.channel_transform import transformed_size
from rsdgc.errors import RsdgcError, RunError, SettingError, WireError
from rsdgc.patches import unpack_patches
from rsdgc.registry import add_code_dir
from strategies import messages
from strategies.model_record import received_model, to_record
from strategies.node_answer import read_modalities, site_record
from strategies.received_arrays import received_bytes, received_floats
from strategies.sites import ModalityInfo
from strategies.transport import chunk_upload, join_upload

Value = TypeVar("Value", bytes, int, float)

SITES_IN_MEMORY = 16
"""Most sites that one process keeps open between rounds, with their chips and model."""

opened_sites: OrderedDict[Hashable, Site] = OrderedDict()
"""The sites that this process has opened, least recently used first.

Opening a site reads its chips. In a simulation one process works for many sites, round after
round; in a deployment every message may have a process of its own, and nothing is kept.
"""

micro_batches: dict[int, MicroBatches] = {}
"""How many chips go through a run's model at once, as this process has learned."""

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Say which sites this node hosts, and what data they have."""
    try:
        node = _node(context)
        check_trainable(node.dataset, node.sites)
        record = site_record(*describe_sites(node))
    except (RsdgcError, OSError, ValueError) as error:
        # A store that cannot be read: the server has no other way to know whose it is.
        name = context.node_config.get("site-name")
        raise RunError(f"at site {name}: {error}" if name else str(error)) from error
    try:
        record[messages.MODEL_CODE] = model_signature(_settings(context).model)
    except SettingError as error:  # the server names the site, and goes on without it
        record[messages.MODEL_ERROR] = str(error)
    return Message(RecordDict({messages.SITE: record}), reply_to=message)


@app.query(messages.STATISTICS)
def statistics(message: Message, context: Context) -> Message:
    """Reply with the sums of a site's train samples (:mod:`data_prep.common_statistics`)."""
    node = _node(context)
    name = str(message.content.config_records[messages.TASK][messages.SITE])
    sums = site_sums(node.dataset, _local_name(node, name))
    record = ConfigRecord(sums.to_mapping())  # type: ignore[arg-type]
    return Message(RecordDict({messages.SUMS: record}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Work one round at the site that the task names."""
    settings = _settings(context)
    task = message.content.config_records[messages.TASK]
    origin = _origin(context, task)
    try:
        site = _site(context, message)
        received = _received_model(message, task, site.spec)
        result = site.work(_round_task(settings, origin, task), received)
    except ReferenceMissing as reason:
        return _request_reply(message, messages.TRANSFORM, reason)
    except ReplicaOutOfSync as reason:
        return _request_reply(message, messages.RESYNC, reason)
    except FrozenPartMissing as reason:
        return _request_reply(message, messages.FROZEN, reason)
    if result.weights is None:
        update = chunk_upload(result.payload)
    else:
        update = to_record(result.weights, site.spec, site.present)
    content = RecordDict({messages.UPDATE: update, messages.METRICS: _train_metrics(result)})
    if result.statistics:
        content[messages.RUNNING] = chunk_upload(result.statistics)
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the received model at the site that the task names."""
    task = message.content.config_records[messages.TASK]
    try:
        site = _site(context, message)
        received = _received_model(message, task, site.spec)
        scores, local = site.evaluate(_origin(context, task), received)
    except ReferenceMissing as reason:
        return _request_reply(message, messages.TRANSFORM, reason)
    except ReplicaOutOfSync as reason:
        return _request_reply(message, messages.RESYNC, reason)
    except FrozenPartMissing as reason:
        return _request_reply(message, messages.FROZEN, reason)
    metrics = MetricRecord(
        {
            messages.NUM_EXAMPLES: scores.test.samples,
            messages.SCORE_LOSS: scores.test.loss,
            messages.CONFUSION: scores.test.confusion.reshape(-1).tolist(),
        }
    )
    metrics.update(_validation_metrics(scores))
    content = RecordDict({messages.METRICS: metrics})
    if local:
        content[messages.LOCAL] = chunk_upload(local)
    return Message(content, reply_to=message)


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


# ---- the node and its sites -------------------------------------------------------------------


def _settings(context: Context) -> Settings:
    """Return the run's settings; modules of the user's own can be imported from then on."""
    settings = Settings.from_mapping(context.run_config)
    # The node's own folder goes before the server's, which is on another machine.
    add_code_dir(str(context.node_config.get("code-dir") or settings.code_dir))
    return settings


def _node(context: Context) -> NodeData:
    return node_data(context.node_config, _settings(context))


def _local_name(node: NodeData, name: str) -> str:
    """Return the name that the node's data has for a site."""
    if name not in node.sites:
        raise RunError(f"site '{name}' is not at this node, which has {', '.join(node.sites)}")
    return node.sites[name]


def _site(context: Context, message: Message) -> Site:
    """Return the site that a task names, opened now or by an earlier message."""
    task = message.content.config_records[messages.TASK]
    name, statistics = str(task[messages.SITE]), _value(task, messages.NORMALIZATION, b"")
    modalities = read_modalities(task) if messages.MODALITIES in task else ()
    frozen = _value(task, messages.FROZEN, b"")
    configs = (sorted(context.node_config.items()), sorted(context.run_config.items()))
    # Everything that a site is made from: a change of any of it opens the site again.
    key = (context.run_id, name, statistics, modalities, frozen, repr(configs))
    if key not in opened_sites:
        opened_sites[key] = _open_site(context, name, statistics, modalities, frozen, message)
    opened_sites.move_to_end(key)
    _close_sites(SITES_IN_MEMORY)
    return opened_sites[key]


def _close_sites(kept: int) -> None:
    while len(opened_sites) > kept:
        opened_sites.popitem(last=False)


def _open_site(
    context: Context,
    name: str,
    packed_statistics: bytes,
    modalities: tuple[ModalityInfo, ...],
    frozen: bytes,
    message: Message,
) -> Site:
    """Open a site for a run of these modalities; without any, of those that it has.

    Raises :class:`FrozenPartMissing` if its model's frozen part is not that of the digest
    ``frozen``, and the message does not bring it.
    """
    settings = _settings(context)
    node = _node(context)
    local_name = _local_name(node, name)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device)
    store = node.dataset.site(local_name).store
    check_trainable(node.dataset, {name: local_name})
    own = [modality.name for modality in store.meta.modalities]
    modalities = modalities or modality_infos(store)
    weights, state_dir = _initial_weights(context, settings), _state_dir(context, settings)

    def make_model() -> torch.nn.Module:
        shape = (modalities, len(store.classes))
        try:
            return prepare_model(settings, *shape, weights)[0]
        except SettingError as error:
            if weights in (None, settings.initial_weights()):
                raise
            # The node's own file may be for other runs.
            log(WARNING, "%s: asking the server for the model", error)
            return prepare_model(settings, *shape, None)[0]

    model = make_model()
    if frozen:  # before the chips are read: the machine may lack it
        parts = ModelParts(model, settings.batch_norm)
        load_frozen_part(parts, frozen, state_dir, _received_frozen_part(message))
    common = None
    if packed_statistics:
        common = CommonStatistics.unpack(packed_statistics, modalities)
    load = partial(
        load_split,
        node.dataset,
        local_name,
        device=device,
        common=common,
        modalities=[modality.name for modality in modalities],
        stacked=not takes_modalities(settings.model),
    )
    plan = _make_room(context, settings, model, modalities, device)
    cache_bytes = None if plan is None else plan.cache_bytes
    splits = {}
    for split in ("train", "test", "val"):
        loader = load(split, cache_bytes=cache_bytes)
        if cache_bytes is not None and loader is not None:
            cache_bytes -= loader.cached_bytes
        splits[split] = loader
    assert splits["train"] is not None  # check_trainable has seen its samples
    if settings.compile:
        compile_model(model, device)
    at_once = None if plan is None else plan.chips_at_once
    learned = micro_batches.setdefault(context.run_id, MicroBatches(MicroBatch(at_once)))
    return Site(
        name,
        model,
        train=splits["train"],
        test=splits["test"],
        val=splits["val"],
        num_classes=len(store.classes),
        lacking=[m.name for m in modalities if m.name not in own],
        state_dir=state_dir,
        # Made again when it is needed, which is once: a kept copy would double a site's memory.
        initial=lambda: ModelParts(make_model(), settings.batch_norm).vector(),
        batch_norm=settings.batch_norm,
        micro_batches=learned,
        transformed=settings.method != "fedavg" and settings.scheme().transform != "none",
        # Only a simulation's sites have no data of their own.
        durable_every=1 if "data-dir" in context.node_config else settings.checkpoint_every,
    )


def _make_room(
    context: Context,
    settings: Settings,
    model: torch.nn.Module,
    modalities: Sequence[ModalityInfo],
    device: torch.device,
) -> MemoryPlan | None:
    """Close sites until there is memory for another; on a GPU, return how it is divided."""
    if device.type == "cuda":
        plan = plan_gpu(settings, context.node_config, model, modalities, device, SITES_IN_MEMORY)
        _close_sites(plan.sites - 1)
        return plan
    # Weights, gradients, the optimizer's state and the change: as a rule of thumb.
    needed = 4 * sum(tensor.nbytes for tensor in model.state_dict().values())
    while opened_sites and free_bytes(device) < needed:
        opened_sites.popitem(last=False)
    return None


def _initial_weights(context: Context, settings: Settings) -> Path | None:
    """Return the file of initial weights on this machine: the node's own before the run's.

    The path of the run may be that of another machine. A site without the file starts from the
    seed, and is sent what it lacks.
    """
    own, weights = context.node_config.get("init-weights"), settings.initial_weights()
    if weights is None:  # the run starts from the seed, whatever the machine has
        return None
    weights = Path(str(own)) if own else weights
    if not weights.exists():
        log(WARNING, "initial weights %s are not on this machine: asking the server", weights)
        return None
    return weights


def _state_dir(context: Context, settings: Settings) -> Path:
    """Return where sites keep their state: the node's own setting goes before the run's."""
    state_dir = context.node_config.get("state-dir") or settings.state_dir
    if state_dir:
        return Path(str(state_dir))
    return (Path(settings.out) if settings.out else home()) / "state"


# ---- what a task says --------------------------------------------------------------------------


def _value(task: ConfigRecord, key: str, default: Value) -> Value:
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
    rate = _value(task, messages.LEARNING_RATE, 0.0)
    if not 0 < rate < math.inf:
        raise RunError(
            f"the server's task has {messages.LEARNING_RATE}={rate}, and it must be above 0: "
            "install the same version at the server and at all sites"
        )
    return rate


def _clip_scale(task: ConfigRecord) -> float:
    scale = _value(task, messages.CLIP_SCALE, 1.0)
    if not 0 < scale <= 1:
        raise RunError(
            f"the server's task has {messages.CLIP_SCALE}={scale}, and it must be above 0, up to "
            "1: install the same version at the server and at all sites"
        )
    return scale


def _origin(context: Context, task: ConfigRecord) -> RunOrigin:
    """Return the run that asks. A resumed run keeps its number, but Flower gives it a new one."""
    # Bytes, for Flower's run numbers have 64 bits and its records hold signed integers.
    run = _value(task, messages.RUN, b"")
    kept_rounds = _value(task, messages.KEPT_ROUNDS, b"")
    return RunOrigin(
        run=int.from_bytes(run, "little") if run else context.run_id,
        attempt=context.run_id,
        resumed_round=_value(task, messages.RESUMED_ROUND, 0),
        kept_rounds=messages.unpack_rounds(kept_rounds) if kept_rounds else (),
    )


def _received_model(message: Message, task: ConfigRecord, spec: ModelSpec) -> ReceivedModel:
    version = _value(task, messages.VERSION, 0)
    fingerprint = _value(task, messages.FINGERPRINT, b"")
    running = message.content.array_records.get(messages.RUNNING)
    try:
        statistics = b"" if running is None else join_upload(running)
    except WireError as error:
        raise RunError(f"the running statistics arrived damaged: {error}") from None
    transform = _value(task, messages.TRANSFORM, b"")
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


def _received_frozen_part(message: Message) -> bytes | None:
    record = message.content.array_records.get(messages.FROZEN)
    if record is None:
        return None
    try:
        return join_upload(record)
    except WireError as error:
        raise RunError(f"the frozen part of the model arrived damaged: {error}") from None


def _round_task(settings: Settings, origin: RunOrigin, task: ConfigRecord) -> RoundTask:
    number = _value(task, messages.ROUND, 0)
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
        budget_bytes=_value(task, messages.BUDGET_BYTES, 0.0),
        momentum_correction=settings.resolved("momentum_correction"),
        step_ahead=settings.resolved("step_ahead"),
        accepted_round=_value(task, messages.ACCEPTED_ROUND, 0),
        accepted_share=_value(task, messages.ACCEPTED_SHARE, 1.0),
    )


# ---- what a site replies -----------------------------------------------------------------------


def _train_metrics(result: RoundResult) -> MetricRecord:
    metrics = MetricRecord(
        {
            messages.NUM_EXAMPLES: result.num_examples,
            messages.TRAIN_LOSS: result.train_loss,
            messages.SECONDS: result.seconds,
        }
    )
    if result.scores is not None:
        metrics[messages.SCORE_LOSS] = result.scores.test.loss
        metrics.update(_class_counts(result.scores.test, messages.CLASS_COUNTS))
        metrics.update(_validation_metrics(result.scores))
    if result.weights is None:
        metrics[messages.VERSION] = result.version
    return metrics


def _validation_metrics(scores: SiteScores) -> dict[str, float | list[int]]:
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


def _request_reply(message: Message, request: str, reason: Exception) -> Message:
    """Ask the server for the whole model, and with another request than ``resync`` for more."""
    log(WARNING, "asking the server for the whole model: %s", reason)
    metrics = MetricRecord({request: 1})
    return Message(RecordDict({messages.METRICS: metrics}), reply_to=message)
