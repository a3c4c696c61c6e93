"""The fixed header of an encoded update; :mod:`rsdgc.codec.wire` has the table of its fields."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple, get_args

from rsdgc.errors import SettingError, WireError
from rsdgc.scheme import DenseKind, IndexKind, NeighborhoodKind, Scheme, ValueKind
from rsdgc.spec import ModelSpec
from rsdgc.update import Stamp

MAGIC = b"RSDG"
VERSION = 2

_FIELDS = struct.Struct("<4sBBBBBBQII8sIII")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _FIELDS.size + _CHECKSUM.size

_NEIGHBORHOODS: tuple[NeighborhoodKind, ...] = get_args(NeighborhoodKind)
_VALUES: tuple[ValueKind, ...] = get_args(ValueKind)
_DENSE_VALUES: tuple[DenseKind, ...] = get_args(DenseKind)
_INDICES: tuple[IndexKind, ...] = get_args(IndexKind)


class Header(NamedTuple):
    """What the header says, beside the model.

    Attributes
    ----------
    scheme : Scheme
        How layers are cut and coded.
    stamp : Stamp
        Run, round and base version.
    unary_bytes, plain_bytes : int
        Lengths of the two streams.
    """

    scheme: Scheme
    stamp: Stamp
    unary_bytes: int
    plain_bytes: int

    def assemble(self, spec: ModelSpec, tail: list[bytes]) -> bytes:
        """Return the whole buffer: this header, the checksum, and what follows them."""
        scheme, stamp = self.scheme, self.stamp
        head = _FIELDS.pack(
            MAGIC,
            VERSION,
            _NEIGHBORHOODS.index(scheme.neighborhood),
            scheme.tile_px,
            _VALUES.index(scheme.values),
            _DENSE_VALUES.index(scheme.dense_values),
            _INDICES.index(scheme.indices),
            stamp.run,
            stamp.round,
            stamp.base,
            spec.signature,
            len(spec.layers),
            self.unary_bytes,
            self.plain_bytes,
        )
        return b"".join([head, _CHECKSUM.pack(_checksum(head, *tail)), *tail])

    @classmethod
    def read(cls, payload: bytes, spec: ModelSpec) -> Header:
        """Read and check the header of a buffer that a peer sent.

        Raises
        ------
        WireError
            If it is no intact update of this model in this version.
        """
        if len(payload) < HEADER_BYTES:
            msg = f"the upload of {len(payload)} bytes is shorter than its header ({HEADER_BYTES})"
            raise WireError(msg)
        fields = _FIELDS.unpack_from(payload)
        magic, version, *kinds = fields[:7]
        run, round_, base, signature, num_layers, unary, plain = fields[7:]
        if magic != MAGIC:
            msg = f"the upload starts with {magic!r}, not {MAGIC!r}: it is no update"
            raise WireError(msg)
        if version != VERSION:
            msg = f"the upload has format version {version}, not {VERSION}: run one release"
            raise WireError(f"{msg} at all ends")
        (claimed,) = _CHECKSUM.unpack_from(payload, _FIELDS.size)
        view = memoryview(payload)
        found = _checksum(view[: _FIELDS.size], view[HEADER_BYTES:])
        if found != claimed:
            msg = f"the upload's checksum is {found:08x}, not {claimed:08x}: it was damaged"
            raise WireError(f"{msg}, resend it")
        if signature != spec.signature or num_layers != len(spec.layers):
            msg = f"the upload is for model {signature.hex()} with {num_layers} layers"
            raise WireError(f"{msg}: use one model")
        return cls(_read_scheme(*kinds), Stamp(run, round_, base), unary, plain)


def _read_scheme(grid: int, tile_px: int, values: int, dense: int, indices: int) -> Scheme:
    try:
        return Scheme(
            _NEIGHBORHOODS[grid], tile_px, _VALUES[values], _DENSE_VALUES[dense], _INDICES[indices]
        )
    except (IndexError, SettingError):
        codes = (grid, tile_px, values, dense, indices)
        msg = f"the upload has unknown scheme codes {codes}: run one release at all ends"
        raise WireError(msg) from None


def _checksum(*pieces: bytes | memoryview) -> int:
    checksum = 0
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    return checksum
