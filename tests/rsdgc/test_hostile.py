"""Every malformed upload raises WireError, even when its checksum is right."""

import os
import struct
import tracemalloc

import numpy as np
import pytest

from rsdgc import ModelSpec, Scheme, Stamp, WeightedMean, WireError, decode, encode
from rsdgc.codec.header import HEADER_BYTES
from tests.rsdgc.catalog import CASES, step
from tests.rsdgc.forge import SPEC, Forge, leb128, sealed, valid

HEADER_ENDS = [0, 1, 4, 5, 6, 7, 8, 9, 10, 18, 22, 26, 34, 38, 42, 46, 49, 50]
BODY_ENDS = [(kind, end) for kind in ("int8", "deadzone") for end in Forge.of(kind).ends()[:-1]]


@pytest.mark.parametrize("indices", ["rice", "int32"])
@pytest.mark.parametrize("values", ["int8", "ternary", "float16", "float32", "deadzone"])
def test_the_unspoilt_upload_is_valid(values, indices):
    forge = Forge.of(values, indices=indices)
    assert forge.build() == valid(values, indices=indices)
    found = decode(forge.build(), SPEC)
    assert [None if part.ids is None else part.ids.tolist() for part in found.layers] == [
        [1, 4, 6],
        [4, 14],
        None,
    ]


def test_the_levels_to_be_spoilt_use_every_part_of_the_code():
    forge = Forge.of("deadzone")
    assert len(forge.planes) == 1
    assert all(count for _, count in forge.planes[0][:3])
    assert all(forge.unary.values())
    assert all(bits for name, bits in forge.plain.items() if name != "ids 0")


def test_the_catalog_is_long():
    assert len(CASES) >= 150
    assert len({name for name, *_ in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=[name for name, *_ in CASES])
def test_malformed(case):
    _, change, kinds = case
    forge = Forge.of(*kinds)
    change(forge)
    data = forge.build()
    assert data != valid(*kinds)
    with pytest.raises(WireError) as caught:
        decode(data, SPEC)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", CASES[::8], ids=[name for name, *_ in CASES[::8]])
def test_malformed_uploads_leave_the_mean_alone(case):
    _, change, kinds = case
    forge = Forge.of(*kinds)
    change(forge)
    mean = WeightedMean(SPEC)
    mean.add("honest", valid(), 3)
    with pytest.raises(WireError):
        mean.add("hostile", forge.build(), 1)
    alone = WeightedMean(SPEC)
    alone.add("honest", valid(), 3)
    assert mean.aggregate().tobytes() == alone.aggregate().tobytes()


@pytest.mark.parametrize("kinds", [("int8", "float16", "rice"), ("deadzone", "float16", "rice")])
@pytest.mark.parametrize("name", ["unary", "plain"])
@pytest.mark.parametrize("length", [0, 1, -1, 2**31, 2**32 - 1])
def test_wrong_lengths_of_streams(kinds, name, length):
    forge = Forge.of(*kinds)
    right = getattr(forge, name)
    honest = -(-len("".join(right.values())) // 8)
    wrong = honest + length if abs(length) == 1 else length
    assert wrong != honest
    with pytest.raises(WireError):
        decode(forge.build(**{name: wrong}), SPEC)


@pytest.mark.parametrize("end", HEADER_ENDS)
@pytest.mark.parametrize("values", ["int8", "deadzone"])
def test_truncated_in_the_header(end, values):
    with pytest.raises(WireError):
        decode(sealed(valid(values)[:end]), SPEC)


@pytest.mark.parametrize(("values", "end"), BODY_ENDS)
def test_truncated_after_each_part(values, end):
    with pytest.raises(WireError):
        decode(sealed(valid(values)[:end]), SPEC)


@pytest.mark.parametrize(
    ("values", "data"),
    [
        ("float32", "0000c07f"),
        ("float32", "0000807f"),
        ("float32", "000080ff"),
        ("float32", "0100807f"),
        ("float16", "007e"),
        ("float16", "007c"),
        ("float16", "00fc"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_non_finite_sparse_values(values, data, first):
    forge = Forge.of(values)
    old, bad = forge.body["0 values"], bytes.fromhex(data)
    forge.body["0 values"] = bad + old[len(bad) :] if first else old[: -len(bad)] + bad
    with pytest.raises(WireError, match="NaN or infinite"):
        decode(forge.build(), SPEC)


@pytest.mark.parametrize("scale", ["0000c07f", "0000807f", "000080bf", "000080ff"])
@pytest.mark.parametrize("values", ["ternary", "int8"])
def test_scales_of_whole_and_sparse_layers(values, scale):
    for index in (0, 2):
        forge = Forge.of(values, "int8")
        forge.body[f"{index} scale"] = bytes.fromhex(scale)
        with pytest.raises(WireError, match="scale"):
            decode(forge.build(), SPEC)


def test_padding_of_signs():
    forge = Forge.of("ternary")
    signs = bytearray(forge.body["0 values"])  # 27 bits and five of padding
    signs[-1] |= 1
    forge.body["0 values"] = bytes(signs)
    with pytest.raises(WireError, match="padding"):
        decode(forge.build(), SPEC)


@pytest.mark.parametrize("number", [1e38, float(np.finfo(np.float32).max)])
def test_the_largest_steps_saturate(number):
    forge = Forge.of("deadzone")
    step(number)(forge)
    found = decode(forge.build(), SPEC).to_dense()
    assert np.isfinite(found).all()
    assert np.abs(found).max() == np.finfo(np.float32).max


@pytest.mark.parametrize("kinds", [("int8",), ("deadzone",)])
@pytest.mark.parametrize("position", range(0, 104, 7))
def test_damage_is_found_by_the_checksum(position, kinds):
    data = bytearray(valid(*kinds))
    data[min(position, len(data) - 1)] ^= 0x10
    with pytest.raises(WireError):
        decode(bytes(data), SPEC)


@pytest.mark.parametrize("name", ["unary", "plain", "num_layers"])
def test_sizes_are_not_taken_from_another_byte_order(name):
    data = bytearray(valid())
    at = {"num_layers": 34, "unary": 38, "plain": 42}[name]
    assert data[at]
    data[at : at + 4] = data[at : at + 4][::-1]
    with pytest.raises(WireError):
        decode(sealed(bytes(data)), SPEC)


@pytest.mark.parametrize("data", [b"", b"RSDG", bytes(50), b"\xff" * 4096, b"\x80\x04N."])
def test_what_is_no_upload_at_all(data):
    with pytest.raises(WireError):
        decode(data, SPEC)


LARGE = ModelSpec.from_shapes({"fc": (2**14, 2**14), "bias": (2**20,)})


def claims(counts, codes=b"\x00\xff", streams=(500, 500), **kinds):
    """Return a kilobyte that claims up to gigabytes."""
    scheme = Scheme(**kinds)
    nothing = [np.empty(0, np.int64)] * 2
    zeros = np.zeros(LARGE.size, np.float32)
    head = bytearray(encode(LARGE, scheme, Stamp(), zeros, nothing, 1e3).payload[:HEADER_BYTES])
    head[38:46] = struct.pack("<II", *streams)
    return sealed(bytes(head) + codes + b"".join(map(leb128, counts)) + b"\xff" * 1000)


@pytest.fixture(scope="module")
def large_claims():
    found = []
    for values in ("int8", "ternary", "float32", "deadzone"):
        for indices in ("rice", "int32"):
            kinds = {"values": values, "indices": indices}
            found += [
                claims([2**24], **kinds),
                claims([2**24], streams=(100, 100), **kinds),
                claims([8000], **kinds),
                claims([900], **kinds),
                claims([900], streams=(0, 0), **kinds),
                claims([2**35 - 1], **kinds),
                claims([2**35 - 1] * 2, b"\x1f\x1f", **kinds),
                claims([2**31], b"\x18\xff", **kinds),
                claims([], b"\xff\xff", **kinds),
                claims([], b"\xfe\xfe", **kinds),
                claims([], b"\xfe\xff", streams=(0, 1000), **kinds),
                claims([4000], streams=(0, 1000), **kinds),
                claims([0], **kinds),
                claims([900], streams=(2**32 - 1, 2**32 - 1), **kinds),
            ]
    return found


def test_large_claims_take_no_memory(large_claims):
    decode(valid(), SPEC)  # what is allocated once is not counted
    for data in large_claims:
        tracemalloc.start()
        try:
            with pytest.raises(WireError):
                decode(data, LARGE)
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert most < 1_000_000


MUTANTS = 100_000 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 4000
FUZZED = [
    ("int8", "float16", "rice"),
    ("ternary", "int8", "rice"),
    ("float16", "float32", "rice"),
    ("float32", "float16", "int32"),
    ("deadzone", "float16", "rice"),
    ("deadzone", "int8", "int32"),
]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kinds", FUZZED, ids="-".join)
def test_fuzz(kinds):
    """Mutants raise WireError or decode to ids in range and finite values."""
    rng = np.random.default_rng(MUTANTS)
    original = np.frombuffer(valid(*kinds), dtype=np.uint8)
    num_valid = 0
    for _ in range(-(-MUTANTS // len(FUZZED))):
        data = mutated(original, rng)
        if rng.random() < 0.95:
            data = sealed(data)
        try:
            found = decode(data, SPEC)
        except WireError:
            continue
        num_valid += 1
        for part in found.layers:
            ids = np.arange(0) if part.ids is None else part.ids
            assert np.all(np.diff(ids) > 0)
            assert np.all((ids >= 0) & (ids < part.grid.count)), part
            assert part.values.size == part.grid.num_members(part.ids)
        assert np.isfinite(found.to_dense()).all()
        assert found.layer_bytes.sum() + found.header_bytes == len(data)
    assert num_valid > MUTANTS / len(FUZZED) / 100  # else it tests the first check alone


def mutated(original, rng):
    data = original.copy()
    kind = rng.integers(6)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(4 if kind else HEADER_BYTES, data.size))
        if kind in (0, 1, 2):
            data[at] = rng.choice([rng.integers(256), 0, 1, 127, 128, 255])
        elif kind == 3:
            data[at] ^= 1 << rng.integers(8)
        elif kind == 4:
            data = np.delete(data, slice(at, at + int(rng.integers(1, 9))))
        else:
            data = np.insert(data, at, rng.integers(0, 256, rng.integers(1, 9), dtype=np.uint8))
        if data.size <= HEADER_BYTES + 1:
            break
    return data.tobytes()
