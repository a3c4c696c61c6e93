from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import (
    Neighborhoods,
    Scheme,
)
from rsdgc.codec.bit_planes import MAX_LEVEL
from rsdgc.codec.golomb_rice import RiceWriter
from rsdgc.codec.indices import KeptNeighborhoods, write_ids
from rsdgc.codec.quantizer import COARSEST_STEP, FINEST_STEP
from rsdgc.codec.step_search import SAMPLE_VALUES, StepSearch
from tests.rsdgc.examples import heavy_tailed, normal
from tests.rsdgc.models import small_resnet

LARGE = [layer for layer in small_resnet().layers if layer.size > 9000]


def layers_of(draw, scale=1.0, kind="kernel"):
    found = []
    for seed, layer in enumerate(LARGE):
        grid = Scheme(neighborhood=kind).cut(layer.shape)
        ids = np.flatnonzero(np.random.default_rng(seed).random(grid.count) < 0.15)
        values = draw(layer.size, seed) * np.float32(scale)
        found.append(KeptNeighborhoods(grid, ids, grid.gather(values, ids)))
    return found


def search_of(layers, **words):
    peaks = [layer.grid.peaks(layer.values, layer.ids) for layer in layers]
    counts = [layer.grid.count for layer in layers]
    return StepSearch([layer.values for layer in layers], peaks, counts, **words)


def real_bits(layers, quantizer, indices):
    writer = RiceWriter()
    sent = []
    for layer in layers:
        outside = quantizer.is_outside(layer.grid.peaks(layer.values, layer.ids))
        pieces = list(layer.grid.select(layer.values, layer.ids, outside))
        values = np.concatenate([np.empty(0, np.float32), *pieces])
        sent.append(KeptNeighborhoods(layer.grid, layer.ids[outside], values))
    raw = write_ids(sent, indices, writer).raw_ids
    for layer in sent:
        quantizer.quantize([layer.values], layer.values.size).write(writer)
    return writer.num_bits + 8 * len(raw)


@pytest.mark.parametrize("draw", [normal, heavy_tailed])
@pytest.mark.parametrize("kind", ["kernel", "element"])
@pytest.mark.parametrize("indices", ["rice", "int32"])
@pytest.mark.parametrize("part", [0.3, 1.0, 3.0])
def test_expected_bits_are_near_the_real_ones(draw, kind, indices, part):
    layers = layers_of(draw, kind=kind)
    search = search_of(layers, raw_ids=indices == "int32")
    step = part * float(np.sqrt(np.mean(np.square(np.concatenate([la.values for la in layers])))))
    assert search.bits(step) == pytest.approx(
        real_bits(layers, search.quantizer(step), indices), rel=0.05
    )


@pytest.mark.parametrize("draw", [normal, heavy_tailed])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_step_meets_the_bits(draw, scale):
    search = search_of(layers_of(draw, scale))
    for bits in (1e4, 1e5, 5e5):
        step = search.step(bits)
        assert search.bits(step) <= bits
        assert search.bits(step) > 0.98 * bits
        assert search.bits(step * 0.99) > bits * 0.99


def test_steps_stay_in_range():
    layers = layers_of(normal)
    largest = max(float(np.abs(layer.values).max()) for layer in layers)
    search = search_of(layers)
    assert search.step(1e12) == pytest.approx(largest / MAX_LEVEL)
    for bits in (0.0, -5.0):
        step = search.step(bits)
        assert 2 * largest * (1 - 1e-6) <= step <= 2.1 * largest
        assert search.bits(step) == 0


@given(st.sampled_from([0.0, 1e-45, 1e-39, 1e-36, 1e38, float(np.finfo(np.float32).max)]))
def test_extreme_values_have_a_step(largest):
    grid = Neighborhoods(1, 8, 1, 4)
    values = np.array([0, largest, -largest, largest / 2, 0, 0, 0, largest], np.float32)
    search = search_of([KeptNeighborhoods(grid, np.arange(2), values)])
    for bits in (0.0, 10.0, 1e9):
        step = search.step(bits)
        assert FINEST_STEP <= step <= COARSEST_STEP
        assert np.isfinite(search.bits(step))
        assert search.quantizer(step).step == pytest.approx(step)


def test_small_layers_are_looked_at_whole_and_large_ones_by_a_sample():
    few = KeptNeighborhoods(Neighborhoods(1, 90, 1, 9), np.arange(10), normal(90))
    count = 3 * SAMPLE_VALUES
    many = KeptNeighborhoods(Neighborhoods(1, count, 1, 1), np.arange(count), normal(count, 1))
    search = search_of([few, many])
    quantizer = search.quantizer(0.5)
    assert search.bits(0.5) == search_of([few, many]).bits(0.5)
    above = search._values.num_above(0.25)
    assert above[0] == np.count_nonzero(np.abs(few.values) > 0.25)
    assert above[1] == pytest.approx(np.count_nonzero(np.abs(many.values) > 0.25), rel=0.02)
    assert search._values.weights.sum() == pytest.approx(90 + count)
    assert search._values.magnitudes.size <= SAMPLE_VALUES
    assert quantizer.step == 0.5
