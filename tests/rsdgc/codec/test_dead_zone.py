from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import (
    Compressor,
    Scheme,
    Stamp,
    fit_ratios,
    make_indicator,
    uniform_shares,
)
from rsdgc.codec.dead_zone import MIN_GROUP_VALUES, group_layers
from tests.rsdgc.examples import MIXED, heavy_tailed, normal
from tests.rsdgc.models import small_resnet, vgg19

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
    shares = [(part.grid.count, part.kept / part.grid.count) for part in update.layers]
    total = sum(count * entropy([kept, 1 - kept]) for count, kept in shares)
    for group in group_layers([part.values.size for part in update.layers]):
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
    groups = list(group_layers(sizes))
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
