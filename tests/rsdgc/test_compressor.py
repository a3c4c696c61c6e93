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
    cut,
    decode,
    kept_count,
    make_indicator,
    top_k,
)
from tests.rsdgc.examples import MIXED, indicators, normal, ratio_vectors, schemes, specs, vectors


@given(st.data())
def test_keeps_the_best_of_each_layer(data):
    spec, scheme = data.draw(specs), data.draw(schemes)
    indicator = data.draw(indicators)
    ratios = data.draw(ratio_vectors(spec))
    update = data.draw(vectors(spec.size))
    before = update.copy()
    stamp = Stamp(1, 2, 3)
    found = decode(Compressor(spec, scheme, indicator).compress(update, ratios, stamp), spec)
    assert np.array_equal(update, before)
    for index, (layer, part) in enumerate(zip(spec.layers, found.parts, strict=True)):
        hoods = cut(layer.shape, scheme)
        if ratios[index] == 1:
            assert part.ids is None
            continue
        scores = indicator.score(spec.views(update)[index], hoods, (1, 2, index))
        assert np.array_equal(part.ids, top_k(scores, kept_count(ratios[index], hoods.count)))


def test_the_same_update_gives_the_same_bytes():
    compressor = Compressor(MIXED, Scheme(), make_indicator("nsi"))
    update = normal(MIXED.size)
    first = compressor.compress(update, [0.3] * 8, Stamp())
    assert compressor.compress(update.copy(), np.full(8, 0.3), Stamp()) == first


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
