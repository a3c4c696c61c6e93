from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import (
    Compressor,
    ModelSpec,
    RsdgcError,
    Scheme,
    SettingError,
    Stamp,
    estimate_bytes,
    fit_ratios,
    make_indicator,
    uniform_shares,
    update_shares,
    weight_shares,
)
from tests.rsdgc.examples import MIXED, heavy_tailed, normal, schemes, specs
from tests.rsdgc.models import small_resnet, vgg19

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
    mean = np.average(found, weights=[Scheme().cut(x.shape).count for x in PAIR.layers])
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


RESNET, VGG = small_resnet(), vgg19(divisor=8)
INT8 = Scheme(values="int8")
SCHEMES = [
    Scheme(),
    Scheme(neighborhood="tile"),
    Scheme(neighborhood="element"),
    INT8,
    Scheme(neighborhood="tile", values="int8"),
    Scheme(neighborhood="element", values="int8"),
    Scheme(values="ternary", dense_values="int8"),
    Scheme(neighborhood="element", values="float32", indices="int32"),
    Scheme(values="float32"),
    Scheme(neighborhood="element", values="float32"),
    Scheme(values="float16", dense_values="float32"),
]


def encoded_bytes(spec, scheme, ratios, update, budget):
    compressor = Compressor(spec, scheme, make_indicator("nsi"))
    return len(compressor.compress(update, ratios, Stamp(), budget).payload)


@pytest.mark.parametrize(
    "scheme", SCHEMES, ids=lambda s: f"{s.neighborhood}-{s.values}-{s.indices}"
)
@pytest.mark.parametrize("times", [10, 50, 100, 300])
@pytest.mark.parametrize("spec", [RESNET, VGG], ids=["resnet", "vgg"])
@pytest.mark.parametrize("draw", [normal, heavy_tailed])
def test_real_size_is_within_three_per_cent_of_the_budget(spec, scheme, times, draw):
    budget = spec.dense_bytes / times
    ratios = fit_ratios(spec, scheme, uniform_shares(spec), budget)
    assert estimate_bytes(spec, scheme, ratios) <= budget
    size = encoded_bytes(spec, scheme, ratios, draw(spec.size), budget)
    if scheme.values == "ternary" and times == 10:  # a bit a value is a 32nd, int8 a quarter
        assert spec.dense_bytes / 32 < size < spec.dense_bytes / 25
        return
    assert size == pytest.approx(budget, rel=0.01 if scheme.values == "deadzone" else 0.03)


@pytest.mark.parametrize("scheme", [Scheme(), INT8], ids=lambda s: s.values)
@pytest.mark.parametrize("times", [10, 100])
def test_uneven_shares_meet_the_budget_too(scheme, times):
    shares = np.random.default_rng(0).random(len(RESNET.layers)) ** 3
    budget = RESNET.dense_bytes / times
    ratios = fit_ratios(RESNET, scheme, shares, budget)
    size = encoded_bytes(RESNET, scheme, ratios, normal(RESNET.size), budget)
    assert size == pytest.approx(budget, rel=0.01 if scheme.values == "deadzone" else 0.03)


def test_the_models_are_as_large_as_they_say():
    assert 1.15e6 < RESNET.size < 1.3e6
    assert vgg19().size == 139_754_605


def test_small_layers_are_sent_whole_within_their_share():
    budget = RESNET.dense_bytes / 100
    ratios = fit_ratios(RESNET, INT8, uniform_shares(RESNET), budget)
    whole = ratios == 1
    sizes = np.array([layer.size for layer in RESNET.layers])
    assert whole.any()
    assert sizes[whole].max() < sizes[~whole].min()
    assert 2 * sizes[whole].sum() <= 0.1 * budget
    assert len(np.unique(ratios[~whole])) <= 3  # one ratio, but for single neighborhoods


def test_no_layer_of_levels_is_sent_whole_below_the_whole_model():
    ratios = fit_ratios(RESNET, Scheme(), uniform_shares(RESNET), RESNET.dense_bytes / 100, 1.0)
    assert len(np.unique(ratios)) <= 4  # one ratio, but for single neighborhoods
    assert (ratios < 1).all()


def test_ratios_follow_the_shares():
    shares = np.ones(len(RESNET.layers))
    shares[16] = 4
    ratios = fit_ratios(RESNET, Scheme(), shares, RESNET.dense_bytes / 100, dense_share=0)
    large = [i for i, layer in enumerate(RESNET.layers) if layer.size > 50_000]
    assert ratios[16] == pytest.approx(4 * ratios[next(i for i in large if i != 16)])


@pytest.mark.parametrize("times", [1, 0.5, 1.9])
def test_large_budgets_send_everything_whole(times):
    ratios = fit_ratios(RESNET, Scheme(), uniform_shares(RESNET), RESNET.dense_bytes / times)
    assert ratios.tolist() == [1.0] * len(RESNET.layers)


def test_budget_one_is_whole_with_float32_though_the_header_comes_on_top():
    scheme = Scheme(values="float32", dense_values="float32")
    ratios = fit_ratios(RESNET, scheme, uniform_shares(RESNET), RESNET.dense_bytes)
    assert (ratios == 1).all()


def test_layers_without_a_share_keep_one_neighborhood():
    shares = np.zeros(len(RESNET.layers))
    shares[16] = 1
    ratios = fit_ratios(RESNET, INT8, shares, RESNET.dense_bytes / 100)
    found = Compressor(RESNET, INT8, make_indicator("nsi")).compress(
        normal(RESNET.size), ratios, Stamp()
    )
    kept = [part.kept for part in found.layers]
    assert min(kept) >= 1
    assert {k for i, k in enumerate(kept) if found.layers[i].ids is not None and i != 16} == {1}


def test_what_shares_of_zero_leave_over_is_spread():
    shares = np.zeros(len(RESNET.layers))
    shares[1] = 1
    budget = RESNET.dense_bytes / 20
    ratios = fit_ratios(RESNET, Scheme(), shares, budget)
    assert ratios[1] == 1
    assert estimate_bytes(RESNET, Scheme(), ratios) == pytest.approx(budget, rel=0.03)


@pytest.mark.parametrize("scheme", [Scheme(), INT8], ids=lambda s: s.values)
def test_the_least_budget_is_named_and_feasible(scheme):
    with pytest.raises(SettingError, match="allow at least") as caught:
        fit_ratios(RESNET, scheme, uniform_shares(RESNET), 100)
    least = float(str(caught.value).split("at least ")[1].split()[0])
    ratios = fit_ratios(RESNET, scheme, uniform_shares(RESNET), least)
    assert encoded_bytes(RESNET, scheme, ratios, normal(RESNET.size), least) <= least * 1.05
    with pytest.raises(SettingError):
        fit_ratios(RESNET, scheme, uniform_shares(RESNET), least - 2)


@given(specs, schemes, st.floats(0.001, 2), st.integers(0, 9), st.floats(0, 1))
def test_ratios_are_valid_and_inside_the_budget(spec, scheme, part, seed, dense_share):
    shares = np.random.default_rng(seed).integers(0, 4, len(spec.layers)).astype(float)
    budget = part * spec.dense_bytes
    try:
        ratios = fit_ratios(spec, scheme, shares, budget, dense_share)
    except SettingError:
        return
    assert ratios.shape == (len(spec.layers),)
    assert ((ratios > 0) & (ratios <= 1)).all()
    assert (ratios == 1).all() or estimate_bytes(spec, scheme, ratios) <= budget


@pytest.mark.parametrize(
    ("shares", "budget", "dense_share"),
    [
        ([1.0] * 7, 1000, 0.1),
        ([-1.0] * 8, 1000, 0.1),
        ([np.nan] * 8, 1000, 0.1),
        ([1.0] * 8, 1000, 1.5),
        ([1.0] * 8, np.nan, 0.1),
        ([1.0] * 8, -1, 0.1),
    ],
)
def test_bad_arguments_are_refused_ratios(shares, budget, dense_share):
    with pytest.raises(SettingError):
        fit_ratios(MIXED, Scheme(), np.array(shares), budget, dense_share)
