import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc import ModelSpec, Scheme, Stamp, WireError
from rsdgc.codec.header import HEADER_BYTES, MAGIC, VERSION, Header
from tests.rsdgc.examples import MIXED, schemes, specs, stamps
from tests.rsdgc.forge import HEADER, LAYOUT, sealed

STAMP = Stamp(1, 2, 3)
lengths = st.integers(0, 2**32 - 1)


@given(specs, schemes, stamps, lengths, lengths, st.lists(st.binary(max_size=20), max_size=3))
def test_round_trip(spec, scheme, stamp, unary, plain, tail):
    head = Header(scheme, stamp, unary, plain)
    payload = head.assemble(spec, tail)
    assert payload[HEADER_BYTES:] == b"".join(tail)
    assert Header.read(payload, spec) == head
    fields = dict(zip(HEADER, LAYOUT.unpack_from(payload), strict=True))
    assert (fields["magic"], fields["version"]) == (MAGIC, VERSION) == (b"RSDG", 2)
    assert (fields["run"], fields["round"], fields["base"]) == (stamp.run, stamp.round, stamp.base)
    assert (fields["signature"], fields["num_layers"]) == (spec.signature, len(spec.layers))
    (checksum,) = struct.unpack_from("<I", payload, HEADER_BYTES - 4)
    assert checksum == zlib.crc32(payload[: HEADER_BYTES - 4] + payload[HEADER_BYTES:])


@given(schemes, st.integers(0, 8 * (HEADER_BYTES + 4) - 1))
def test_every_single_flipped_bit_is_noticed(scheme, bit):
    payload = bytearray(Header(scheme, STAMP, 1, 3).assemble(MIXED, [b"four"]))
    payload[bit // 8] ^= 1 << bit % 8
    with pytest.raises(WireError):
        Header.read(bytes(payload), MIXED)


CODES = {
    "neighborhood": {"kernel": 0, "tile": 1, "element": 2},
    "values": {"float32": 0, "float16": 1, "int8": 2, "ternary": 3, "deadzone": 4},
    "dense_values": {"float32": 0, "float16": 1, "int8": 2},
    "indices": {"rice": 0, "int32": 1},
}


@pytest.mark.parametrize(
    ("field", "kind", "code"),
    [(field, kind, code) for field, codes in CODES.items() for kind, code in codes.items()],
)
def test_every_code_is_what_it_has_always_been(field, kind, code):
    payload = Header(Scheme(**{field: kind}), STAMP, 0, 0).assemble(MIXED, [])
    assert dict(zip(HEADER, LAYOUT.unpack_from(payload), strict=True))[field] == code
    assert getattr(Header.read(payload, MIXED).scheme, field) == kind


@pytest.mark.parametrize("kind", CODES["neighborhood"])
def test_the_transform_shares_a_byte_with_the_neighborhood(kind):
    scheme = Scheme(kind, transform="channels")
    payload = Header(scheme, STAMP, 0, 0).assemble(MIXED, [])
    fields = dict(zip(HEADER, LAYOUT.unpack_from(payload), strict=True))
    assert fields["neighborhood"] == 16 + CODES["neighborhood"][kind]
    assert Header.read(payload, MIXED).scheme == scheme


def test_the_byte_tells_the_largest_basis_of_the_transform():
    """An upload whose values have another meaning for this release is not read."""
    wide = ModelSpec.from_shapes({"conv.weight": (2, 513, 1, 1)})
    for spec, code in ((MIXED, 16), (wide, 32)):
        header = Header(Scheme("tile", transform="channels"), STAMP, 0, 0)
        fields = dict(zip(HEADER, LAYOUT.unpack_from(header.assemble(spec, [])), strict=True))
        assert fields["neighborhood"] == code + 1
        fields["neighborhood"] = (48 - code) + 1
        with pytest.raises(WireError, match="unknown scheme codes"):
            Header.read(sealed(LAYOUT.pack(*fields.values()) + bytes(4)), spec)


@pytest.mark.parametrize("field", CODES)
def test_unknown_codes_are_refused(field):
    payload = Header(Scheme(), STAMP, 0, 0).assemble(MIXED, [])
    known = set(CODES[field].values())
    if field == "neighborhood":
        known |= {16 + code for code in known}
    for code in set(range(127)) - known:
        fields = dict(zip(HEADER, LAYOUT.unpack_from(payload), strict=True)) | {field: code}
        with pytest.raises(WireError, match="unknown scheme codes"):
            Header.read(sealed(LAYOUT.pack(*fields.values()) + bytes(4)), MIXED)


@pytest.mark.parametrize("size", [0, 1, HEADER_BYTES - 1])
def test_shorter_buffers_are_refused(size):
    with pytest.raises(WireError, match="shorter than its header"):
        Header.read(bytes(size), MIXED)


def test_other_versions_are_named():
    payload = bytearray(Header(Scheme(), STAMP, 0, 0).assemble(MIXED, []))
    payload[4] = 1
    with pytest.raises(WireError, match="format version 1, not 2"):
        Header.read(bytes(payload), MIXED)
