import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import (
    ChangeCompressor,
    Compression,
    RsdgcError,
    Scheme,
    SettingError,
    WireError,
    apply_change,
)
from tests.rsdgc.golden import MODEL_CHANGE, model_state

SETTINGS = Compression("4x")


def model(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        "conv.weight": rng.standard_normal((16, 8, 3, 3)).astype(dtype),
        "norm.weight": rng.standard_normal(16).astype(dtype),
        "norm.running_mean": rng.standard_normal(16).astype(np.float32),
        "norm.running_var": rng.random(16).astype(np.float32),
        "norm.num_batches_tracked": np.array(seed, np.int64),
        "mask": rng.random(5) < 0.5,
        "empty": np.zeros((0, 3), np.float32),
    }


def test_a_change_arrives_inside_its_budget():
    before, after = model(0), model(1)
    compressor = ChangeCompressor(before, SETTINGS)
    payload = compressor.compress(before, after)
    arrived = apply_change(before, payload)
    assert list(arrived) == list(before)
    for name, array in arrived.items():
        assert (array.shape, array.dtype) == (before[name].shape, before[name].dtype)
        if name not in ("conv.weight", "norm.weight"):
            np.testing.assert_allclose(array, after[name], rtol=2e-3)
    assert np.array_equal(arrived["norm.num_batches_tracked"], 1)
    compressed = 4 * (16 * 8 * 9 + 16)
    assert len(payload) < compressed / 4 * 1.02 + 200
    before_error = np.linalg.norm(after["conv.weight"] - before["conv.weight"])
    assert np.linalg.norm(after["conv.weight"] - arrived["conv.weight"]) < before_error


def test_what_is_left_out_arrives_later():
    start, end = model(0), model(1)
    compressor, arrived, previous = ChangeCompressor(start, SETTINGS), start, start
    for number in range(12):
        following = end if number == 0 else previous
        arrived = apply_change(arrived, compressor.compress(previous, following))
        previous = following
        # Without a change a layer would take no part.
        previous = {**previous, "conv.weight": previous["conv.weight"] + np.float32(1e-6)}
    # The running statistics are sent once, and not added up.
    np.testing.assert_allclose(arrived["conv.weight"], end["conv.weight"], atol=0.05)
    np.testing.assert_allclose(arrived["norm.running_var"], end["norm.running_var"], rtol=2e-3)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_dtypes_are_kept(dtype):
    before, after = model(0, dtype), model(1, dtype)
    whole = Compression("1x", scheme=Scheme(values="float32", dense_values="float32"))
    arrived = apply_change(before, ChangeCompressor(before, whole).compress(before, after))
    assert arrived["conv.weight"].dtype == before["conv.weight"].dtype
    np.testing.assert_allclose(arrived["conv.weight"], after["conv.weight"], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ">f4"])
def test_an_entry_without_dimensions_arrives_as_an_array(dtype):
    before = {"weight": np.zeros((9, 9), np.float32), "scale": np.array(1, dtype)}
    after = {name: array + array.dtype.type(2) for name, array in before.items()}
    after["scale"] = np.asarray(after["scale"], dtype)
    arrived = apply_change(
        before, ChangeCompressor(before, Compression("1.5x")).compress(before, after)
    )
    assert isinstance(arrived["scale"], np.ndarray)
    assert arrived["scale"].dtype == before["scale"].dtype
    assert arrived["scale"] == pytest.approx(3, rel=0.05)


def test_a_budget_below_the_header_is_refused():
    before = {"scale": np.array(1, np.float32)}
    with pytest.raises(SettingError, match="the budget leaves 0 bytes"):
        ChangeCompressor(before, Compression("1x")).compress(before, {"scale": np.array(2, "f4")})


def test_a_change_that_did_not_arrive_is_sent_again():
    before, after = model(0), model(1)
    lost, kept = ChangeCompressor(before, SETTINGS), ChangeCompressor(before, SETTINGS)
    lost.roll_back(lost.compress(before, after))
    change = [(after[n] - before[n]).reshape(-1) for n in ("conv.weight", "norm.weight")]
    np.testing.assert_allclose(lost.compressor.residual, np.concatenate(change), atol=1e-5)
    assert not np.array_equal(lost.compressor.residual, kept.compressor.residual)


def test_the_caller_may_name_the_running_statistics():
    before, after = model(0), model(1)
    compressor = ChangeCompressor(before, SETTINGS, running=["norm.weight"])
    arrived = apply_change(before, compressor.compress(before, after))
    np.testing.assert_allclose(arrived["norm.weight"], after["norm.weight"], rtol=2e-3)


def test_the_caller_may_name_entries_that_are_sent_whole():
    before, after = model(0), model(1)
    after["norm.weight"] = np.arange(16, dtype=np.float32) / 3
    compressor = ChangeCompressor(before, SETTINGS, whole=["norm.weight", "norm.running_mean"])
    assert [layer.name for layer in compressor.compressor.spec.layers] == ["conv.weight"]
    arrived = apply_change(before, compressor.compress(before, after))
    np.testing.assert_array_equal(arrived["norm.weight"], after["norm.weight"], strict=True)
    after["norm.weight"][2] = np.inf
    with pytest.raises(RsdgcError, match=r"norm\.weight"):
        compressor.compress(before, after)
    assert compressor.compressor.step == 1


def test_whole_entries_that_are_not_finite_are_refused_at_the_receiver():
    before = {"weight": np.zeros(9, np.float32), "mean": np.zeros(1, np.float64)}
    after = {"weight": np.ones(9, np.float32), "mean": np.ones(1, np.float64)}
    compressor = ChangeCompressor(before, Compression("80"), whole=["mean"])
    payload = compressor.compress(before, after)
    body = payload[9:-8] + np.array([np.nan]).tobytes()
    with pytest.raises(WireError, match="'mean' is not finite"):
        apply_change(before, payload[:5] + zlib.crc32(body).to_bytes(4, "little") + body)


@pytest.mark.parametrize(
    "change",
    [
        {"conv.weight": np.zeros((16, 8, 9), np.float32)},
        {"conv.weight": np.zeros((16, 8, 3, 3), np.float64)},
        {"other": np.zeros(3, np.float32)},
    ],
)
def test_another_model_is_refused_at_both_ends(change):
    compressor = ChangeCompressor(model(), SETTINGS)
    with pytest.raises(SettingError, match="names, shapes or dtypes"):
        compressor.compress(model(), model() | change)
    with pytest.raises(WireError, match="other names, shapes or dtypes"):
        apply_change(model() | change, compressor.compress(model(0), model(1)))


def test_values_that_are_not_finite_name_their_entry():
    for name in ("conv.weight", "norm.running_mean"):
        bad = model(1)
        bad[name].reshape(-1)[3] = np.nan
        with pytest.raises(RsdgcError, match=name):
            ChangeCompressor(model(), SETTINGS).compress(model(), bad)


def test_complex_entries_are_refused():
    with pytest.raises(SettingError, match="'z' has the dtype complex64"):
        ChangeCompressor({"z": np.zeros(3, np.complex64)})


@pytest.mark.slow
@given(st.data())
def test_damaged_bytes_raise_one_kind_of_error(data):
    before = model(0)
    payload = bytearray(ChangeCompressor(before, SETTINGS).compress(before, model(1)))
    position = data.draw(st.integers(0, len(payload) - 1))
    cut = data.draw(st.booleans())
    payload[position] ^= data.draw(st.integers(1, 255))
    with pytest.raises(WireError):
        apply_change(before, bytes(payload[:position] if cut else payload))


@given(st.binary(max_size=300))
def test_hostile_bytes_raise_one_kind_of_error(body):
    """With a checksum that is right, as a hostile sender would send."""
    head = ChangeCompressor(model(), SETTINGS).compress(model(0), model(1))[9:17]
    for content in (body, head + body):
        payload = b"RSDC\x01" + zlib.crc32(content).to_bytes(4, "little") + content
        with pytest.raises(WireError):
            apply_change(model(), payload)


def test_golden_bytes_are_read_and_written_for_ever():
    before, after = model_state(0), model_state(1)
    arrived = apply_change(before, bytes.fromhex(MODEL_CHANGE))
    for name, array in after.items():
        np.testing.assert_array_equal(arrived[name], array, strict=True)
    scheme = Scheme(values="float32", dense_values="float32")
    compression = Compression("1.5x", scheme=scheme, ratios={"conv.weight": 0.25})
    payload = ChangeCompressor(before, compression).compress(before, after)
    assert payload.hex() == MODEL_CHANGE
