import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import Compressor, ModelSpec, Scheme, Stamp, estimate_bytes, make_indicator
from rsdgc.codec.dead_zone import DeadZone
from rsdgc.codec.header import HEADER_BYTES
from tests.rsdgc.examples import MIXED, normal, schemes


@given(schemes, st.lists(st.sampled_from([0.0, 1.0]), min_size=8, max_size=8))
def test_exact_where_no_index_is_coded(scheme, ratios):
    if scheme.values == "deadzone" and set(ratios) == {0.0, 1.0}:
        ratios = [1.0] * 8
    found = Compressor(MIXED, scheme, make_indicator("l1")).compress(
        normal(MIXED.size), ratios, Stamp(), 1e4
    )
    assert estimate_bytes(MIXED, scheme, ratios) == len(found.payload)


def test_layers_all_of_whose_levels_are_sent_cost_levels():
    ratios = np.ones(8)
    whole = estimate_bytes(MIXED, Scheme(), ratios)
    ratios[-1] = 0.99
    sizes = np.array([layer.size for layer in MIXED.layers])
    expected = HEADER_BYTES + 8 + DeadZone.bits_per_value * sizes.sum() / 8
    assert estimate_bytes(MIXED, Scheme(), ratios) == pytest.approx(expected, abs=3)
    assert whole == HEADER_BYTES + 8 + 2 * sizes.sum()


@pytest.mark.parametrize("ratio", [0.001, 0.01, 0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("kind", ["kernel", "tile", "element"])
@pytest.mark.parametrize("values", ["int8", "ternary", "float32"])
@pytest.mark.parametrize("indices", ["rice", "int32"])
def test_close_to_what_encoding_gives(ratio, kind, values, indices):
    spec = ModelSpec.from_shapes({"conv": (64, 64, 3, 3), "fc": (300, 401), "norm": (1000,)})
    scheme = Scheme(neighborhood=kind, values=values, indices=indices)
    found = Compressor(spec, scheme, make_indicator("random")).compress(
        normal(spec.size), [ratio] * 3, Stamp()
    )
    assert estimate_bytes(spec, scheme, np.full(3, ratio)) == pytest.approx(
        len(found.payload), rel=0.03, abs=max(12, 1.5 * scheme.value_coding.bits_per_value)
    )
