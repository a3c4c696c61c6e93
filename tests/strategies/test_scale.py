"""What the server holds as sites and rounds grow: encoded uploads once, never a model a site."""

import tracemalloc
from collections import deque

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, MessageType, MetricRecord, RecordDict

from rsdgc import RMS, Compressor, ModelSpec, Scheme, Stamp
from strategies import Ledger, RsDgc, SiteInfo, SiteManager, messages
from strategies.base import RoundSettings
from strategies.downlink import PublishedModel
from strategies.rate_control import RateControl
from strategies.records import to_record
from strategies.sites import DataInfo
from strategies.transport import chunk_upload
from tests.loopback import LoopbackGrid

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CLASSES = ("a", "b", "c")
RUN = 7
SPEC = ModelSpec.from_shapes({"conv.weight": (256, 128, 3, 3), "head.weight": (512, 512)})
UP, DOWN = 20, 50
FEW, MANY = 8, 208


class Sites:
    """Answers for every site with an upload of its own memory and the same content."""

    def __init__(self) -> None:
        self.made: dict[tuple[int, int], bytes] = {}
        self.change = np.random.default_rng(0).standard_normal(SPEC.size, dtype=np.float32)

    def __call__(self, message: Message, context: Context) -> Message:
        task = message.content.config_records[messages.TASK]
        counts = [2] * len(CLASSES)
        metrics = {messages.NUM_EXAMPLES: 10, messages.SCORE_LOSS: 1.0}
        if message.metadata.message_type == MessageType.EVALUATE:
            metrics[messages.CONFUSION] = np.eye(len(CLASSES), dtype=int).reshape(-1).tolist()
            content = {messages.METRICS: MetricRecord(metrics)}
            return Message(RecordDict(content), reply_to=message)
        number, version = int(task[messages.ROUND]), int(task[messages.VERSION])
        if (number, version) not in self.made:
            compressor, stamp = Compressor(SPEC, Scheme(), RMS()), Stamp(RUN, number, version)
            ratios, budget = np.array(task[messages.RATIOS]), float(task[messages.BUDGET_BYTES])
            update = compressor.compress(self.change.copy(), ratios, stamp, budget)
            self.made = {(number, version): update.payload}
        metrics |= dict.fromkeys((messages.TRAIN_LOSS, messages.SECONDS), 1.0)
        metrics |= dict.fromkeys((messages.REFERENCE, messages.PREDICTED, messages.CORRECT), counts)
        metrics[messages.VERSION] = version
        update = chunk_upload(self.made[number, version])
        content = {messages.UPDATE: update, messages.METRICS: MetricRecord(metrics)}
        return Message(RecordDict(content), reply_to=message)


def run(sites: int, rounds: int) -> list[tuple[int, int]]:
    """Return bytes in use and the peak so far, after each round, without what the test holds."""
    grid = LoopbackGrid(Sites(), [{} for _ in range(sites)], {}, RUN)
    grid.seen = deque(maxlen=1)  # type: ignore[assignment]
    manager = SiteManager(DataInfo("made up", True, CLASSES, 3, 16))
    for number, node in enumerate(grid.contexts):
        name = f"site-{number:03}"
        manager.sites[name] = SiteInfo(name, node, 10, 6)
    start = np.random.default_rng(1).standard_normal(SPEC.size, dtype=np.float32)

    def rates(times: float) -> RateControl:
        return RateControl(SPEC, Scheme(), "update", SPEC.dense_bytes / times)

    model = PublishedModel(start, rates(DOWN), Compressor(SPEC, Scheme(), RMS()), RUN)
    rules = RoundSettings(1.0, 1, 0, lambda _: 0.01)
    ledger = Ledger(None, SPEC.dense_bytes)
    strategy = RsDgc(manager, ledger, rules, rates(UP), model, rates(10))
    arrays = to_record(start, SPEC)
    found: list[tuple[int, int]] = []

    def look(_: int, __: ArrayRecord) -> None:
        found.append(tracemalloc.get_traced_memory())

    tracemalloc.start()
    try:
        strategy.start(grid, arrays, num_rounds=rounds, timeout=60.0, evaluate_fn=look)
    finally:
        tracemalloc.stop()
    assert [entry.sites for entry in ledger.rounds[1:]] == [sites] * rounds
    assert ledger.refusals == {}
    return found


def test_a_site_more_costs_the_server_its_encoded_upload_and_little_else() -> None:
    upload = SPEC.dense_bytes / UP
    few, many = run(FEW, rounds=2)[-1], run(MANY, rounds=2)[-1]
    a_site_at_the_peak = (many[1] - few[1]) / (MANY - FEW)
    a_site_after = (many[0] - few[0]) / (MANY - FEW)
    assert a_site_at_the_peak < 1.5 * upload
    assert a_site_after < 0.2 * upload


def test_rounds_add_a_patch_to_the_log_and_little_else() -> None:
    used = [used for used, _ in run(20, rounds=8)]
    patch = SPEC.dense_bytes / DOWN
    assert (used[-1] - used[3]) / (len(used) - 4) < 1.5 * patch
