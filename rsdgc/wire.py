"""The wire format, version 1: this file is its only definition.

All numbers are little-endian. ``L`` is the number of layers, ``S`` that of sparse ones.

====== ===== ============ ==================================================================
offset bytes field        meaning
====== ===== ============ ==================================================================
0      4     magic        ``RSDG``
4      1     version      1
5      1     neighborhood 0 kernel, 1 tile, 2 element
6      1     tile_px      1 to 64
7      1     values       coding of sparse layers: 0 float32, 1 float16, 2 int8
8      1     dense_values coding of whole layers: 0 float32, 1 float16
9      8     run          u64
17     4     round        u32
21     4     base         u32, version of the model that the update starts from
25     8     signature    BLAKE2b of the layers' names and shapes
33     4     num_layers   u32, L
37     4     checksum     CRC-32 of the whole buffer without these four bytes
41     L     codes        a byte a layer: 255 sent whole, else the Rice parameter, 0 to 31
41+L   8·S   table        u32 kept neighborhoods, u32 bytes of the unary stream
…            layers       each layer's bytes in order, nothing between or after them
====== ===== ============ ==================================================================

A whole layer is its elements in ``dense_values``. A sparse layer is the unary stream, the
remainder stream (``ceil(kept · rice / 8)`` bytes; see :mod:`rsdgc.indices`), then the members of
the kept neighborhoods in id order in ``values``; int8 values follow their float32 scale. A sparse
layer that keeps nothing has Rice parameter 0 and no bytes.

The checksum finds accidents, not malice: every other check holds without it.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, get_args

import numpy as np

from rsdgc.errors import SettingError, WireError
from rsdgc.indices import decode_ids, encode_ids, remainder_bytes
from rsdgc.neighborhoods import Neighborhoods, cut
from rsdgc.scheme import MAX_TILE_PX, DenseKind, NeighborhoodKind, Scheme, ValueKind
from rsdgc.sparse import Part, SparseUpdate, Stamp
from rsdgc.values import decode_values, encode_values, value_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsdgc.arrays import Float32, Int64
    from rsdgc.spec import ModelSpec

__all__ = ["FIXED_BYTES", "ROW_BYTES", "VERSION", "SparseUpdate", "Stamp", "decode", "encode"]

MAGIC = b"RSDG"
VERSION = 1
WHOLE = 255
ROW_BYTES = 8

_HEADER = struct.Struct("<4sBBBBBQII8sI")
_CHECKSUM = struct.Struct("<I")
_ROW = np.dtype([("kept", "<u4"), ("unary", "<u4")])
FIXED_BYTES = _HEADER.size + _CHECKSUM.size

_NEIGHBORHOODS: tuple[NeighborhoodKind, ...] = get_args(NeighborhoodKind)
_VALUES: tuple[ValueKind, ...] = ("float32", "float16", "int8")
_DENSE_VALUES: tuple[DenseKind, ...] = ("float32", "float16")


def encode(
    spec: ModelSpec,
    scheme: Scheme,
    stamp: Stamp,
    update: Float32,
    kept: Sequence[Int64 | None],
) -> bytes:
    """Encode an update.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    scheme : Scheme
        How its layers are cut and coded.
    stamp : Stamp
        Run, round and base version.
    update : float32 [spec.size]
        What to send.
    kept : sequence of (int64 [k] or None), one a layer
        Ids of the neighborhoods to send, strictly increasing; None sends the layer whole.

    Returns
    -------
    bytes
        The buffer, as the table at the top of this module says.

    Raises
    ------
    SettingError
        If the ids or the number of layers do not fit the model.
    RsdgcError
        If a value to be sent is NaN or infinite.
    """
    if len(kept) != len(spec.layers):
        msg = f"ids of {len(kept)} layers were passed: the model has {len(spec.layers)}"
        raise SettingError(msg)
    codes = bytearray()
    rows: list[tuple[int, int]] = []
    body: list[bytes | memoryview] = []
    for layer, view, ids in zip(spec.layers, spec.views(update), kept, strict=True):
        if ids is None:
            codes.append(WHOLE)
            body += encode_values(view, scheme.dense_values)
            continue
        hoods = cut(layer.shape, scheme)
        coded = encode_ids(ids, hoods.count)
        codes.append(coded.rice)
        rows.append((ids.size, len(coded.unary)))
        body += [coded.unary, coded.remainder]
        body += encode_values(hoods.gather(view, ids), scheme.values)
    head = _header(spec, scheme, stamp)
    tail = [bytes(codes), np.array(rows, dtype=_ROW).tobytes(), *body]
    checksum = zlib.crc32(head)
    for piece in tail:
        checksum = zlib.crc32(piece, checksum)
    return b"".join([head, _CHECKSUM.pack(checksum), *tail])


def decode(buffer: bytes | bytearray | memoryview, spec: ModelSpec) -> SparseUpdate:
    """Decode and check an update that a peer sent.

    Nothing is trusted: every size is checked against the bytes that arrived before memory is
    taken for it, so decoding takes at most a small multiple of ``len(buffer)``.

    Parameters
    ----------
    buffer : bytes-like
        The whole upload.
    spec : ModelSpec
        The model it must be for.

    Returns
    -------
    SparseUpdate
        Ids strictly increasing and in range, values finite. It may share ``buffer``'s memory.

    Raises
    ------
    WireError
        If the buffer is not a valid update of this model. No other error is raised.
    """
    payload = bytes(buffer)
    scheme, stamp = _read_header(payload, spec)
    reader = _Reader(payload, FIXED_BYTES)
    codes = np.frombuffer(reader.take(len(spec.layers), "layer codes"), dtype=np.uint8)
    num_rows = int(np.count_nonzero(codes != WHOLE))
    table = np.frombuffer(reader.take(ROW_BYTES * num_rows, "layer table"), dtype=_ROW)
    header_bytes = reader.position
    rows = iter(table.tolist())
    parts = []
    for layer, code in zip(spec.layers, codes.tolist(), strict=True):
        hoods = cut(layer.shape, scheme)
        if code == WHOLE:
            parts.append(_read_whole(reader, hoods, scheme, layer.name))
        else:
            parts.append(_read_sparse(reader, hoods, scheme, layer.name, (code, *next(rows))))
    if reader.remaining:
        msg = f"the upload has {reader.remaining} bytes after its last layer: refuse it"
        raise WireError(msg)
    return SparseUpdate(payload, stamp, scheme, spec, tuple(parts), header_bytes)


class _Reader:
    """Takes bytes off the front of a buffer, and refuses to take more than there are."""

    def __init__(self, payload: bytes, position: int) -> None:
        self._view = memoryview(payload)
        self.position = position

    @property
    def remaining(self) -> int:
        return len(self._view) - self.position

    def need(self, size: int, what: str) -> None:
        if size > self.remaining:
            msg = f"{what} needs {size} bytes and the upload has {self.remaining} left: refuse it"
            raise WireError(msg)

    def take(self, size: int, what: str) -> memoryview:
        self.need(size, what)
        start = self.position
        self.position += size
        return self._view[start : self.position]


def _header(spec: ModelSpec, scheme: Scheme, stamp: Stamp) -> bytes:
    return _HEADER.pack(
        MAGIC,
        VERSION,
        _NEIGHBORHOODS.index(scheme.neighborhood),
        scheme.tile_px,
        _VALUES.index(scheme.values),
        _DENSE_VALUES.index(scheme.dense_values),
        stamp.run,
        stamp.round,
        stamp.base,
        spec.signature,
        len(spec.layers),
    )


def _read_header(payload: bytes, spec: ModelSpec) -> tuple[Scheme, Stamp]:
    if len(payload) < FIXED_BYTES:
        msg = f"the upload of {len(payload)} bytes is shorter than its {FIXED_BYTES}-byte header"
        raise WireError(msg)
    fields = _HEADER.unpack_from(payload)
    magic, version, hoods, tile_px, values, dense, run, round_, base, signature, num = fields
    if magic != MAGIC:
        msg = f"the upload starts with {magic!r}, not {MAGIC!r}: it is no update"
        raise WireError(msg)
    if version != VERSION:
        msg = f"the upload has format version {version}, not {VERSION}: run one release at all ends"
        raise WireError(msg)
    _check_checksum(payload)
    if signature != spec.signature or num != len(spec.layers):
        msg = f"the upload is for model {signature.hex()} with {num} layers: use one model"
        raise WireError(msg)
    if (
        hoods >= len(_NEIGHBORHOODS)
        or values >= len(_VALUES)
        or dense >= len(_DENSE_VALUES)
        or not 1 <= tile_px <= MAX_TILE_PX
    ):
        msg = f"the upload has unknown scheme codes {fields[2:6]}: run one release at all ends"
        raise WireError(msg)
    scheme = Scheme(_NEIGHBORHOODS[hoods], tile_px, _VALUES[values], _DENSE_VALUES[dense])
    return scheme, Stamp(run, round_, base)


def _check_checksum(payload: bytes) -> None:
    (claimed,) = _CHECKSUM.unpack_from(payload, _HEADER.size)
    rest = memoryview(payload)
    found = zlib.crc32(rest[FIXED_BYTES:], zlib.crc32(rest[: _HEADER.size]))
    if found != claimed:
        msg = f"the upload's checksum is {found:08x}, not {claimed:08x}: it was damaged, resend it"
        raise WireError(msg)


def _read_whole(reader: _Reader, hoods: Neighborhoods, scheme: Scheme, name: str) -> Part:
    size = value_bytes(hoods.size, scheme.dense_values)
    values = decode_values(reader.take(size, name), hoods.size, scheme.dense_values)
    return Part(hoods, None, values, size)


def _read_sparse(
    reader: _Reader, hoods: Neighborhoods, scheme: Scheme, name: str, row: tuple[int, int, int]
) -> Part:
    rice, kept, unary_bytes = row
    rest_bytes = remainder_bytes(kept, rice)
    start = reader.position
    reader.need(unary_bytes + rest_bytes + value_bytes(kept, scheme.values), name)
    unary = np.frombuffer(reader.take(unary_bytes, name), dtype=np.uint8)
    rest = np.frombuffer(reader.take(rest_bytes, name), dtype=np.uint8)
    ids = decode_ids(unary, rest, rice, kept, hoods.count)
    num_values = hoods.num_members(ids)
    buffer = reader.take(value_bytes(num_values, scheme.values), name)
    values = decode_values(buffer, num_values, scheme.values)
    return Part(hoods, ids, values, reader.position - start)
