"""Sites without data or training: every change is random, the uploads are really encoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict

from rsdgc import RMS, Compressor, ModelSpec, Scheme, Stamp
from rsdgc.arrays import Float32
from strategies import Ledger, RsDgc, SiteInfo, SiteManager, messages
from strategies.base import RoundSettings
from strategies.checkpoints import Checkpoints
from strategies.downlink import PublishedModel
from strategies.model_record import to_record
from strategies.rate_control import RateControl
from strategies.sites import DataInfo, ModalityInfo
from strategies.transport import chunk_upload
from tests.loopback import LoopbackGrid

SPEC = ModelSpec.from_shapes({"conv.weight": (8, 4, 3, 3), "head.weight": (4, 8)})
CLASSES = ("a", "b", "c")
MODALITY = ModalityInfo("optical", ("blue", "green", "red"), 16)
NAMES = ("north", "south")
RUN = 7
NUM_TRAIN, NUM_TEST = 10, 6


class FakeSites:
    """Answers the messages to all sites.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    scheme : Scheme
        That of the uploads. Their changes are random in any basis.
    dense : bool
        Whether to reply with whole models, as FedAvg expects.
    """

    def __init__(
        self, spec: ModelSpec = SPEC, scheme: Scheme | None = None, *, dense: bool = False
    ) -> None:
        self.spec = spec
        self.scheme = scheme or Scheme()
        self.dense = dense

    def change(self, site: str, number: int) -> Float32:
        """Return the change of a site in a round."""
        rng = np.random.default_rng([number, *site.encode()])
        return rng.standard_normal(self.spec.size, dtype=np.float32)

    def encode(self, task: ConfigRecord) -> bytes:
        """Return the upload that a task asks for."""
        number, version = int(task[messages.ROUND]), int(task[messages.VERSION])
        change = self.change(str(task[messages.SITE]), number)
        ratios, budget = np.array(task[messages.RATIOS]), float(task[messages.BUDGET_BYTES])
        compressor = Compressor(self.spec, self.scheme, RMS())
        return compressor.compress(change, ratios, Stamp(RUN, number, version), budget).payload

    def __call__(self, message: Message, context: Context) -> Message:
        task = message.content.config_records[messages.TASK]
        metrics: dict[str, Any] = {messages.NUM_EXAMPLES: NUM_TRAIN, messages.SCORE_LOSS: 1.0}
        if message.metadata.message_type == MessageType.EVALUATE:
            matrix = 2 * np.eye(len(CLASSES), dtype=int)
            metrics[messages.NUM_EXAMPLES] = int(matrix.sum())
            metrics[messages.CONFUSION] = matrix.reshape(-1).tolist()
            content = RecordDict({messages.METRICS: MetricRecord(metrics)})
            return Message(content, reply_to=message)
        metrics |= {messages.TRAIN_LOSS: 1.0, messages.SECONDS: messages.pack_seconds([0, 1, 0, 0])}
        metrics |= dict.fromkeys(messages.CLASS_COUNTS, [2] * len(CLASSES))
        if self.dense:
            change = self.change(str(task[messages.SITE]), int(task[messages.ROUND]))
            update = to_record(change, self.spec)
        else:
            metrics[messages.VERSION] = int(task[messages.VERSION])
            update = chunk_upload(self.encode(task))
        content = RecordDict({messages.UPDATE: update, messages.METRICS: MetricRecord(metrics)})
        return Message(content, reply_to=message)


def loopback(sites: FakeSites, count: int = len(NAMES)) -> LoopbackGrid:
    """Return a grid with one node per site."""
    return LoopbackGrid(sites, [{} for _ in range(count)], {}, RUN)


def site_manager(names: tuple[str, ...] = NAMES) -> SiteManager:
    """Return sites at nodes 101, 102, …"""
    manager = SiteManager(DataInfo("made up", True, CLASSES, (MODALITY,)))
    for node, name in enumerate(names, start=101):
        manager.sites[name] = SiteInfo(name, node, NUM_TRAIN, NUM_TEST, (MODALITY.name,))
    return manager


def round_settings() -> RoundSettings:
    return RoundSettings(1.0, 1, 0, lambda _: 0.01)


def rates(
    times: float, spec: ModelSpec = SPEC, scheme: Scheme | None = None, **options: int
) -> RateControl:
    """Return a budget of the dense model over ``times``."""
    return RateControl(spec, scheme or Scheme(), "update", spec.dense_bytes / times, **options)


def initial_weights(spec: ModelSpec = SPEC) -> Float32:
    return np.random.default_rng(1).standard_normal(spec.size, dtype=np.float32)


def rs_dgc(
    cls: type[RsDgc] = RsDgc,
    run_folder: Path | None = None,
    *,
    down: float = 4.0,
    final: float = 1.5,
    names: tuple[str, ...] = NAMES,
    spec: ModelSpec = SPEC,
    scheme: Scheme | None = None,
    **options: Any,
) -> RsDgc:
    """Return a strategy over the fake sites, with checkpoints every two rounds in a folder."""
    scheme = scheme or Scheme()
    compressor = Compressor(spec, scheme, RMS())
    model = PublishedModel(initial_weights(spec), rates(down, spec, scheme), compressor, RUN)
    return cls(
        site_manager(names),
        Ledger(run_folder, spec.dense_bytes),
        round_settings(),
        rates(2.0, spec, scheme, rounds=6, warm_up_rounds=2),
        model,
        rates(final, spec, scheme),
        None if run_folder is None else Checkpoints(run_folder, every=2, keep=1),
        **options,
    )
