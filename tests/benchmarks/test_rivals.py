from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.federated_training import Flat
from benchmarks.rivals import (
    CHUNK_SIZE,
    EF21,
    RESIDUAL_DECAY,
    PowerSGD,
    SparseLoCo,
    decode_chunks,
    encode_chunks,
    factor_bytes,
)
from rsdgc import ModelSpec

SPEC = ModelSpec.from_shapes({"conv": (24, 16, 3, 3), "bias": (24,), "head": (10, 64), "one": ()})
SHARES = [0.5, 0.3, 0.2]
BUDGET = SPEC.dense_bytes / 20


def changes(seed: int) -> list[Flat]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(SPEC.size).astype(np.float32) for _ in SHARES]


def weighted(vectors: list[Flat]) -> Flat:
    total = np.zeros(SPEC.size, np.float32)
    for share, vector in zip(SHARES, vectors, strict=True):
        total += np.float32(share) * vector
    return total


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 3 * CHUNK_SIZE), min_size=1, max_size=4),
    times=st.floats(1, 500),
    seed=st.integers(0, 99),
)
def test_chunks_decode_to_a_part_of_the_vector_of_the_same_signs(
    sizes: list[int], times: float, seed: int
) -> None:
    spec = ModelSpec.from_shapes({f"l{i}": (size,) for i, size in enumerate(sizes)})
    vector = np.random.default_rng(seed).standard_normal(spec.size).astype(np.float32)
    payload = encode_chunks(spec, vector, spec.dense_bytes / times)
    sent = decode_chunks(spec, payload)
    assert ((sent == 0) | (np.sign(sent) == np.sign(vector))).all()
    assert np.linalg.norm(vector - sent) < np.linalg.norm(vector)
    least = encode_chunks(spec, vector, 0)
    assert len(payload) <= max(spec.dense_bytes / times, len(least))


def test_a_chunk_keeps_its_largest_elements() -> None:
    spec = ModelSpec.from_shapes({"w": (2 * CHUNK_SIZE,)})
    vector = np.full(spec.size, 0.1, np.float32)
    vector[[5, CHUNK_SIZE + 7]] = 3.0, -4.0
    sent = decode_chunks(spec, encode_chunks(spec, vector, 0))
    assert np.flatnonzero(sent).tolist() == [5, CHUNK_SIZE + 7]
    assert sent[[5, CHUNK_SIZE + 7]].tolist() == [3.0, -4.0]


def test_sparseloco_keeps_what_it_does_not_send_and_decays_it() -> None:
    rival = SparseLoCo(SPEC, SHARES, BUDGET)
    first, second = changes(0), changes(1)
    step = rival.step(first, 1)
    left = weighted(first) - step
    both = step + rival.step(second, 2) + weighted(rival._residuals)
    lost = (1 - RESIDUAL_DECAY) * left
    np.testing.assert_allclose(both, weighted(first) + weighted(second) - lost, atol=1e-5)
    assert 0.9 * BUDGET < rival.bytes_up <= BUDGET
    assert rival.bytes_down == 2 * rival.bytes_up


def test_ef21_approaches_changes_that_stay_the_same() -> None:
    rival, same = EF21(SPEC, SHARES, BUDGET), changes(2)
    errors = [np.linalg.norm(rival.step(same, n) - weighted(same)) for n in range(1, 80)]
    assert errors[-1] < 0.1 * errors[0]
    assert rival.bytes_down == SPEC.dense_bytes


def test_powersgd_keeps_what_it_does_not_send() -> None:
    rival = PowerSGD(SPEC, SHARES, BUDGET)
    first, second = changes(3), changes(4)
    both = rival.step(first, 1) + rival.step(second, 2) + weighted(rival._residuals)
    np.testing.assert_allclose(both, weighted(first) + weighted(second), atol=0.02)
    assert rival.bytes_up == rival.bytes_down == factor_bytes(SPEC, rival.rank) <= BUDGET


def test_powersgd_finds_matrices_of_its_rank() -> None:
    rival = PowerSGD(SPEC, SHARES, BUDGET)
    rng = np.random.default_rng(5)
    vector = np.zeros(SPEC.size, np.float32)
    for view in SPEC.views(vector)[:1]:
        view[:] = np.outer(rng.standard_normal(24), rng.standard_normal(144)).ravel()
    step = rival.step([vector] * len(SHARES), 1)
    assert np.linalg.norm(step - vector) < 0.01 * np.linalg.norm(vector)


@pytest.mark.parametrize("times", [2, 20, 10**6])
def test_powersgd_takes_the_largest_rank_that_fits(times: float) -> None:
    budget = SPEC.dense_bytes / times
    rank = PowerSGD(SPEC, SHARES, budget).rank
    assert rank == 1 or factor_bytes(SPEC, rank) <= budget
    assert factor_bytes(SPEC, rank + 1) > budget or rank == 24
