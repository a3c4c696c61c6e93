"""The wire format, version 2: this file is its only definition.

All numbers are little-endian. ``L`` is the number of layers.

====== ===== ============ ==================================================================
offset bytes field        meaning
====== ===== ============ ==================================================================
0      4     magic        ``RSDG``
4      1     version      2
5      1     neighborhood 0 kernel, 1 tile, 2 element
6      1     tile_px      1 to 64
7      1     values       of sparse layers: 0 float32, 1 float16, 2 int8, 3 ternary,
                          4 dead-zone levels
8      1     dense_values of whole layers: 0 float32, 1 float16, 2 int8
9      1     indices      0 Golomb-Rice, 1 int32
10     8     run          u64
18     4     round        u32
22     4     base         u32, version of the model that the update starts from
26     8     signature    BLAKE2b of the layers' names and shapes
34     4     num_layers   u32, L
38     4     unary        u32, bytes of the unary stream
42     4     plain        u32, bytes of the plain stream
46     4     checksum     CRC-32 of the whole buffer without these four bytes
50     L     codes        a byte a layer: 255 sent whole, 254 all neighborhoods kept, else the
                          Rice parameter of its ids, 0 to 31 (0 if indices are int32)
50+L   …     counts       kept neighborhoods of each layer with a code below 254 (varint)
…            unary        the two streams (:mod:`rsdgc.codec.golomb_rice`): the ids of all
…            plain        sparse layers, then the levels of all groups
…            ids          the ids of all sparse layers with codes below 254, u32 each, if
                          indices are int32
…            levels       quantiser and groups, if values are levels (:mod:`rsdgc.codec.dead_zone`)
…            values       layer by layer, nothing between or after them: a whole layer's elements
                          in ``dense_values``, a sparse one's values unless they are levels
====== ===== ============ ==================================================================

Values are the members of the kept neighborhoods in id order (:mod:`rsdgc.codec.values`). A layer
that keeps nothing has code 0, count 0 and no bytes.

The checksum finds accidents, not malice: every other check holds without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsdgc.codec.byte_stream import ByteReader
from rsdgc.codec.dead_zone import dequantize, quantize
from rsdgc.codec.golomb_rice import RiceReader
from rsdgc.codec.header import HEADER_BYTES, VERSION, Header
from rsdgc.codec.indices import (
    WHOLE_LAYER,
    KeptNeighborhoods,
    bytes_from_bits,
    check_ids,
    encode_ids,
    read_counts,
    read_ids,
    read_raw_ids,
)
from rsdgc.codec.values import decode_values, encode_values, value_bytes
from rsdgc.errors import SettingError, WireError
from rsdgc.neighborhoods import Neighborhoods, cut
from rsdgc.update import LayerUpdate, SparseUpdate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsdgc.arrays import Float32, Int64
    from rsdgc.scheme import Scheme
    from rsdgc.spec import ModelSpec
    from rsdgc.update import Stamp

__all__ = ["HEADER_BYTES", "VERSION", "decode", "encode"]


def encode(
    spec: ModelSpec,
    scheme: Scheme,
    stamp: Stamp,
    update: Float32,
    kept: Sequence[Int64 | None],
    budget_bytes: float = 0.0,
) -> SparseUpdate:
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
        Ids of the neighborhoods to send, strictly increasing; None sends the layer whole. Of
        dead-zone levels those that lie in the dead zone whole are left out.
    budget_bytes : float
        Size of the buffer that dead-zone levels are fitted to; other values take what they take.

    Returns
    -------
    SparseUpdate
        What :func:`decode` makes of the buffer, which is its ``payload``.

    Raises
    ------
    SettingError
        If the ids or the number of layers do not fit the model, or the budget is too small.
    RsdgcError
        If a value to be sent is NaN or infinite.
    """
    if len(kept) != len(spec.layers):
        msg = f"ids of {len(kept)} layers were passed: the model has {len(spec.layers)}"
        raise SettingError(msg)
    grids = [cut(layer.shape, scheme) for layer in spec.layers]
    sparse, bodies = _take_apart(scheme, grids, spec.views(update), kept)
    levels = scheme.values == "deadzone" and bool(sparse)
    if levels:
        room = budget_bytes - HEADER_BYTES - len(grids) - sum(map(len, bodies))
        coded = quantize(list(sparse.values()), room, scheme.indices)
    else:
        coded = encode_ids(list(sparse.values()), scheme.indices)
    codes = np.full(len(grids), WHOLE_LAYER, dtype=np.uint8)
    codes[list(sparse)] = coded.codes
    head = Header(scheme, stamp, len(coded.unary), len(coded.plain))
    streams = [coded.unary, coded.plain, coded.raw_ids]
    payload = head.assemble(spec, [codes.tobytes(), coded.counts, *streams, coded.table, *bodies])
    if not levels:
        return decode(payload, spec)
    coded_parts = dict(zip(sparse, coded.layer_updates(), strict=True))
    parts = tuple(
        coded_parts[i] if i in coded_parts else _read_part(ByteReader(bodies[i]), grid, scheme)
        for i, grid in enumerate(grids)
    )
    return SparseUpdate(payload, stamp, scheme, spec, parts)


def decode(
    buffer: bytes | bytearray | memoryview, spec: ModelSpec, scheme: Scheme | None = None
) -> SparseUpdate:
    """Decode and check an update that a peer sent.

    Nothing is trusted: every size is checked against the bytes that arrived before memory is
    taken for it. Levels take as much as the neighborhoods that have one sign bit each (a byte of
    signs, eight of them), other values a small multiple of ``len(buffer)``; never more than a
    small multiple of the model.

    Parameters
    ----------
    buffer : bytes-like
        The whole upload.
    spec : ModelSpec
        The model it must be for.
    scheme : Scheme, optional
        The one it must have; by default any.

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
    head = Header.read(payload, spec)
    if scheme not in (None, head.scheme):
        msg = f"the upload has the scheme {head.scheme}, not {scheme}: use one at all ends"
        raise WireError(msg)
    reader = ByteReader(payload, HEADER_BYTES)
    grids = [cut(layer.shape, head.scheme) for layer in spec.layers]
    codes = list(reader.take(len(grids), "the layer codes"))
    sparse = [i for i, code in enumerate(codes) if code != WHOLE_LAYER]
    layers, codes = [grids[i] for i in sparse], [codes[i] for i in sparse]
    counts = read_counts(codes, layers, reader)
    unary = reader.take(head.unary_bytes, "the unary stream")
    plain = reader.take(head.plain_bytes, "the plain stream")
    _check_claims(head, layers, counts, reader.remaining)
    streams = RiceReader(unary, plain)
    if head.scheme.indices == "rice":
        ids, bits = read_ids(codes, counts, layers, streams)
    else:
        ids, bits = read_raw_ids(codes, counts, layers, reader)
    values: Sequence[Float32 | None] = [None] * len(sparse)
    if head.scheme.values == "deadzone":
        sizes = [grid.num_members(some) for grid, some in zip(layers, ids, strict=True)]
        values, level_bits = dequantize(sizes, reader, streams)
        bits += level_bits
    streams.finish()
    num_bytes = bytes_from_bits(bits)
    found = dict(zip(sparse, zip(ids, values, num_bytes, strict=True), strict=True))
    parts = tuple(
        _read_part(reader, grid, head.scheme, found.get(i)) for i, grid in enumerate(grids)
    )
    if reader.remaining:
        msg = f"the upload has {reader.remaining} bytes after its last layer: refuse it"
        raise WireError(msg)
    return SparseUpdate(payload, head.stamp, head.scheme, spec, parts)


def _take_apart(
    scheme: Scheme,
    grids: Sequence[Neighborhoods],
    views: Sequence[Float32],
    kept: Sequence[Int64 | None],
) -> tuple[dict[int, KeptNeighborhoods], list[bytes]]:
    """Return the sparse layers by number, and each layer's bytes of the last section."""
    sparse: dict[int, KeptNeighborhoods] = {}
    bodies = []
    for i, (grid, view, ids) in enumerate(zip(grids, views, kept, strict=True)):
        if ids is None:
            bodies.append(b"".join(encode_values(view, scheme.dense_values)))
            continue
        check_ids(ids, grid.count)
        sparse[i] = KeptNeighborhoods(grid, ids, grid.gather(view, ids))
        levels = scheme.values == "deadzone"
        bodies.append(b"" if levels else b"".join(encode_values(sparse[i].values, scheme.values)))
    return sparse, bodies


def _check_claims(
    head: Header, layers: Sequence[Neighborhoods], counts: Sequence[int], remaining: int
) -> None:
    """Compare the claimed sizes with the bytes that arrived, before memory is taken for them."""
    if head.scheme.values == "deadzone":
        if sum(counts) > 8 * head.plain_bytes:  # each has a sign bit at least
            msg = f"{sum(counts)} neighborhoods are claimed in {head.plain_bytes} bytes of levels"
            raise WireError(f"{msg}: refuse the upload")
        return
    least, id_bytes = 0, 4 if head.scheme.indices == "int32" else 0
    for grid, count in zip(layers, counts, strict=True):
        everything = count == grid.count
        least += 0 if everything else id_bytes * count
        least += value_bytes(grid.size if everything else count, head.scheme.values)
    if least > remaining:
        msg = f"the claimed neighborhoods need {least} bytes and the upload has {remaining} left"
        raise WireError(f"{msg}: refuse it")


def _read_part(
    reader: ByteReader,
    grid: Neighborhoods,
    scheme: Scheme,
    sparse: tuple[Int64 | None, Float32 | None, int] | None = None,
) -> LayerUpdate:
    """Return a layer's part; what ids and levels said of it if it is sparse, None if whole."""
    ids, values, num_bytes = sparse or (None, None, 0)
    if values is None:
        kind = scheme.dense_values if sparse is None else scheme.values
        count = grid.num_members(ids)
        size = value_bytes(count, kind)
        values = decode_values(reader.take(size, "a layer"), count, kind)
        num_bytes += size
    return LayerUpdate(grid, ids, values, num_bytes)
