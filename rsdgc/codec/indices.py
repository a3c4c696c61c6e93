"""Which neighborhoods of the sparse layers are sent: codes, counts, and ids.

Each sparse layer has a code, a byte: :data:`ALL_KEPT`, or the Rice parameter of its ids. Where some
are left out a count follows, and the ids are in the streams of :mod:`rsdgc.codec.golomb_rice` or,
as ``int32``, behind them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from rsdgc.arrays import Float32, Float64, Int64
from rsdgc.codec.byte_stream import ByteReader, encode_varint
from rsdgc.codec.golomb_rice import MAX_RICE, RiceReader, RiceWriter, best_rice, gaps_of
from rsdgc.errors import SettingError, WireError
from rsdgc.neighborhoods import Neighborhoods

IndexKind: TypeAlias = Literal["rice", "int32"]
# The numbers on the wire: never change one, never use one twice.
INDEX_CODES: dict[IndexKind, int] = {"rice": 0, "int32": 1}

WHOLE_LAYER = 255
"""Code of a layer that is sent whole."""
ALL_KEPT = 254
"""Code of a sparse layer all of whose neighborhoods are kept; others have a Rice parameter."""
RAW_ID_BITS = 32


@dataclass(frozen=True, eq=False)
class KeptNeighborhoods:
    """Kept neighborhoods of one layer."""

    grid: Neighborhoods  #: all neighborhoods of the layer
    ids: Int64  #: int64 [k]: which ones, strictly increasing
    values: Float32  #: float32 [num_members(ids)]: their members

    @property
    def is_complete(self) -> bool:
        """Whether all neighborhoods are kept."""
        return self.ids.size == self.grid.count


@dataclass(frozen=True, eq=False)
class EncodedLayers:
    """The sparse layers of an update with their ids encoded, and their values if coded jointly."""

    #: what is sent of each layer. Jointly coded values are those that a decoder finds.
    kept: list[KeptNeighborhoods]
    codes: list[int]  #: code of each layer
    counts: bytes  #: the number of ids of each layer that does not keep all its neighborhoods
    #: unary, plain: the streams (:mod:`rsdgc.codec.golomb_rice`)
    unary: bytes
    plain: bytes
    #: float64 [num_layers]: bits of each layer in both streams and among the plain integers
    layer_bits: Float64
    table: bytes = b""  #: the joint coding's own bytes
    raw_ids: bytes = b""  #: ids as plain integers, if they are not in the streams

    @property
    def size(self) -> int:
        """Bytes of counts, streams, table and plain ids together."""
        return sum(map(len, (self.counts, self.unary, self.plain, self.table, self.raw_ids)))


class EncodedIds(NamedTuple):
    """Ids of all sparse layers; the fields are those of :class:`EncodedLayers`."""

    codes: list[int]
    counts: bytes
    layer_bits: Float64
    raw_ids: bytes


def all_ids(grid: Neighborhoods) -> Int64 | None:
    """Return the ids of a layer that keeps all neighborhoods.

    None if the members in id order are the layer as it is in memory: that saves the ids and the
    gathering. Tiles are not.
    """
    return None if grid.height == 1 else np.arange(grid.count, dtype=np.int64)


def bytes_from_bits(bits: Float64) -> list[int]:
    """Return the bytes of layers, rounded so that they add up to the bytes of all bits."""
    # Rounding the running total instead of each layer keeps the sum right.
    ends = np.rint(np.cumsum(bits) / 8).astype(np.int64)
    return [int(size) for size in np.diff(ends, prepend=0)]


def check_ids(ids: Int64, count: int) -> None:
    """Raise :class:`SettingError` unless the ids increase strictly from 0 to ``count - 1``."""
    if ids.size and (ids[0] < 0 or ids[-1] >= count or (np.diff(ids) <= 0).any()):
        msg = f"ids must increase strictly within 0 to {count - 1}: sort and deduplicate them"
        raise SettingError(msg)


def encode_ids(layers: Sequence[KeptNeighborhoods], indices: IndexKind) -> EncodedLayers:
    """Encode the ids of all sparse layers, whose values are coded layer by layer."""
    writer = RiceWriter()
    codes, counts, bits, raw = write_ids(layers, indices, writer)
    return EncodedLayers(list(layers), codes, counts, *writer.finish(), bits, raw_ids=raw)


def write_ids(
    layers: Iterable[KeptNeighborhoods], indices: IndexKind, writer: RiceWriter
) -> EncodedIds:
    """Encode the ids of all sparse layers, into the streams unless they are plain integers."""
    codes: list[int] = []
    counts = bytearray()
    bits: list[float] = []
    raw = bytearray()  # full bytes, so they get a section of their own behind the streams
    for layer in layers:
        code, before = 0, writer.num_bits + 8 * len(raw)
        if layer.is_complete:
            code = ALL_KEPT
        elif indices == "int32":
            raw += layer.ids.astype("<u4").tobytes()
        elif layer.ids.size:
            gaps = gaps_of(layer.ids)
            code = best_rice(gaps)
            writer.write_numbers(gaps, code)
        codes.append(code)
        counts += b"" if layer.is_complete else encode_varint(layer.ids.size)
        bits.append(writer.num_bits + 8 * len(raw) - before)
    return EncodedIds(codes, bytes(counts), np.array(bits, dtype=np.float64), bytes(raw))


def read_counts(
    codes: Sequence[int], grids: Sequence[Neighborhoods], reader: ByteReader
) -> list[int]:
    """Read how many neighborhoods of each sparse layer a peer claims to send.

    Raises
    ------
    WireError
        A count is missing, or it does not fit the layer and its code.
    """
    counts = []
    for code, grid in zip(codes, grids, strict=True):
        count = grid.count if code == ALL_KEPT else reader.read_varint()
        # Each state has one spelling: all kept is code 254, nothing kept is code 0.
        if (code != ALL_KEPT and (code > MAX_RICE or count >= grid.count)) or (code and not count):
            msg = f"{count} neighborhoods of {grid.count} are claimed with code {code}"
            raise WireError(msg)
        counts.append(count)
    return counts


def read_ids(
    codes: Sequence[int],
    counts: Sequence[int],
    grids: Sequence[Neighborhoods],
    indices: IndexKind,
    reader: ByteReader,
    streams: RiceReader,
) -> tuple[list[Int64 | None], Float64]:
    """Read the ids of all sparse layers that a peer sent, and the bits that each layer's took.

    The ids of a layer are int64 [k], or those of :func:`all_ids`. They come from the streams, or
    from the reader if they are plain integers.

    Raises
    ------
    WireError
        They are not there, or not what :func:`write_ids` writes.
    """
    ids: list[Int64 | None] = []
    bits: list[float] = []
    for code, count, grid in zip(codes, counts, grids, strict=True):
        before = streams.num_bits + 8 * reader.position
        if code == ALL_KEPT:
            ids.append(all_ids(grid))
        elif indices == "rice":
            ids.append(streams.read_ids(count, code, grid.count))
        elif code:
            raise WireError(f"a layer with int32 ids has the code {code}")
        else:
            raw = np.frombuffer(reader.take(4 * count, "the ids"), dtype="<u4").astype(np.int64)
            ids.append(raw)
            try:  # gaps cannot spell ids that repeat or decrease, but plain integers can
                check_ids(raw, grid.count)
            except SettingError as error:
                raise WireError(str(error)) from None
        bits.append(streams.num_bits + 8 * reader.position - before)
    return ids, np.array(bits, dtype=np.float64)
