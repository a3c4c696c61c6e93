"""Flower's ClientApp: say which sites are here, work rounds, score the final model.

:mod:`strategies.messages` lists the records and fields of every message.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from functools import partial
from logging import WARNING
from pathlib import Path

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import log

from clients.acceleration import compile_model
from clients.device_memory import MemoryPlan, free_bytes
from clients.frozen_cache import FrozenPartMissing, load_frozen_part
from clients.micro_batch import MicroBatch, MicroBatches
from clients.model_parts import ModelParts
from clients.replica import ReplicaOutOfSync
from clients.site import Site
from clients.training import choose_device
from data_prep.common_statistics import CommonStatistics, site_sums
from fl_app.data_loaders import load_split
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
    modality_infos,
    node_data,
)
from fl_app.task_records import (
    read_value,
    received_by,
    received_frozen_part,
    request_reply,
    round_task,
    run_origin,
    train_metrics,
    validation_metrics,
)
from rsdgc.errors import RsdgcError, RunError, SettingError
from rsdgc.registry import add_code_dir
from strategies import messages
from strategies.model_record import to_record
from strategies.node_answer import read_modalities, site_record
from strategies.sites import ModalityInfo
from strategies.transport import chunk_upload

SITES_IN_MEMORY = 16
"""Most sites that one process keeps open between rounds, with their chips and model."""

LACKING = (ReplicaOutOfSync, FrozenPartMissing)
"""What a site raises that lacks a part of the model; the server sends it within the round."""

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
        choose_device(_settings(context).device)  # each round would fail without it
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
    origin = run_origin(context, task)
    try:
        site = _site(context, message)
        received = received_by(message, task, site.spec)
        result = site.work(round_task(settings, origin, task), received)
    except LACKING as reason:
        return request_reply(message, reason)
    if result.weights is None:
        update = chunk_upload(result.payload)
    else:
        update = to_record(result.weights, site.spec, site.present)
    content = RecordDict({messages.UPDATE: update, messages.METRICS: train_metrics(result)})
    if result.statistics:
        content[messages.RUNNING] = chunk_upload(result.statistics)
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the received model at the site that the task names."""
    task = message.content.config_records[messages.TASK]
    try:
        site = _site(context, message)
        received = received_by(message, task, site.spec)
        scores, local = site.evaluate(run_origin(context, task), received)
    except LACKING as reason:
        return request_reply(message, reason)
    metrics = MetricRecord(
        {
            messages.NUM_EXAMPLES: scores.test.samples,
            messages.SCORE_LOSS: scores.test.loss,
            messages.CONFUSION: scores.test.confusion.reshape(-1).tolist(),
        }
    )
    metrics.update(validation_metrics(scores))
    content = RecordDict({messages.METRICS: metrics})
    if local:
        content[messages.LOCAL] = chunk_upload(local)
    return Message(content, reply_to=message)


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
    name, statistics = str(task[messages.SITE]), read_value(task, messages.NORMALIZATION, b"")
    modalities = read_modalities(task) if messages.MODALITIES in task else ()
    frozen = read_value(task, messages.FROZEN, b"")
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
        load_frozen_part(parts, frozen, state_dir, received_frozen_part(message))
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
    at_once, more = (None, "") if plan is None else (plan.chips_at_once, plan.more_memory)
    fresh = MicroBatches(MicroBatch(at_once, more), MicroBatch(None, more))
    learned = micro_batches.setdefault(context.run_id, fresh)
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
