import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import ModelSpec, RsdgcError, Scheme, SettingError, Stamp, cut, decode, encode
from rsdgc.wire import FIXED_BYTES
from tests.rsdgc.examples import MIXED, normal, schemes, specs, stamps, vectors

GOLDEN_SPEC = ModelSpec.from_shapes({"conv": (2, 2, 3, 3), "fc": (4, 10), "bias": (3,), "s": ()})
GOLDEN_KEPT = [np.array([1, 3]), np.array([0, 7]), None, np.array([], dtype=np.int64)]
GOLDEN = {
    ("kernel", "int8", "float16"): (
        "5253444701000302010807060504030201090000000a000000122977b61cd2c84b040000007e30f7ed"
        "0001ff000200000001000000020000000100000000000000000000005047a3513d81868b"
        "9095999ea3a8d9dee3e8ecf1f6fb0088008542a13d03060a0d101316191d7f2049404960"
        "49"
    ),
    ("kernel", "float16", "float32"): (
        "5253444701000301000807060504030201090000000a000000122977b61cd2c84b04000000cdc4ab6a"
        "0001ff000200000001000000020000000100000000000000000000005080c640c600c6c0"
        "c580c540c500c5c0c480c400c000bf00be00bd00bc00ba00b800b4000088000034003800"
        "3a003c003d003e003f004080400049000024410000284100002c41"
    ),
    ("tile", "float32", "float16"): (
        "5253444701010300010807060504030201090000000a000000122977b61cd2c84b04000000286225ad"
        "0001ff0002000000010000000200000001000000000000000000000050000000c10000f8"
        "c00000f0c0000060c0000050c0000040c00000d0c00000c8c00000c0c0000000c00000e0"
        "bf0000c0bf88000000803e0000003f0000403f0000304000004040000050400000a84000"
        "00b0400000b84000002041204940496049"
    ),
    ("element", "int8", "float32"): (
        "5253444701020302000807060504030201090000000a000000122977b61cd2c84b040000001a731a97"
        "0001ff00020000000100000002000000010000000000000000000000502412893d818888"
        "000402813c107f000024410000284100002c41"
    ),
}


def golden_update():
    return (np.arange(GOLDEN_SPEC.size) - 35).astype(np.float32) / 4


@st.composite
def cases(draw, elements=None):
    spec, scheme = draw(specs), draw(schemes)
    update = draw(vectors(spec.size, elements) if elements else vectors(spec.size))
    kept = []
    for layer in spec.layers:
        count = cut(layer.shape, scheme).count
        some = st.sets(st.integers(0, count - 1)).map(lambda ids: np.array(sorted(ids), np.int64))
        everything = st.just(np.arange(count, dtype=np.int64))
        kept.append(draw(st.one_of(st.none(), some, everything)))
    return spec, scheme, draw(stamps), update, kept


@given(cases())
def test_round_trip(case):
    spec, scheme, stamp, update, kept = case
    data = encode(spec, scheme, stamp, update, kept)
    found = decode(data, spec)
    assert (found.stamp, found.scheme, found.spec, found.payload) == (stamp, scheme, spec, data)
    assert found.layer_bytes.sum() + found.header_bytes == len(data)
    assert found.layer_bytes.dtype == np.int64
    for ids, part, layer in zip(kept, found.parts, spec.layers, strict=True):
        assert (part.ids is None) == (ids is None)
        assert ids is None or np.array_equal(part.ids, ids)
        assert part.hoods == cut(layer.shape, scheme)
    views = spec.views(found.to_dense())
    for view, source, ids, part in zip(views, spec.views(update), kept, found.parts, strict=True):
        inside = np.ones(view.size, bool)
        if ids is not None:
            inside[:] = False
            inside[part.hoods.elements(ids)] = True
        assert not view[~inside].any()
        if (scheme.dense_values if ids is None else scheme.values) == "float32":
            assert np.array_equal(view[inside], source[inside])


@given(cases(), st.floats(-2, 2))
def test_add_to_is_a_dense_add(case, weight):
    spec, scheme, stamp, update, kept = case
    found = decode(encode(spec, scheme, stamp, update * np.float32(1e-3), kept), spec)
    target = normal(spec.size)
    expected = target + np.float32(weight) * found.to_dense()
    found.add_to(target, weight)
    assert np.array_equal(target, expected)


@pytest.mark.parametrize("names", GOLDEN)
def test_golden_bytes(names):
    """Version 1 as it is on the wire for ever: never change these bytes, add a version."""
    scheme = Scheme(names[0], 3, names[1], names[2])
    stamp = Stamp(0x0102030405060708, 9, 10)
    data = encode(GOLDEN_SPEC, scheme, stamp, golden_update(), GOLDEN_KEPT)
    assert data.hex() == GOLDEN[names]
    found = decode(bytes.fromhex(GOLDEN[names]), GOLDEN_SPEC)
    assert (found.stamp, found.scheme) == (stamp, scheme)
    expected = np.zeros(GOLDEN_SPEC.size, np.float32)
    pairs = zip(GOLDEN_SPEC.views(expected), GOLDEN_SPEC.views(golden_update()), strict=True)
    for (view, source), part, ids in zip(pairs, found.parts, GOLDEN_KEPT, strict=True):
        index = np.arange(view.size) if ids is None else part.hoods.elements(ids)
        view[index] = source[index]
    tolerance = 0.04 if names[1] == "int8" else 0
    assert found.to_dense() == pytest.approx(expected, abs=tolerance)


def test_an_empty_update_is_header_and_table():
    kept = [np.empty(0, np.int64)] * len(MIXED.layers)
    data = encode(MIXED, Scheme(), Stamp(), normal(MIXED.size), kept)
    assert len(data) == FIXED_BYTES + 9 * len(MIXED.layers)
    assert not decode(data, MIXED).to_dense().any()


def test_whole_float32_models_cost_their_bytes_and_the_header():
    kept = [None] * len(MIXED.layers)
    update = normal(MIXED.size)
    data = encode(MIXED, Scheme(dense_values="float32"), Stamp(), update, kept)
    assert len(data) == MIXED.dense_bytes + FIXED_BYTES + len(MIXED.layers)
    assert np.array_equal(decode(data, MIXED).to_dense(), update)


def test_any_bytes_like_object_is_read():
    data = encode(MIXED, Scheme(), Stamp(1, 2, 3), normal(MIXED.size), [None] * len(MIXED.layers))
    for buffer in (data, bytearray(data), memoryview(data)):
        assert decode(buffer, MIXED).stamp == Stamp(1, 2, 3)


def test_a_decoded_update_does_not_change_with_its_buffer():
    scheme = Scheme(dense_values="float32")
    data = bytearray(encode(MIXED, scheme, Stamp(), normal(MIXED.size), [None] * 8))
    found = decode(data, MIXED)
    before = found.to_dense()
    data[100:] = bytes(len(data) - 100)
    assert np.array_equal(found.to_dense(), before)


def test_what_does_not_fit_is_not_encoded():
    update = normal(MIXED.size)
    with pytest.raises(SettingError, match="has 8"):
        encode(MIXED, Scheme(), Stamp(), update, [None])
    with pytest.raises(SettingError, match="increase strictly"):
        encode(MIXED, Scheme(), Stamp(), update, [np.array([99_999])] * 8)
    update[3] = np.nan
    with pytest.raises(RsdgcError, match="nan"):
        encode(MIXED, Scheme(), Stamp(), update, [None] * 8)


@pytest.mark.parametrize("fields", [(-1, 0, 0), (2**64, 0, 0), (0, 2**32, 0), (0, 0, -1)])
def test_stamps_are_checked(fields):
    with pytest.raises(SettingError, match="choose 0 to"):
        Stamp(*fields)
