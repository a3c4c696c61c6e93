"""What the server holds as sites and rounds grow: encoded uploads once, never a model per site."""

import gc
import tracemalloc
from collections import deque

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord

from rsdgc import RMS, Compressor, ModelSpec, Scheme
from rsdgc.arrays import Float32
from strategies import Ledger, RsDgc, messages
from strategies.downlink import PublishedModel
from strategies.model_record import to_record
from tests.strategies.fake_sites import (
    RUN,
    FakeSites,
    initial_weights,
    loopback,
    rates,
    round_settings,
    site_manager,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

SPEC = ModelSpec.from_shapes({"conv.weight": (256, 128, 3, 3), "head.weight": (512, 512)})
UP, DOWN = 20, 50
FEW, MANY = 8, 108


class EqualSites(FakeSites):
    """All sites upload the same in a round, which is encoded once; each has its own copy."""

    def __init__(self) -> None:
        super().__init__(SPEC)
        self._vector = np.random.default_rng(0).standard_normal(SPEC.size, dtype=np.float32)
        self._payloads: dict[int, bytes] = {}

    def change(self, site: str, number: int) -> Float32:
        return self._vector.copy()

    def encode(self, task: ConfigRecord) -> bytes:
        number = int(task[messages.ROUND])
        if number not in self._payloads:
            self._payloads = {number: super().encode(task)}
        return self._payloads[number]


def run(sites: int, rounds: int) -> list[tuple[int, int]]:
    """Return bytes in use and the peak so far, after each round, without what the test holds."""
    names = tuple(f"site-{number:03}" for number in range(sites))
    grid = loopback(EqualSites(), sites)
    grid.seen = deque(maxlen=1)  # type: ignore[assignment]
    start = initial_weights(SPEC)
    compressor = Compressor(SPEC, Scheme(), RMS())
    model = PublishedModel(start, rates(DOWN, SPEC), compressor, RUN)
    ledger = Ledger(None, SPEC.dense_bytes)
    strategy = RsDgc(
        site_manager(names), ledger, round_settings(), rates(UP, SPEC), model, rates(10, SPEC)
    )
    arrays = to_record(start, SPEC)
    measured: list[tuple[int, int]] = []

    def measure(_: int, __: ArrayRecord) -> None:
        gc.collect()  # messages refer to each other: what waits for the collector is not held
        measured.append(tracemalloc.get_traced_memory())

    tracemalloc.start()
    try:
        strategy.start(grid, arrays, num_rounds=rounds, timeout=60.0, evaluate_fn=measure)
    finally:
        tracemalloc.stop()
    assert [entry.sites for entry in ledger.rounds[1:]] == [sites] * rounds
    assert ledger.refusals == {}
    return measured


def test_a_site_more_costs_the_server_its_encoded_upload_and_little_else() -> None:
    upload = SPEC.dense_bytes / UP
    few, many = run(FEW, rounds=2)[-1], run(MANY, rounds=2)[-1]
    bytes_per_site_at_the_peak = (many[1] - few[1]) / (MANY - FEW)
    bytes_per_site_after = (many[0] - few[0]) / (MANY - FEW)
    assert bytes_per_site_at_the_peak < 1.5 * upload
    assert bytes_per_site_after < 0.2 * upload


def test_rounds_add_a_patch_to_the_log_and_little_else() -> None:
    used = [used for used, _ in run(20, rounds=8)]
    patch = SPEC.dense_bytes / DOWN
    assert (used[-1] - used[3]) / (len(used) - 4) < 1.5 * patch
