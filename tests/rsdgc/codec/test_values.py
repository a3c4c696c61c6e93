import numpy as np
import pytest

from rsdgc import (
    VALUE_CODINGS,
    Compressor,
    LayerCoding,
    Scheme,
    SettingError,
    Stamp,
    WireError,
    decode,
    encode,
    estimate_bytes,
    fit_ratios,
    make_indicator,
    uniform_shares,
)
from rsdgc.codec.dead_zone import DeadZone
from rsdgc.codec.values import decode_values, encode_values, find_coding
from tests.rsdgc.examples import MIXED, heavy_tailed, normal, same_update
from tests.rsdgc.forge import BUDGET, KEPT, SPEC, sealed, update
from tests.rsdgc.models import small_resnet
from tests.rsdgc.test_hostile import mutated


@VALUE_CODINGS.register("bfloat16")
class BFloat16(LayerCoding):
    """A coding from outside: the upper half of each float32."""

    code = 200
    bits_per_value = 16
    for_whole_layers = True

    def encode(self, values):
        return [(values.view("<u4") >> 16).astype("<u2").tobytes()]

    def decode(self, buffer, count):
        return (np.frombuffer(buffer, "<u2").astype("<u4") << 16).view("<f4")


class Twelve(LayerCoding):
    """Another one, which is not registered: a scale, then 12 bits for each pair of values."""

    code = 201
    bits_per_value = 6
    overhead_bytes = 4

    def encode(self, values):
        scale = np.float32(np.abs(values).max() / 31)
        levels = np.rint(values / (scale or 1)).astype(np.int64) + 32
        bits = (levels[:, None] >> np.arange(5, -1, -1)) & 1
        return [scale.astype("<f4").tobytes(), np.packbits(bits.astype(np.uint8)).tobytes()]

    def decode(self, buffer, count):
        bits = np.unpackbits(np.frombuffer(buffer[4:], np.uint8), count=6 * count)
        levels = bits.reshape(count, 6) @ (1 << np.arange(5, -1, -1)) - 32
        with np.errstate(over="ignore", invalid="ignore"):
            return levels.astype(np.float32) * np.frombuffer(buffer[:4], "<f4")[0]


class Spacious(DeadZone):
    """A joint coding from outside, for which ratios allow more bits and so fewer neighborhoods."""

    code = 210
    bits_per_value = 8.0
    always_finite = False
    divisor = 1.0

    def decode(self, sizes, table, streams):
        values, bits = super().decode(sizes, table, streams)
        with np.errstate(divide="ignore", invalid="ignore"):
            return [layer / np.float32(self.divisor) for layer in values], bits


OUTSIDE = {"bfloat16": 200, f"{__name__}:Twelve": 201}


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("neighborhood", ["kernel", "tile", "element"])
def test_a_coding_from_outside_goes_through_encode_and_decode(name, neighborhood):
    scheme = Scheme(neighborhood, values=name)
    kept = [np.array([0]), None, np.array([1, 2]), *[np.array([0])] * 3, None, np.array([1])]
    sent = encode(MIXED, scheme, Stamp(1, 2, 3), normal(MIXED.size), kept)
    assert sent.payload[7] == OUTSIDE[name]
    assert same_update(decode(sent.payload, MIXED, scheme), sent)
    assert sent.scheme == scheme
    assert sent.scheme.values == name
    nonzero = sent.to_dense() != 0
    assert np.allclose(sent.to_dense()[nonzero], normal(MIXED.size)[nonzero], atol=0.1)


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_coding_from_outside_goes_through_the_compressor(name):
    scheme = Scheme(values=name, dense_values="bfloat16")
    compressor = Compressor(MIXED, scheme, make_indicator("nsi"))
    for ratio in (0.3, 1.0):
        ratios = np.full(len(MIXED.layers), ratio)
        sent = compressor.compress(normal(MIXED.size), ratios, Stamp())
        assert same_update(decode(sent.payload, MIXED), sent)
        assert estimate_bytes(MIXED, scheme, ratios) == pytest.approx(len(sent.payload), abs=12)


def test_a_joint_coding_from_outside_keeps_to_the_budget():
    spec, scheme = small_resnet(), Scheme(values=f"{__name__}:Spacious")
    budget = spec.dense_bytes / 100
    kept = []
    for each in (scheme, Scheme()):
        ratios = fit_ratios(spec, each, uniform_shares(spec), budget)
        compressor = Compressor(spec, each, make_indicator("nsi"))
        sent = compressor.compress(heavy_tailed(spec.size), ratios, Stamp(), budget)
        assert len(sent.payload) == pytest.approx(budget, rel=0.01)
        assert same_update(decode(sent.payload, spec, each), sent)
        kept.append(sum(layer.kept for layer in sent.layers))
    assert kept[0] < kept[1]


def test_a_joint_coding_from_outside_cannot_decode_to_infinity(monkeypatch):
    scheme, kept = Scheme(values=f"{__name__}:Spacious"), [np.array([0])] * 3
    sent = encode(SPEC, scheme, Stamp(), update(), kept, 300)
    assert sent.payload[7] == 210
    assert np.isfinite(decode(sent.payload, SPEC).to_dense()).all()
    monkeypatch.setattr(Spacious, "divisor", 0.0)
    with pytest.raises(WireError, match="Spacious values that are NaN or infinite"):
        decode(sent.payload, SPEC)


def test_a_path_to_a_registered_coding_becomes_its_name():
    assert Scheme(values=f"{__name__}:BFloat16") == Scheme(values="bfloat16")


@pytest.mark.parametrize("name", OUTSIDE)
def test_hostile_input_to_a_coding_from_outside_is_refused(name):
    rng = np.random.default_rng(5)
    original = encode(SPEC, Scheme(values=name), Stamp(7, 8, 9), update(), KEPT, BUDGET["rice"])
    refused = 0
    for _ in range(1000):
        data = sealed(mutated(np.frombuffer(original.payload, np.uint8), rng))
        try:
            assert np.isfinite(decode(data, SPEC).to_dense()).all()
        except WireError:
            refused += 1
    assert 500 < refused < 1000
    infinite = np.full(2, 0x7F80, "<u2").tobytes()
    with pytest.raises(WireError, match="bfloat16 values that are NaN or infinite"):
        decode_values(memoryview(infinite), 2, find_coding("bfloat16"))


def test_codes_are_claimed_once():
    with pytest.raises(SettingError, match="BFloat16 and Other have the same code 200"):
        type("Other", (BFloat16,), {"code": 200})
    with pytest.raises(SettingError, match="choose 128 to 255"):
        type("Large", (BFloat16,), {"code": 256})
    for _ in range(2):  # a module that is imported again defines its classes again
        type("Again", (BFloat16,), {"code": 203, "__module__": __name__})


class NoCode(LayerCoding):
    encode = BFloat16.encode
    decode = BFloat16.decode


class Liar(BFloat16):
    code = 202
    bits_per_value = 8


@pytest.mark.parametrize("name", ["NoCode", "np", "OUTSIDE", "LayerCoding"])
def test_what_is_not_a_coding_is_refused(name):
    with pytest.raises(SettingError, match="is not a value coding"):
        Scheme(values=f"{__name__}:{name}")


def test_a_coding_that_writes_other_sizes_than_it_declares_is_named():
    with pytest.raises(SettingError, match="Liar' wrote 8 bytes for 4 values and declares 4"):
        encode_values(normal(4), Liar())


def test_only_some_codings_are_for_whole_layers():
    assert Scheme(dense_values="bfloat16").dense_coding.code == 200
    with pytest.raises(SettingError, match="choose float32, float16, int8"):
        Scheme(dense_values=f"{__name__}:Twelve")
