"""The fixed header of an encoded update; :mod:`rsdgc.codec.wire` has the table of its fields."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from rsdgc.channel_transform import MAX_CHANNELS, WIDE_MODEL_CHANNELS, block_limit
from rsdgc.codec.indices import INDEX_CODES
from rsdgc.codec.values import name_from_code
from rsdgc.errors import SettingError, WireError
from rsdgc.neighborhoods import NEIGHBORHOOD_CODES
from rsdgc.scheme import Scheme, TransformKind
from rsdgc.spec import ModelSpec
from rsdgc.update import Stamp

MAGIC = b"RSDG"
VERSION = 2

_FIELDS = struct.Struct("<4sBBBBBBQII8sIII")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _FIELDS.size + _CHECKSUM.size

_NEIGHBORHOODS = {code: kind for kind, code in NEIGHBORHOOD_CODES.items()}
_INDICES = {code: kind for kind, code in INDEX_CODES.items()}
_TRANSFORM_MASK = 0xF0  # of the byte that holds the neighborhood, too
CHANNELS_CODES = {MAX_CHANNELS: 16, WIDE_MODEL_CHANNELS: 32}
"""Code of the channel transform by a model's largest basis, on which the meaning of values depends
(:func:`rsdgc.channel_transform.block_limit`). Never change one, never use one twice."""


class Header(NamedTuple):
    """The fields of the header that do not follow from the model."""

    scheme: Scheme
    stamp: Stamp
    unary_bytes: int
    plain_bytes: int

    def assemble(self, spec: ModelSpec, sections: list[bytes]) -> bytes:
        """Return the complete buffer: this header, its checksum, and the sections behind them."""
        scheme, stamp = self.scheme, self.stamp
        shape = NEIGHBORHOOD_CODES[scheme.neighborhood] | _transform_codes(spec)[scheme.transform]
        kinds = shape, scheme.tile_px
        codings = scheme.value_coding.code, scheme.dense_coding.code, INDEX_CODES[scheme.indices]
        versions = stamp.run, stamp.round, stamp.base
        model = spec.signature, len(spec.layers)
        streams = self.unary_bytes, self.plain_bytes
        head = _FIELDS.pack(MAGIC, VERSION, *kinds, *codings, *versions, *model, *streams)
        return b"".join([head, _CHECKSUM.pack(_checksum(head, *sections)), *sections])

    @classmethod
    def read(cls, payload: bytes, spec: ModelSpec) -> Header:
        """Read and check the header of a buffer that a peer sent.

        Raises
        ------
        WireError
            It is not an intact update of this model in this version of the format.
        """
        if len(payload) < HEADER_BYTES:
            msg = f"the upload of {len(payload)} bytes is shorter than its header ({HEADER_BYTES})"
            raise WireError(msg)
        magic, version, *codes, run, round_, base, signature, num_layers, unary, plain = (
            _FIELDS.unpack_from(payload)
        )
        if magic != MAGIC:
            raise WireError(f"the upload starts with {magic!r}, not {MAGIC!r}: it is not an update")
        # Before the checksum: what another release sends is not damaged.
        if version != VERSION:
            msg = f"the upload has format version {version}, not {VERSION}"
            raise WireError(f"{msg}: install one release on the server and at every site")
        (claimed,) = _CHECKSUM.unpack_from(payload, _FIELDS.size)
        view = memoryview(payload)
        checksum = _checksum(view[: _FIELDS.size], view[HEADER_BYTES:])
        if checksum != claimed:
            msg = f"the upload's checksum is {checksum:08x}, not {claimed:08x}"
            raise WireError(f"{msg}: it is damaged, resend it")
        if signature != spec.signature or num_layers != len(spec.layers):
            msg = f"the upload is for model {signature.hex()} with {num_layers} layers"
            raise WireError(f"{msg}: use one model everywhere")
        return cls(_read_scheme(spec, *codes), Stamp(run, round_, base), unary, plain)


def _transform_codes(spec: ModelSpec) -> dict[TransformKind, int]:
    return {"none": 0, "channels": CHANNELS_CODES[block_limit(spec)]}


def _read_scheme(
    spec: ModelSpec, shape: int, tile_px: int, values: int, dense_values: int, indices: int
) -> Scheme:
    try:
        neighborhood = _NEIGHBORHOODS[shape & ~_TRANSFORM_MASK]
        transforms = {code: kind for kind, code in _transform_codes(spec).items()}
        transform = transforms[shape & _TRANSFORM_MASK]
        names = name_from_code(values), name_from_code(dense_values)
        return Scheme(neighborhood, tile_px, *names, _INDICES[indices], transform)
    except (KeyError, SettingError):
        codes = (shape, tile_px, values, dense_values, indices)
        msg = f"the upload has unknown scheme codes {codes}"
        raise WireError(f"{msg}: install one release on the server and at every site") from None


def _checksum(*pieces: bytes | memoryview) -> int:
    checksum = 0
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    return checksum
