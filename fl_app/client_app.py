"""Flower's ClientApp: tell the server who is here, work a round, score the final model."""

from __future__ import annotations

from collections.abc import Callable
from logging import WARNING
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common import log
from numpy.typing import NDArray

from clients.site import ReceivedModel, ReplicaOutOfSync, RoundTask, RunOrigin, Site
from clients.training import TrainSettings, choose_device
from clients.weights import model_spec, model_to_vector
from data_prep.common_statistics import CommonStatistics, site_sums
from fl_app.home import home
from fl_app.models import build_model
from fl_app.round_reply import round_reply
from fl_app.settings import Settings
from fl_app.site_data import NodeData, check_trainable, load_split, node_data
from rsdgc import ModelSpec
from rsdgc.errors import RunError, WireError
from rsdgc.patches import unpack_patches
from strategies import messages

SITES_IN_MEMORY = 16
"""Sites whose chips and model one process keeps between rounds."""

app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Answer the roll call: which sites are here, and what they have."""
    here = _host(context)
    dataset, store = here.dataset, here.dataset.store
    check_trainable(dataset, here.sites)
    counts = {
        name: [len(dataset.site(local).split(part)[0]) for part in ("train", "test")]
        for name, local in here.sites.items()
    }
    card = ConfigRecord(
        {
            messages.NAMES: list(counts),
            messages.NUM_TRAIN: [num_train for num_train, _ in counts.values()],
            messages.NUM_TEST: [num_test for _, num_test in counts.values()],
            messages.CLASSES: list(store.classes),
            messages.BANDS: store.num_bands,
            messages.CHIP_PX: store.chip_px,
            messages.DATASET: dataset.name,
            messages.SYNTHETIC: bool(store.meta.synthetic),
        }
    )
    return Message(RecordDict({messages.SITE: card}), reply_to=message)


@app.query(messages.STATISTICS)
def statistics(message: Message, context: Context) -> Message:
    """Tell the sums of a site's train samples; no pixel leaves it.

    The sums of all sites, added by :func:`data_prep.common_statistics.merge_sites`, are what all
    can normalise by.
    """
    here = _host(context)
    name = str(message.content.config_records[messages.TASK][messages.SITE])
    sums = site_sums(here.dataset, _local(here, name))
    record = ConfigRecord(sums.to_mapping())  # type: ignore[arg-type]
    return Message(RecordDict({messages.SUMS: record}), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Work one round at the site that the task names."""
    settings = _settings(context)
    task = message.content.config_records[messages.TASK]
    site = _site(context, task)
    origin = _origin(context, task)
    try:
        delivery = _delivery(message, task, site.spec)
        result = site.work(_round_task(settings, origin, task), delivery)
    except ReplicaOutOfSync as reason:
        return _ask_for_the_whole(message, reason)
    return Message(round_reply(result, site.spec), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Score the received model on the test split of the site that the task names."""
    task = message.content.config_records[messages.TASK]
    site = _site(context, task)
    try:
        score = site.evaluate(_origin(context, task), _delivery(message, task, site.spec))
    except ReplicaOutOfSync as reason:
        return _ask_for_the_whole(message, reason)
    metrics = MetricRecord(
        {
            messages.NUM_EXAMPLES: int(score.confusion.sum()),
            messages.SCORE_LOSS: float(score.loss),
            messages.CONFUSION: score.confusion.reshape(-1).tolist(),
        }
    )
    return Message(RecordDict({messages.METRICS: metrics}), reply_to=message)


def _settings(context: Context) -> Settings:
    return Settings.from_mapping(context.run_config)


def _host(context: Context) -> NodeData:
    return node_data(context.node_config, _settings(context))


def _local(here: NodeData, name: str) -> str:
    """Return the name that a site has in the node's data."""
    if name not in here.sites:
        raise RunError(f"site '{name}' is not at this node, which has {', '.join(here.sites)}")
    return here.sites[name]


def _site(context: Context, task: ConfigRecord) -> Site:
    """Return a site, from memory where this process has worked for it before."""
    name, packed = str(task[messages.SITE]), task.get(messages.NORMALIZATION, b"")
    configs = (sorted(context.node_config.items()), sorted(context.run_config.items()))
    key = (context.run_id, name, packed, repr(configs))
    return _kept(key, lambda: _open_site(context, name, packed))


def _open_site(context: Context, name: str, packed: object) -> Site:
    settings = _settings(context)
    here = _host(context)
    local = _local(here, name)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = choose_device(settings.device)
    store = here.dataset.store
    num_classes = len(store.classes)
    check_trainable(here.dataset, {name: local})
    common = None
    if isinstance(packed, bytes) and packed:
        common = CommonStatistics.unpack(packed, store.meta.modalities)
    train_split = load_split(here.dataset, local, "train", device, common)
    assert train_split is not None

    def make() -> torch.nn.Module:
        return build_model(
            settings.model, store.num_bands, num_classes, store.chip_px, settings.seed
        )

    model = make()
    site_spec = model_spec(model)
    return Site(
        name,
        model,
        train=train_split,
        test=load_split(here.dataset, local, "test", device, common),
        num_classes=num_classes,
        state_dir=_state_dir(context, settings),
        initial=lambda: model_to_vector(make(), site_spec),
    )


def _state_dir(context: Context, settings: Settings) -> Path:
    own = context.node_config.get("state-dir")
    if own:
        return Path(str(own))
    if settings.state_dir:
        return Path(settings.state_dir)
    return Path(settings.out) / "state" if settings.out else home() / "state"


def _ask_for_the_whole(message: Message, reason: ReplicaOutOfSync) -> Message:
    log(WARNING, "the whole model is needed: %s", reason)
    metrics = MetricRecord({messages.RESYNC: 1})
    return Message(RecordDict({messages.METRICS: metrics}), reply_to=message)


def _origin(context: Context, task: ConfigRecord) -> RunOrigin:
    """Return which run asks: a resumed one keeps its number, and has a Flower run of its own."""
    run = task.get(messages.RUN)
    kept = task.get(messages.KEPT_ROUNDS)
    return RunOrigin(
        run=int.from_bytes(run, "little") if isinstance(run, bytes) else context.run_id,
        attempt=context.run_id,
        resumed_round=_integer(task, messages.RESUMED_ROUND),
        kept_rounds=messages.unpack_rounds(kept) if isinstance(kept, bytes) else (),
    )


def _delivery(message: Message, task: ConfigRecord, spec: ModelSpec) -> ReceivedModel:
    print_ = task.get(messages.FINGERPRINT, b"")
    version = _integer(task, messages.VERSION)
    print_ = print_ if isinstance(print_, bytes) else b""
    record = message.content.array_records.get(messages.MODEL)
    if record is None:
        return ReceivedModel(version, print_)
    if messages.PATCHES not in record:
        return ReceivedModel(version, print_, whole=_weights(record, spec))
    try:
        patches = unpack_patches(record[messages.PATCHES].numpy().tobytes())
    except WireError as error:
        raise ReplicaOutOfSync(str(error)) from None
    return ReceivedModel(version, print_, patches=tuple(patches))


def _round_task(settings: Settings, origin: RunOrigin, task: ConfigRecord) -> RoundTask:
    return RoundTask(
        origin=origin,
        round=_integer(task, messages.ROUND),
        method="fedavg" if settings.method == "fedavg" else "rs-dgc",
        train=TrainSettings(
            lr=float(task[messages.LEARNING_RATE]),  # type: ignore[arg-type]
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            batch_size=settings.batch_size,
            epochs=settings.local_epochs,
            steps=settings.local_steps,
            clip_norm=settings.clip_norm,
            augment=settings.augment,
            amp=settings.amp,
            jitter=settings.jitter,
            band_dropout=settings.band_dropout,
        ),
        seed=settings.seed,
        scheme=settings.scheme(),
        indicator=settings.resolved("indicator"),
        mean_weight=settings.nsi_mean_weight,
        std_weight=settings.nsi_std_weight,
        ratios=np.asarray(task.get(messages.RATIOS, []), dtype=np.float64),
        budget_bytes=float(task.get(messages.BUDGET_BYTES, 0.0)),  # type: ignore[arg-type]
        momentum_correction=settings.resolved("momentum_correction"),
        accepted_round=_integer(task, messages.ACCEPTED_ROUND),
    )


def _integer(task: ConfigRecord, key: str) -> int:
    value = task.get(key, 0)
    if not isinstance(value, int):
        raise RunError(f"the server's task has {key}={value!r}; it should be a whole number")
    return value


def _weights(record: ArrayRecord, spec: ModelSpec) -> NDArray[np.float32]:
    if messages.PACKED in record:
        flat = record[messages.PACKED].numpy()
    else:
        flat = np.concatenate([record[layer.name].numpy().reshape(-1) for layer in spec.layers])
    if flat.dtype != np.float32 or flat.shape != (spec.size,):
        raise RunError(
            f"the server's model is {flat.dtype}{list(flat.shape)}, this site's is "
            f"float32[{spec.size}]; use the same version and data at all sites"
        )
    return flat


_opened: dict[Any, Site] = {}


def _kept(key: Any, make: Callable[[], Site]) -> Site:
    """Return ``make()``, remembered for the sites last worked for."""
    site = _opened.pop(key, None) or make()
    _opened[key] = site
    while len(_opened) > SITES_IN_MEMORY:
        _opened.pop(next(iter(_opened)))
    return site
