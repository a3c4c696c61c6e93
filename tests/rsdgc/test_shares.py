import numpy as np
import pytest

from rsdgc import (
    ModelSpec,
    RsdgcError,
    Scheme,
    SettingError,
    cut,
    uniform_shares,
    update_shares,
    weight_shares,
)
from tests.rsdgc.examples import MIXED, normal

PAIR = ModelSpec.from_shapes({"a": (4, 9), "b": (8, 9), "bias": (8,)})


def test_uniform():
    assert uniform_shares(PAIR).tolist() == [1, 1, 1]


def test_weight_shares_rank_neurons_across_layers():
    weights = np.ones(PAIR.size, np.float32)
    a, b, bias = PAIR.views(weights)
    a[:] = -3  # all four neurons of a in the top
    b[:18] = 2  # two of eight of b
    bias[:] = 100  # no neurons
    assert weight_shares(PAIR, weights, top_share=0.5).tolist() == [1, 0.25, 0.5]


def test_weight_shares_are_the_paper_s_count():
    weights = normal(MIXED.size)
    rows = [
        (index, float(np.abs(row).mean()))
        for index, (layer, view) in enumerate(zip(MIXED.layers, MIXED.views(weights), strict=True))
        if len(layer.shape) > 1
        for row in view.reshape(layer.shape[0], -1)
    ]
    best = sorted(rows, key=lambda pair: -pair[1])[: round(0.3 * len(rows))]
    found = weight_shares(MIXED, weights, top_share=0.3)
    for index, layer in enumerate(MIXED.layers):
        if len(layer.shape) > 1:
            count = sum(owner == index for owner, _ in best)
            assert found[index] == pytest.approx(count / layer.shape[0])


def test_update_shares_rank_neighborhoods_across_layers():
    update = np.full(PAIR.size, 0.1, np.float32)
    a, b, _ = PAIR.views(update)
    a[:9] = 5
    b[:27] = -4
    found = update_shares(PAIR, Scheme(), update, top_share=4 / 13, floor=0)
    assert found.tolist() == [0.25, 0.375, 0]


def test_zeros_of_a_sparse_update_never_count():
    update = np.zeros(PAIR.size, np.float32)
    PAIR.views(update)[1][:9] = 1
    assert update_shares(PAIR, Scheme(), update, top_share=1, floor=0).tolist() == [0, 0.125, 0]
    assert update_shares(PAIR, Scheme(), update * 0).tolist() == [1, 1, 1]


@pytest.mark.parametrize("floor", [0.1, 0.5, 1.0])
def test_with_a_floor_no_layer_starves(floor):
    update = np.zeros(PAIR.size, np.float32)
    PAIR.views(update)[1][:] = 1
    found = update_shares(PAIR, Scheme(), update, top_share=0.5, floor=floor)
    assert found.min() == pytest.approx(floor * 6 / 13)
    mean = np.average(found, weights=[cut(x.shape, Scheme()).count for x in PAIR.layers])
    assert mean == pytest.approx(6 / 13)
    assert weight_shares(PAIR, update, 0.5, floor).min() > 0


def test_layers_rank_by_rms_whatever_the_unit():
    update = normal(MIXED.size) * np.float32(1e-25)
    first = update_shares(MIXED, Scheme(), update, 0.2)
    assert first == pytest.approx(update_shares(MIXED, Scheme(), update * np.float32(1e30), 0.2))


@pytest.mark.parametrize(
    "arguments", [{"top_share": 0}, {"top_share": 1.1}, {"floor": -0.1}, {"floor": np.nan}]
)
def test_bad_arguments_are_refused(arguments):
    flat = normal(PAIR.size)
    with pytest.raises(SettingError, match="choose"):
        weight_shares(PAIR, flat, **arguments)
    with pytest.raises(SettingError, match="choose"):
        update_shares(PAIR, Scheme(), flat, **arguments)


def test_non_finite_input_is_refused():
    flat = normal(PAIR.size)
    flat[0] = np.nan
    with pytest.raises(RsdgcError):
        weight_shares(PAIR, flat)
    with pytest.raises(RsdgcError):
        update_shares(PAIR, Scheme(), flat)
