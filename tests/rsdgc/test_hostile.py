"""Every malformed upload raises WireError, even when its checksum is right."""

import os
import struct
import tracemalloc

import numpy as np
import pytest

from rsdgc import ModelSpec, Scheme, Stamp, WeightedMean, WireError, decode, encode
from tests.rsdgc.forge import SPEC, Forge, sealed, valid

HEADER_ENDS = [0, 1, 4, 5, 6, 7, 8, 9, 17, 21, 25, 33, 37, 40, 41]
BODY_ENDS = Forge.of().boundaries()
BIG = 2**63


def header(**fields):
    return lambda forge: forge.header.update(fields)


def row(index, kept=None, unary=None):
    def change(forge):
        old = forge.rows[index]
        forge.rows[index] = (old[0] if kept is None else kept, old[1] if unary is None else unary)

    return change


def code(index, value):
    def change(forge):
        forge.codes[index] = value

    return change


def body(name, data):
    return lambda forge: forge.body.update({name: bytes.fromhex(data)})


def both(*changes):
    def change(forge):
        for one in changes:
            one(forge)

    return change


CATALOGUE = {
    "magic of zeros": header(magic=bytes(4)),
    "magic in another case": header(magic=b"rsdg"),
    "magic backwards": header(magic=b"GDSR"),
    "version 0": header(version=0),
    "version 2": header(version=2),
    "version 255": header(version=255),
    "unknown neighborhood": header(neighborhood=3),
    "neighborhood 255": header(neighborhood=255),
    "other neighborhood: element": header(neighborhood=2),
    "tile_px 0": header(tile_px=0),
    "tile_px 65": header(tile_px=65),
    "tile_px 255": header(tile_px=255),
    "tile_px of another cut": header(tile_px=4),
    "unknown value kind": header(values=3),
    "value kind 255": header(values=255),
    "value kind of other width": header(values=0),
    "value kind float16 for int8": header(values=1),
    "unknown dense kind": header(dense_values=2),
    "dense kind 255": header(dense_values=255),
    "dense kind of other width": header(dense_values=0),
    "signature of zeros": header(signature=bytes(8)),
    "signature of another model": header(
        signature=ModelSpec.from_shapes({"conv": (4, 2, 3, 3), "fc": (40, 3), "b": (5,)}).signature
    ),
    "no layers": header(num_layers=0),
    "a layer too few": header(num_layers=2),
    "a layer too many": header(num_layers=4),
    "2^31 layers": header(num_layers=2**31),
    "all layers claimed sparse": code(2, 0),
    "sparse layer claimed whole": code(0, 255),
    "every layer claimed whole": both(code(0, 255), code(1, 255)),
    "Rice parameter 32": code(0, 32),
    "Rice parameter 254": code(0, 254),
    "Rice parameter above the layer": code(0, 4),
    "Rice parameter without remainder": code(0, 1),
    "remainder without Rice parameter": code(1, 0),
    "nothing kept, bytes there": row(0, kept=0, unary=0),
    "nothing kept, stream there": row(0, kept=0),
    "one kept too few": row(0, kept=2),
    "one kept too many": row(0, kept=4),
    "more kept than there are": row(0, kept=9),
    "2^31 kept": row(0, kept=2**31),
    "2^32-1 kept": row(0, kept=2**32 - 1),
    "no unary stream": row(0, unary=0),
    "unary stream too long": row(0, unary=2),
    "unary stream of 2^31 bytes": row(0, unary=2**31),
    "unary stream of 2^32-1 bytes": row(0, unary=2**32 - 1),
    "all claims at their largest": both(
        row(0, 2**32 - 1, 2**32 - 1), row(1, 2**32 - 1, 2**32 - 1), code(0, 31), code(1, 31)
    ),
    "a row missing": lambda forge: forge.rows.pop(),
    "a row too many": lambda forge: forge.rows.append((0, 0)),
    "a code missing": lambda forge: forge.codes.pop(),
    "a code too many": lambda forge: forge.codes.append(0),
    "ids all zero bits": body("conv.unary", "00"),
    "ids: one too many": body("conv.unary", "5a"),
    "ids: one too few": body("conv.unary", "48"),
    "id just past the end": both(row(0, unary=2), body("conv.unary", "4880")),
    "id far past the end": both(row(0, unary=3), body("conv.unary", "480001")),
    "ids followed by a zero byte": both(row(0, unary=2), body("conv.unary", "4a00")),
    "unary padding set": body("conv.unary", "4b"),
    "remainder padding set": body("fc.rest", "11"),
    "remainder puts id past the end": body("fc.rest", "f0"),
    "remainder too long": body("fc.rest", "1000"),
    "scale NaN": body("conv.scale", "0000c07f"),
    "scale infinite": body("conv.scale", "0000807f"),
    "scale -infinite": body("conv.scale", "000080ff"),
    "scale negative": body("conv.scale", "000080bf"),
    "scale that overflows": body("conv.scale", "ffff7f7f"),
    "scale missing": body("conv.scale", ""),
    "int8 -128": body("fc.values", "80" + "00" * 7),
    "a value missing": body("fc.values", "00" * 7),
    "a value too many": body("fc.values", "00" * 9),
    "values missing": body("conv.values", ""),
    "whole layer NaN": body("bias", "007e" + "00" * 8),
    "whole layer infinite": body("bias", "00" * 8 + "007c"),
    "whole layer -infinite": body("bias", "00" * 8 + "00fc"),
    "whole layer half there": body("bias", "00" * 5),
    "whole layer missing": body("bias", ""),
    "whole layer too long": body("bias", "00" * 12),
    "a layer doubled": lambda forge: forge.body.update({"again": forge.body["bias"]}),
    "trailing byte": lambda forge: forge.body.update({"tail": b"\0"}),
    "trailing megabyte": lambda forge: forge.body.update({"tail": bytes(1 << 20)}),
}


def test_the_unspoilt_upload_is_valid():
    found = decode(Forge.of().build(), SPEC)
    assert [None if part.ids is None else part.ids.tolist() for part in found.parts] == [
        [1, 4, 6],
        [4, 14],
        None,
    ]


def test_the_catalogue_is_long():
    assert len(CATALOGUE) + len(HEADER_ENDS) + len(BODY_ENDS) >= 100


@pytest.mark.parametrize("name", CATALOGUE)
def test_malformed(name):
    forge = Forge.of()
    CATALOGUE[name](forge)
    with pytest.raises(WireError) as caught:
        decode(forge.build(), SPEC)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", list(CATALOGUE)[::8])
def test_malformed_uploads_leave_the_mean_alone(name):
    forge = Forge.of()
    CATALOGUE[name](forge)
    mean = WeightedMean(SPEC)
    mean.add("honest", valid(), 3)
    with pytest.raises(WireError):
        mean.add("hostile", forge.build(), 1)
    alone = WeightedMean(SPEC)
    alone.add("honest", valid(), 3)
    assert mean.mean().tobytes() == alone.mean().tobytes()


@pytest.mark.parametrize("end", HEADER_ENDS)
def test_truncated_in_the_header(end):
    with pytest.raises(WireError):
        decode(sealed(valid()[:end]), SPEC)


@pytest.mark.parametrize("end", BODY_ENDS[:-1])
def test_truncated_after_each_part(end):
    with pytest.raises(WireError):
        decode(sealed(valid()[:end]), SPEC)


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
    old, bad = forge.body["conv.values"], bytes.fromhex(data)
    forge.body["conv.values"] = bad + old[len(bad) :] if first else old[: -len(bad)] + bad
    with pytest.raises(WireError, match="NaN or infinite"):
        decode(forge.build(), SPEC)


@pytest.mark.parametrize("position", range(0, len(valid()), 7))
def test_damage_is_found_by_the_checksum(position):
    data = bytearray(valid())
    data[position] ^= 0x10
    with pytest.raises(WireError):
        decode(bytes(data), SPEC)


def test_sizes_are_not_taken_from_another_byte_order():
    forge = Forge.of()
    forge.rows = [struct.unpack(">II", struct.pack("<II", *old)) for old in forge.rows]
    with pytest.raises(WireError):
        decode(forge.build(), SPEC)


@pytest.mark.parametrize("data", [b"", b"RSDG", bytes(41), b"\xff" * 4096, b"\x80\x04N."])
def test_what_is_no_upload_at_all(data):
    with pytest.raises(WireError):
        decode(data, SPEC)


LARGE = ModelSpec.from_shapes({"fc": (2**14, 2**14), "bias": (2**20,)})


def claims(kept, unary, codes=b"\x00\xff"):
    """Return a kilobyte that claims up to gigabytes."""
    head = encode(
        LARGE, Scheme(), Stamp(), np.zeros(LARGE.size, np.float32), [np.empty(0, np.int64)] * 2
    )[:41]
    sparse = sum(one != 255 for one in codes)
    rows = struct.pack("<II", kept, unary) * sparse
    return sealed(head + codes + rows + b"\xff" * 1000)


@pytest.fixture(scope="module")
def large_claims():
    return [
        claims(2**24, 2**21),
        claims(2**24, 100),
        claims(8000, 1000),
        claims(900, 900),
        claims(2**32 - 1, 2**32 - 1),
        claims(2**32 - 1, 2**32 - 1, b"\x1f\x1f"),
        claims(2**31, 0, b"\x18\xff"),
        claims(0, 0, b"\xff\xff"),
        claims(0, 0),
    ]


def test_large_claims_take_no_memory(large_claims):
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


@pytest.mark.parametrize("values", ["int8", "float16", "float32"])
def test_fuzz(values):
    """Mutants raise WireError or decode to ids in range and finite values."""
    rng = np.random.default_rng(MUTANTS)
    original = np.frombuffer(valid(values), dtype=np.uint8)
    num_valid = 0
    for _ in range(MUTANTS // 3):
        data = mutated(original, rng)
        if rng.random() < 0.95:
            data = sealed(data)
        try:
            found = decode(data, SPEC)
        except WireError:
            continue
        num_valid += 1
        for part in found.parts:
            ids = np.arange(0) if part.ids is None else part.ids
            assert np.all(np.diff(ids) > 0)
            assert np.all((ids >= 0) & (ids < part.hoods.count)), part
        assert np.isfinite(found.to_dense()).all()
        assert found.layer_bytes.sum() + found.header_bytes == len(data)
    assert num_valid > MUTANTS / 100  # else the fuzz tests the first check alone


def mutated(original, rng):
    data = original.copy()
    kind = rng.integers(6)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(4 if kind else 41, data.size))
        if kind in (0, 1, 2):
            data[at] = rng.choice([rng.integers(256), 0, 1, 127, 128, 255])
        elif kind == 3:
            data[at] ^= 1 << rng.integers(8)
        elif kind == 4:
            data = np.delete(data, slice(at, at + int(rng.integers(1, 9))))
        else:
            data = np.insert(data, at, rng.integers(0, 256, rng.integers(1, 9), dtype=np.uint8))
        if data.size <= 42:
            break
    return data.tobytes()
