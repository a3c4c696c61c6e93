from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import (
    Compressor,
    Neighborhoods,
    Scheme,
    Stamp,
    cut,
    fit_ratios,
    make_indicator,
    uniform_shares,
)
from rsdgc.codec.bit_planes import MAX_LEVEL
from rsdgc.codec.dead_zone import MIN_GROUP_VALUES, SAMPLE_VALUES, StepSearch, groups_of
from rsdgc.codec.golomb_rice import RiceWriter
from rsdgc.codec.indices import KeptNeighborhoods, write_ids
from rsdgc.codec.quantizer import COARSEST_STEP, FINEST_STEP
from tests.rsdgc.examples import MIXED, heavy_tailed, normal
from tests.rsdgc.models import small_resnet, vgg19

LARGE = [layer for layer in small_resnet().layers if layer.size > 9000]


def layers_of(draw, scale=1.0, kind="kernel"):
    found = []
    for seed, layer in enumerate(LARGE):
        grid = cut(layer.shape, Scheme(neighborhood=kind))
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
    raw = write_ids(sent, indices, writer).raw
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


RESNET, VGG = small_resnet(), vgg19(divisor=8)


def sent(spec, scheme, times, update):
    budget = spec.dense_bytes / times
    ratios = fit_ratios(spec, scheme, uniform_shares(spec), budget)
    compressor = Compressor(spec, scheme, make_indicator("nsi"))
    return compressor.compress(update, ratios, Stamp(), budget)


def entropy(shares):
    shares = np.asarray(shares)[np.asarray(shares) > 0]
    return float(-(shares * np.log2(shares)).sum())


def entropy_bits(update):
    """The least that the ids of each layer and the levels of each group take, as if independent."""
    densities = zip(update.densities, update.layers, strict=True)
    total = sum(part.grid.count * entropy([kept, 1 - kept]) for kept, part in densities)
    for group in groups_of([part.values.size for part in update.layers]):
        values = np.concatenate([part.values for part in update.layers[group]])
        total += values.size * entropy(np.unique(values, return_counts=True)[1] / values.size)
    return total


@pytest.mark.parametrize("neighborhood", ["kernel", "tile", "element"])
@pytest.mark.parametrize("times", [50, 100, 200])
@pytest.mark.parametrize("draw", [heavy_tailed, normal])
def test_size_is_within_five_per_cent_of_the_entropy(neighborhood, times, draw):
    update = sent(RESNET, Scheme(neighborhood=neighborhood), times, draw(RESNET.size))
    bits = entropy_bits(update)
    assert 8 * update.layer_bytes.sum() <= 1.05 * bits
    assert 8 * len(update.payload) <= 1.05 * bits


@pytest.mark.parametrize("indices", ["rice", "int32"])
@pytest.mark.parametrize("times", [10, 50, 100, 300, 1000])
@pytest.mark.parametrize("spec", [RESNET, VGG], ids=["resnet", "vgg"])
@pytest.mark.parametrize("draw", [normal, heavy_tailed])
def test_size_is_within_one_per_cent_of_the_budget(indices, times, spec, draw):
    scheme = Scheme(indices=indices)
    size = len(sent(spec, scheme, times, draw(spec.size)).payload)
    assert size == pytest.approx(spec.dense_bytes / times, rel=0.01)


def test_the_finest_step_takes_less_than_a_large_budget():
    budget = RESNET.dense_bytes / 1.5
    update = heavy_tailed(RESNET.size)
    compressor = Compressor(RESNET, Scheme(), make_indicator("nsi"))
    found = compressor.compress(update, [0.999999] * len(RESNET.layers), Stamp(), budget)
    assert len(found.payload) < 0.99 * budget
    kept = found.to_dense()
    largest = np.abs(update).max()
    inside = kept != 0
    assert (np.abs(kept - update)[inside] <= 1.01 * largest / 65535).all()


def test_a_larger_budget_keeps_more_energy():
    update = heavy_tailed(RESNET.size)
    errors = [
        np.square(sent(RESNET, Scheme(), times, update).to_dense() - update).sum()
        for times in (400, 200, 100, 50, 20, 10)
    ]
    assert (np.diff(errors) < 0).all()


@given(st.lists(st.integers(0, 2 * MIN_GROUP_VALUES), max_size=30))
def test_groups_hold_all_layers_with_values_once(sizes):
    groups = list(groups_of(sizes))
    totals = [sum(sizes[group]) for group in groups]
    assert sum(totals) == sum(sizes)
    assert [group.start for group in groups[1:]] == [group.stop for group in groups[:-1]]
    assert all(total >= MIN_GROUP_VALUES for total in totals[:-1])
    assert all(totals)
    for group in groups:
        assert sum(sizes[group.start : group.stop - 1]) < MIN_GROUP_VALUES
    rest = sizes[groups[-1].stop :] if groups else sizes
    assert not any(rest)


def test_tiny_layers_share_their_tables():
    found = Compressor(MIXED, Scheme(), make_indicator("nsi")).compress(
        normal(MIXED.size), [0.999999] * 8, Stamp(), 300
    )
    assert found.header_bytes < 50 + 2 * 8 + 7 + 7 + 4
    assert (np.abs(np.array([part.num_bytes for part in found.layers])) < 300).all()
