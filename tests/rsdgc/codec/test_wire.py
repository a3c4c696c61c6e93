import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import RsdgcError, Scheme, SettingError, Stamp, WireError, decode, encode
from rsdgc.codec.step_search import StepSearch
from rsdgc.codec.wire import HEADER_BYTES
from tests.rsdgc import golden
from tests.rsdgc.examples import (
    MIXED,
    budgets,
    normal,
    same_update,
    schemes,
    specs,
    stamps,
    vectors,
)
from tests.rsdgc.forge import Forge


@st.composite
def cases(draw, elements=None):
    spec, scheme = draw(specs), draw(schemes)
    update = draw(vectors(spec.size, elements) if elements else vectors(spec.size))
    kept = []
    for layer in spec.layers:
        count = scheme.cut(layer.shape).count
        some = st.sets(st.integers(0, count - 1)).map(lambda ids: np.array(sorted(ids), np.int64))
        everything = st.just(np.arange(count, dtype=np.int64))
        kept.append(draw(st.one_of(st.none(), some, everything)))
    return spec, scheme, draw(stamps), update, kept, draw(budgets(spec))


@given(cases())
def test_round_trip(case):
    spec, scheme, stamp, update, kept, budget = case
    sent = encode(*case)
    found = decode(sent.payload, spec)
    assert same_update(found, sent)
    assert (found.stamp, found.scheme, found.spec) == (stamp, scheme, spec)
    assert found.layer_bytes.sum() + found.header_bytes == len(found.payload)
    assert found.layer_bytes.dtype == np.int64
    assert (found.layer_bytes >= 0).all()
    assert found.header_bytes >= HEADER_BYTES + len(spec.layers)
    assert scheme.values != "deadzone" or len(found.payload) <= 1.01 * budget
    for ids, part, layer in zip(kept, found.layers, spec.layers, strict=True):
        grid = scheme.cut(layer.shape)
        assert part.grid == grid
        if ids is None:
            assert part.ids is None
        elif scheme.values != "deadzone":
            everything = part.ids is None or part.ids.size == grid.count
            assert everything == (ids.size == grid.count)
            assert everything or np.array_equal(part.ids, ids)
        else:
            assert np.isin(np.arange(grid.count) if part.ids is None else part.ids, ids).all()
    views = spec.views(found.to_dense())
    for view, source, ids, part in zip(views, spec.views(update), kept, found.layers, strict=True):
        inside = np.ones(view.size, bool)
        if part.ids is not None:
            inside[:] = False
            inside[part.grid.elements(part.ids)] = True
        assert not view[~inside].any()
        assert (view * np.sign(source) >= 0).all()
        if (scheme.dense_values if ids is None else scheme.values) == "float32":
            assert np.array_equal(view[inside], source[inside])


@given(cases())
def test_a_reader_that_follows_the_format_bit_by_bit_finds_the_same(case):
    found = encode(*case)
    plain = Forge.apart(found.payload, found.spec)
    assert plain.build() == found.payload
    for part, (ids, index, values) in zip(found.layers, plain.found, strict=True):
        everything = part.ids is None and (ids is None or len(ids) == part.grid.count)
        assert everything or part.ids.tolist() == ids
        assert part.ids is None or np.array_equal(part.grid.elements(part.ids), index)
        assert np.array_equal(part.values, values)


@given(cases(), st.floats(-2, 2))
def test_add_to_is_a_dense_add(case, weight):
    spec, scheme, stamp, update, kept, budget = case
    found = encode(spec, scheme, stamp, update * np.float32(1e-3), kept, budget)
    target = normal(spec.size)
    expected = target + np.float32(weight) * found.to_dense()
    found.add_to(target, weight)
    assert np.array_equal(target, expected)


@pytest.mark.parametrize("fields", golden.GOLDEN, ids=str)
def test_golden_bytes_are_decoded(fields):
    spec, update, kept = golden.case(*fields)
    found = decode(bytes.fromhex(golden.GOLDEN[fields]), spec)
    assert (found.stamp, found.scheme) == (golden.STAMP, Scheme(*fields))
    pairs = zip(spec.views(found.to_dense()), spec.views(update), strict=True)
    for (view, source), part, ids in zip(pairs, found.layers, kept, strict=True):
        kind = fields[3] if ids is None else fields[2]
        index = np.arange(view.size) if ids is None else part.grid.elements(ids)
        expected = np.zeros(view.size, np.float32)
        expected[index] = source[index]
        if kind == "ternary" and index.size:
            expected[index] = np.copysign(np.abs(source[index]).mean(), source[index])
        half_steps = {
            "deadzone": 0.25 + 0.5 * 10 / 256,
            "int8": float(np.abs(expected).max()) / 253,
        }
        assert view == pytest.approx(expected, rel=1e-6, abs=half_steps.get(kind, 0))


@pytest.mark.parametrize("fields", golden.GOLDEN, ids=str)
def test_golden_bytes_are_encoded(fields, monkeypatch):
    monkeypatch.setattr(StepSearch, "step", lambda search, bits: golden.QUANTIZER.step)
    monkeypatch.setattr(StepSearch, "quantizer", lambda search, step: golden.QUANTIZER)
    spec, update, kept = golden.case(*fields)
    sent = encode(spec, Scheme(*fields), golden.STAMP, update, kept, 5000)
    assert sent.payload.hex() == golden.GOLDEN[fields]


def test_golden_bytes_cover_the_format():
    forges = [
        Forge.apart(bytes.fromhex(data), golden.case(*fields)[0])
        for fields, data in golden.GOLDEN.items()
    ]
    assert {fields[0] for fields in golden.GOLDEN} == {"kernel", "tile", "element"}
    assert {fields[2] for fields in golden.GOLDEN} == {
        "deadzone",
        "int8",
        "ternary",
        "float16",
        "float32",
    }
    assert {fields[3] for fields in golden.GOLDEN} == {"float16", "float32", "int8"}
    assert {fields[4] for fields in golden.GOLDEN} == {"rice", "int32"}
    assert {code for forge in forges for code in forge.codes} == {0, 1, 254, 255}
    planes = {code for forge in forges for group in forge.planes for code, _ in group[:3]}
    assert {255, 0, 6, 32, 34} <= planes
    assert max(len(forge.planes) for forge in forges) == 3


@pytest.mark.parametrize("values", ["deadzone", "int8"])
def test_an_empty_update_is_header_codes_and_counts(values):
    kept = [np.empty(0, np.int64)] * len(MIXED.layers)
    sent = encode(MIXED, Scheme(values=values), Stamp(), normal(MIXED.size), kept, 1000)
    assert len(sent.payload) == HEADER_BYTES + 2 * len(MIXED.layers)
    assert same_update(decode(sent.payload, MIXED), sent)
    assert not sent.to_dense().any()


def test_an_update_of_zeros_keeps_nothing_but_whole_layers():
    kept = [np.arange(Scheme().cut(layer.shape).count) for layer in MIXED.layers]
    sent = encode(MIXED, Scheme(), Stamp(), np.zeros(MIXED.size, np.float32), kept, 1000)
    assert len(sent.payload) == HEADER_BYTES + 2 * len(MIXED.layers)
    assert not any(layer.kept for layer in sent.layers)


def test_neighborhoods_in_the_dead_zone_are_left_out():
    update = np.zeros(MIXED.size, np.float32)
    update[[0, 100, -1]] = (1.0, -2.0, 3.0)
    kept = [np.arange(Scheme().cut(layer.shape).count) for layer in MIXED.layers]
    sent = encode(MIXED, Scheme(), Stamp(), update, kept, 1000)
    assert sum(part.kept for part in sent.layers) == 3
    assert np.flatnonzero(sent.to_dense()).tolist() == np.flatnonzero(update).tolist()
    assert sent.to_dense() == pytest.approx(update, rel=0.01)


def test_whole_float32_models_cost_their_bytes_and_the_header():
    kept = [None] * len(MIXED.layers)
    update = normal(MIXED.size)
    for values in ("deadzone", "ternary"):
        scheme = Scheme(values=values, dense_values="float32")
        sent = encode(MIXED, scheme, Stamp(), update, kept, 1e4)
        assert len(sent.payload) == MIXED.dense_bytes + HEADER_BYTES + len(MIXED.layers)
        assert np.array_equal(decode(sent.payload, MIXED).to_dense(), update)


def test_any_bytes_like_object_is_read():
    kept = [None] * len(MIXED.layers)
    data = encode(MIXED, Scheme(), Stamp(1, 2, 3), normal(MIXED.size), kept, 1e4).payload
    for buffer in (data, bytearray(data), memoryview(data)):
        assert decode(buffer, MIXED).stamp == Stamp(1, 2, 3)


def test_a_decoded_update_does_not_change_with_its_buffer():
    scheme = Scheme(values="float32", dense_values="float32")
    data = bytearray(encode(MIXED, scheme, Stamp(), normal(MIXED.size), [None] * 8).payload)
    found = decode(data, MIXED)
    before = found.to_dense()
    data[100:] = bytes(len(data) - 100)
    assert np.array_equal(found.to_dense(), before)


def test_another_scheme_than_the_expected_is_refused():
    data = encode(MIXED, Scheme(), Stamp(), normal(MIXED.size), [None] * 8, 1e4).payload
    assert decode(data, MIXED, Scheme()).scheme == Scheme()
    with pytest.raises(WireError, match="scheme"):
        decode(data, MIXED, Scheme(tile_px=4))


@pytest.mark.parametrize("values", ["deadzone", "int8"])
def test_what_does_not_fit_is_not_encoded(values):
    update, scheme = normal(MIXED.size), Scheme(values=values)
    with pytest.raises(SettingError, match="has 8"):
        encode(MIXED, scheme, Stamp(), update, [None], 1000)
    with pytest.raises(SettingError, match="increase strictly"):
        encode(MIXED, scheme, Stamp(), update, [np.array([99_999])] * 8, 1000)
    for bad in (np.nan, np.inf, -np.inf):
        update[3] = bad
        for ids in (None, np.array([0])):
            with pytest.raises(RsdgcError, match="clip the gradients"):
                encode(MIXED, scheme, Stamp(), update, [ids] * 8, 1e4)


@pytest.mark.parametrize("budget", [-1.0, 0.0, 65.0])
def test_budgets_that_hold_nothing_are_refused(budget):
    kept = [np.array([0])] * 8
    with pytest.raises(SettingError, match="allow more"):
        encode(MIXED, Scheme(), Stamp(), normal(MIXED.size), kept, budget)
    least = encode(MIXED, Scheme(), Stamp(), normal(MIXED.size), kept, 66.0)
    assert len(least.payload) == 66


@pytest.mark.parametrize("fields", [(-1, 0, 0), (2**64, 0, 0), (0, 2**32, 0), (0, 0, -1)])
def test_stamps_are_checked(fields):
    with pytest.raises(SettingError, match="choose 0 to"):
        Stamp(*fields)
