"""The wire format, version 2: this file is its only definition.

All numbers are little-endian. ``L`` is the number of layers.

====== ===== ============ ==================================================================
offset bytes field        meaning
====== ===== ============ ==================================================================
0      4     magic        ``RSDG``
4      1     version      2
5      1     neighborhood 0 kernel, 1 tile, 2 element; plus 16 (bases of at most 512 channels)
                          or 32 (256) if convolutions are in the principal axes of their
                          channels (:mod:`rsdgc.channel_transform`)
6      1     tile_px      1 to 64
7      1     values       coding of sparse layers: 0 float32, 1 float16, 2 int8, 3 ternary,
                          4 dead-zone levels, 128 and more: codings from outside
8      1     dense_values coding of whole layers: 0 float32, 1 float16, 2 int8, 128 and more
9      1     indices      0 Golomb-Rice, 1 int32
10     8     run          u64
18     4     round        u32
22     4     base         u32, version of the model that the update starts from
26     8     signature    BLAKE2b of the layers' names and shapes
34     4     num_layers   u32, L
38     4     unary        u32, bytes of the unary stream
42     4     plain        u32, bytes of the plain stream
46     4     checksum     CRC-32 of the whole buffer without these four bytes
50     L     codes        a byte for each layer: 255 sent whole, 254 all neighborhoods kept, else
                          the Rice parameter of its ids, 0 to 31 (0 if indices are int32)
50+L   …     counts       kept neighborhoods of each layer with a code below 254 (varint)
…            unary        the two streams (:mod:`rsdgc.codec.golomb_rice`): the ids of all
…            plain        sparse layers, then the levels of all groups
…            ids          the ids of all sparse layers with codes below 254, u32 each, if
                          indices are int32
…            levels       quantizer and groups, if values are levels (:mod:`rsdgc.codec.dead_zone`)
…            values       layer by layer, nothing between or after them: the elements of a whole
                          layer, the values of a sparse one unless they are levels
====== ===== ============ ==================================================================

Values are the members of the kept neighborhoods in id order (:mod:`rsdgc.codec.values`). A layer
that keeps nothing has code 0, count 0 and no bytes.

The checksum finds accidents, not malice: every other check holds without it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsdgc.arrays import Float32, Int64
from rsdgc.codec.byte_stream import ByteReader
from rsdgc.codec.golomb_rice import RiceReader
from rsdgc.codec.header import HEADER_BYTES, VERSION, Header
from rsdgc.codec.indices import (
    WHOLE_LAYER,
    KeptNeighborhoods,
    all_ids,
    bytes_from_bits,
    check_ids,
    encode_ids,
    read_counts,
    read_ids,
)
from rsdgc.codec.values import JointCoding, LayerCoding, check_decoded, decode_values, encode_values
from rsdgc.errors import SettingError, WireError
from rsdgc.neighborhoods import Neighborhoods
from rsdgc.scheme import Scheme
from rsdgc.spec import ModelSpec
from rsdgc.update import LayerUpdate, SparseUpdate, Stamp

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
    spec, scheme, stamp
        The model, how its layers are cut and coded, and where the update belongs.
    update : float32 [spec.size]
        What to send.
    kept : sequence of (int64 [k] or None), one for each layer
        Ids of the neighborhoods to send, strictly increasing; None sends the layer whole. A joint
        coding may leave some out: dead-zone levels omit neighborhoods of zeros.
    budget_bytes : float
        Size of the buffer, which a joint coding fits its values to. Other codings ignore it: ids
        alone decide how many bytes they take.

    Returns
    -------
    SparseUpdate
        The update as :func:`decode` returns it; its ``payload`` is the buffer.

    Raises
    ------
    SettingError
        The ids or the number of layers do not fit the model, or the budget is too small.
    RsdgcError
        A value to be sent is NaN or infinite.
    """
    if len(kept) != len(spec.layers):
        raise SettingError(f"ids of {len(kept)} layers: the model has {len(spec.layers)}")
    grids = [scheme.cut(layer.shape) for layer in spec.layers]
    sparse, bodies = _split_layers(scheme, grids, spec.views(update), kept)
    coding = scheme.value_coding
    if isinstance(coding, JointCoding) and sparse:
        # Whole layers have a fixed size; what they leave of the budget is for the joint coding.
        room = budget_bytes - HEADER_BYTES - len(grids) - sum(map(len, bodies))
        encoded = coding.encode(list(sparse.values()), room, scheme.indices)
    else:
        encoded = encode_ids(list(sparse.values()), scheme.indices)
    codes = np.full(len(grids), WHOLE_LAYER, dtype=np.uint8)
    codes[list(sparse)] = encoded.codes
    header = Header(scheme, stamp, len(encoded.unary), len(encoded.plain))
    streams = [encoded.unary, encoded.plain, encoded.raw_ids]
    sections = [codes.tobytes(), encoded.counts, *streams, encoded.table, *bodies]
    payload = header.assemble(spec, sections)
    if not isinstance(coding, JointCoding):
        # Error feedback needs what the receiver will find, and decoding says exactly that.
        return decode(payload, spec)
    # A joint coding has computed its decoded values already. Only whole layers are decoded here.
    sent = zip(encoded.kept, bytes_from_bits(encoded.layer_bits), strict=True)
    layers = []
    for i, grid in enumerate(grids):
        if i not in sparse:
            layers.append(_read_layer(ByteReader(bodies[i]), grid, None, scheme.dense_coding, 0))
            continue
        layer, num_bytes = next(sent)
        ids = all_ids(grid) if layer.is_complete else layer.ids
        layers.append(LayerUpdate(grid, ids, layer.values, num_bytes))
    return SparseUpdate(payload, stamp, scheme, spec, tuple(layers))


def decode(
    buffer: bytes | bytearray | memoryview, spec: ModelSpec, scheme: Scheme | None = None
) -> SparseUpdate:
    """Decode and check an update that a peer sent.

    Nothing is trusted: every size is compared with the bytes that arrived before memory is
    allocated for it. The memory is a small multiple of ``len(buffer)``, except that with a joint
    coding one bit can stand for a neighborhood; and never more than a small multiple of the model.

    Parameters
    ----------
    buffer : bytes-like
        The complete upload.
    spec : ModelSpec
        The model it must be for.
    scheme : Scheme, optional
        The scheme it must have; any by default.

    Returns
    -------
    SparseUpdate
        Ids strictly increasing and in range, values finite. It may share ``buffer``'s memory.

    Raises
    ------
    WireError
        The buffer is not a valid update of this model. No other error is raised.
    """
    # The update shares this memory, so it must not change; bytes are not copied.
    payload = bytes(buffer)
    header = Header.read(payload, spec)
    if scheme not in (None, header.scheme):
        msg = f"the upload has the scheme {header.scheme}, not {scheme}"
        raise WireError(f"{msg}: use one scheme on the server and at every site")
    reader = ByteReader(payload, HEADER_BYTES)
    grids = [header.scheme.cut(layer.shape) for layer in spec.layers]
    codes = list(reader.take(len(grids), "the layer codes"))
    sparse = [i for i, code in enumerate(codes) if code != WHOLE_LAYER]
    sparse_grids, codes = [grids[i] for i in sparse], [codes[i] for i in sparse]
    counts = read_counts(codes, sparse_grids, reader)
    unary = reader.take(header.unary_bytes, "the unary stream")
    plain = reader.take(header.plain_bytes, "the plain stream")
    _check_claims(header, sparse_grids, counts, reader.remaining)
    streams = RiceReader(unary, plain)
    ids, bits = read_ids(codes, counts, sparse_grids, header.scheme.indices, reader, streams)
    coding = header.scheme.value_coding
    values: list[Float32] = []
    if isinstance(coding, JointCoding):
        sizes = [grid.num_members(kept) for grid, kept in zip(sparse_grids, ids, strict=True)]
        values, value_bits = coding.decode(sizes, reader, streams)
        for layer_values in values:
            check_decoded(layer_values, coding)
        bits += value_bits
    # Unread bits would be a second spelling of the same update.
    streams.finish()
    num_bytes = bytes_from_bits(bits)
    position = {layer: k for k, layer in enumerate(sparse)}
    layers = []
    for i, grid in enumerate(grids):
        k = position.get(i)
        if k is None:
            layers.append(_read_layer(reader, grid, None, header.scheme.dense_coding, 0))
        elif isinstance(coding, JointCoding):
            layers.append(LayerUpdate(grid, ids[k], values[k], num_bytes[k]))
        else:
            layers.append(_read_layer(reader, grid, ids[k], coding, num_bytes[k]))
    if reader.remaining:
        raise WireError(f"the upload has {reader.remaining} bytes after its last layer")
    return SparseUpdate(payload, header.stamp, header.scheme, spec, tuple(layers))


def _split_layers(
    scheme: Scheme,
    grids: Sequence[Neighborhoods],
    views: Sequence[Float32],
    kept: Sequence[Int64 | None],
) -> tuple[dict[int, KeptNeighborhoods], list[bytes]]:
    """Return the sparse layers by number, and each layer's bytes of the section of values."""
    coding = scheme.value_coding
    sparse: dict[int, KeptNeighborhoods] = {}
    bodies = []
    for i, (grid, view, ids) in enumerate(zip(grids, views, kept, strict=True)):
        if ids is None:
            bodies.append(encode_values(view, scheme.dense_coding))
            continue
        check_ids(ids, grid.count)
        values = grid.gather(view, ids)  # a copy, which a joint coding may overwrite
        sparse[i] = KeptNeighborhoods(grid, ids, values)
        bodies.append(b"" if isinstance(coding, JointCoding) else encode_values(values, coding))
    return sparse, bodies


def _check_claims(
    header: Header, grids: Sequence[Neighborhoods], counts: Sequence[int], remaining: int
) -> None:
    """Compare the claimed sizes of sparse layers with the bytes that arrived.

    Before memory is allocated for them, so a small buffer that claims a large update costs nothing.
    """
    coding = header.scheme.value_coding
    if isinstance(coding, JointCoding):
        if sum(counts) > 8 * header.plain_bytes:  # each neighborhood takes at least a plain bit
            msg = f"{sum(counts)} neighborhoods are claimed in {header.plain_bytes} plain bytes"
            raise WireError(msg)
        return
    least, id_bytes = 0, 4 if header.scheme.indices == "int32" else 0
    for grid, count in zip(grids, counts, strict=True):
        # A neighborhood may be as small as one value; only all together are known to be the layer.
        all_kept = count == grid.count
        least += 0 if all_kept else id_bytes * count
        least += coding.num_bytes(grid.size if all_kept else count)
    if least > remaining:
        msg = f"the claimed neighborhoods need {least} bytes and the upload has {remaining} left"
        raise WireError(msg)


def _read_layer(
    reader: ByteReader, grid: Neighborhoods, ids: Int64 | None, coding: LayerCoding, id_bytes: int
) -> LayerUpdate:
    """Read the values of a layer from the last section."""
    count = grid.num_members(ids)
    size = coding.num_bytes(count)
    values = decode_values(reader.take(size, "a layer"), count, coding)
    return LayerUpdate(grid, ids, values, id_bytes + size)
