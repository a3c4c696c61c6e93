import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import (
    Compressor,
    RsdgcError,
    Scheme,
    SettingError,
    Stamp,
    decode,
    kept_count,
    make_indicator,
    top_k,
)
from tests.rsdgc.examples import (
    MIXED,
    budgets,
    indicators,
    normal,
    ratio_vectors,
    same_update,
    schemes,
    specs,
    vectors,
)


@given(st.data())
def test_keeps_the_best_of_each_layer(data):
    spec, scheme = data.draw(specs), data.draw(schemes)
    indicator = data.draw(indicators)
    ratios = data.draw(ratio_vectors(spec))
    update = data.draw(vectors(spec.size))
    before = update.copy()
    stamp = Stamp(1, 2, 3)
    budget = data.draw(budgets(spec))
    found = Compressor(spec, scheme, indicator).compress(update, ratios, stamp, budget)
    assert same_update(decode(found.payload, spec), found)
    assert np.array_equal(update, before)
    levels = scheme.values == "deadzone"
    sends_whole = not levels or min(ratios) == 1
    for index, (layer, part) in enumerate(zip(spec.layers, found.layers, strict=True)):
        grid = scheme.cut(layer.shape)
        if ratios[index] == 1 and sends_whole:
            assert part.ids is None
            continue
        scores = indicator.score(spec.views(update)[index], grid, (1, 2, index))
        best = top_k(scores, kept_count(ratios[index], grid.count))
        kept = np.arange(grid.count) if part.ids is None else part.ids
        assert np.isin(kept, best).all() if levels else np.array_equal(kept, best)


@pytest.mark.parametrize("budget", [0.0, 1e4, 300.0])
def test_levels_go_whole_only_if_all_layers_do_and_fit(budget):
    compressor = Compressor(MIXED, Scheme(), make_indicator("nsi"))
    update = normal(MIXED.size)
    found = compressor.compress(update, [1.0] * 8, Stamp(), budget)
    if budget == 300.0:
        assert len(found.payload) == pytest.approx(budget, rel=0.01)
    else:
        assert all(part.ids is None for part in found.layers)
        assert found.to_dense() == pytest.approx(update, rel=1e-3)
    mixed = compressor.compress(update, [1.0] * 7 + [0.5], Stamp(), 300.0)
    assert len(mixed.payload) == pytest.approx(300, rel=0.01)


def test_the_same_update_gives_the_same_bytes():
    compressor = Compressor(MIXED, Scheme(), make_indicator("nsi"))
    update = normal(MIXED.size)
    first = compressor.compress(update, [0.3] * 8, Stamp(), 200)
    again = compressor.compress(update.copy(), np.full(8, 0.3), Stamp(), 200)
    assert same_update(first, again)


@pytest.mark.parametrize(
    "ratios", [[0.5] * 7, [0.5] * 9, 0.5, [1.1] * 8, [-0.1] * 8, [np.nan] * 8, [np.inf] * 8]
)
def test_bad_ratios_are_refused(ratios):
    compressor = Compressor(MIXED, Scheme(), make_indicator("nsi"))
    with pytest.raises(SettingError, match="8 numbers from 0 to 1"):
        compressor.compress(normal(MIXED.size), ratios, Stamp())


@pytest.mark.parametrize("ratio", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("indicator", ["nsi", "random"])
def test_non_finite_updates_are_refused_by_the_layers_name(ratio, bad, indicator):
    update = normal(MIXED.size)
    update[-1] = bad
    compressor = Compressor(MIXED, Scheme(), make_indicator(indicator))
    with pytest.raises(RsdgcError, match=r"volume.weight.*clip"):
        compressor.compress(update, [ratio] * 8, Stamp())
