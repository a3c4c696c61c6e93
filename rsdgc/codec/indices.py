"""Which neighborhoods of the sparse layers are sent: codes, counts, and ids.

Each sparse layer has a code, a byte: :data:`ALL_KEPT`, or the Rice parameter of its ids. Where some
are left out a count follows, and the ids are in the streams of :mod:`rsdgc.codec.golomb_rice` or,
as ``int32``, behind them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rsdgc.codec.byte_stream import encode_varint
from rsdgc.codec.golomb_rice import MAX_RICE, RiceWriter, best_rice, gaps_of
from rsdgc.errors import SettingError, WireError
from rsdgc.update import LayerUpdate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsdgc.arrays import Float32, Float64, Int64
    from rsdgc.codec.byte_stream import ByteReader
    from rsdgc.codec.golomb_rice import RiceReader
    from rsdgc.neighborhoods import Neighborhoods
    from rsdgc.scheme import IndexKind


WHOLE_LAYER = 255
"""Code of a layer that is sent whole."""
ALL_KEPT = 254
"""Code of a sparse layer all of whose neighborhoods are kept; others have a Rice parameter."""
RAW_ID_BITS = 32


@dataclass(frozen=True, eq=False)
class KeptNeighborhoods:
    """Kept neighborhoods of one layer.

    Parameters
    ----------
    grid : Neighborhoods
        All neighborhoods of the layer.
    ids : int64 [k]
        Which ones, strictly increasing.
    values : float32 [num_members(ids)]
        Their members.
    """

    grid: Neighborhoods
    ids: Int64
    values: Float32


@dataclass(frozen=True, eq=False)
class EncodedLayers:
    """The sparse layers of an update with their ids encoded, and their values if coded jointly.

    Parameters
    ----------
    kept : list of KeptNeighborhoods
        What is sent of each layer. Jointly coded values are those that a decoder finds.
    codes : list of int
        Code of each layer.
    unary, plain : bytes
        The streams (:mod:`rsdgc.codec.golomb_rice`).
    layer_bits : float64 [num_layers]
        Bits of each layer in both streams and among the plain integers.
    table : bytes
        The joint coding's own bytes.
    raw_ids : bytes
        Ids as plain integers, if they are not in the streams.
    """

    kept: list[KeptNeighborhoods]
    codes: list[int]
    unary: bytes
    plain: bytes
    layer_bits: Float64
    table: bytes = b""
    raw_ids: bytes = b""

    @cached_property
    def counts(self) -> bytes:
        """The number of ids of each layer that does not keep all its neighborhoods."""
        return b"".join(
            encode_varint(layer.ids.size)
            for layer in self.kept
            if layer.ids.size < layer.grid.count
        )

    @property
    def size(self) -> int:
        """Bytes of counts, streams, table and plain ids together."""
        sections = (self.counts, self.unary, self.plain, self.table, self.raw_ids)
        return sum(len(section) for section in sections)

    def layer_updates(self) -> list[LayerUpdate]:
        """Return each layer as a decoder finds it."""
        return [
            LayerUpdate(
                layer.grid,
                all_ids(layer.grid) if layer.ids.size == layer.grid.count else layer.ids,
                layer.values,
                num_bytes,
            )
            for layer, num_bytes in zip(self.kept, bytes_from_bits(self.layer_bits), strict=True)
        ]


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


class EncodedIds(NamedTuple):
    """Ids of all sparse layers; the fields are those of :class:`EncodedLayers`."""

    codes: list[int]
    bits: Float64
    raw: bytes = b""


def encode_ids(layers: Sequence[KeptNeighborhoods], indices: IndexKind) -> EncodedLayers:
    """Encode the ids of all sparse layers, whose values are coded layer by layer."""
    writer = RiceWriter()
    codes, bits, raw = write_ids(layers, indices, writer)
    return EncodedLayers(list(layers), codes, *writer.finish(), bits, raw_ids=raw)


def write_ids(
    layers: Sequence[KeptNeighborhoods], indices: IndexKind, writer: RiceWriter
) -> EncodedIds:
    """Encode the ids of all sparse layers, into the streams unless they are plain integers."""
    codes: list[int] = []
    if indices == "int32":
        # Plain integers are full bytes, so they get a section of their own behind the streams.
        codes = [ALL_KEPT if layer.ids.size == layer.grid.count else 0 for layer in layers]
        raw = [
            b"" if code == ALL_KEPT else layer.ids.astype("<u4").tobytes()
            for code, layer in zip(codes, layers, strict=True)
        ]
        return EncodedIds(codes, np.array([8.0 * len(ids) for ids in raw]), b"".join(raw))
    positions = [writer.num_bits]
    for layer in layers:
        codes.append(_write_gaps(layer.ids, layer.grid.count, writer))
        positions.append(writer.num_bits)
    return EncodedIds(codes, np.diff(np.array(positions, dtype=np.float64)))


def read_counts(
    codes: Sequence[int], layers: Sequence[Neighborhoods], reader: ByteReader
) -> list[int]:
    """Read how many neighborhoods of each sparse layer a peer claims to send.

    Raises
    ------
    WireError
        A count is missing, or it does not fit the layer and its code.
    """
    counts = []
    for code, grid in zip(codes, layers, strict=True):
        count = grid.count if code == ALL_KEPT else reader.read_varint()
        # Each state has one spelling: all kept is code 254, nothing kept is code 0.
        if (code != ALL_KEPT and (code > MAX_RICE or count >= grid.count)) or (code and not count):
            msg = f"{count} neighborhoods of {grid.count} are claimed with code {code}"
            raise WireError(f"{msg}: refuse the upload")
        counts.append(count)
    return counts


def read_ids(
    codes: Sequence[int],
    counts: Sequence[int],
    layers: Sequence[Neighborhoods],
    streams: RiceReader,
) -> tuple[list[Int64 | None], Float64]:
    """Read the ids of all sparse layers from streams that a peer sent.

    Returns
    -------
    ids : list of (int64 [k] or None)
        Those of :func:`all_ids` where all neighborhoods are kept.
    bits : float64 [num_layers]
        Bits that each layer's ids took.

    Raises
    ------
    WireError
        The streams do not hold them.
    """
    ids: list[Int64 | None] = []
    positions = [streams.num_bits]
    for code, count, grid in zip(codes, counts, layers, strict=True):
        ids.append(all_ids(grid) if code == ALL_KEPT else streams.read_ids(count, code, grid.count))
        positions.append(streams.num_bits)
    return ids, np.diff(np.array(positions, dtype=np.float64))


def read_raw_ids(
    codes: Sequence[int], counts: Sequence[int], layers: Sequence[Neighborhoods], reader: ByteReader
) -> tuple[list[Int64 | None], Float64]:
    """Read int32 ids from a buffer that a peer sent; otherwise as :func:`read_ids`."""
    if set(codes) - {0, ALL_KEPT}:
        msg = f"layers with int32 ids have the codes {sorted(set(codes))}: refuse the upload"
        raise WireError(msg)
    ids: list[Int64 | None] = []
    for code, count, grid in zip(codes, counts, layers, strict=True):
        if code == ALL_KEPT:
            ids.append(all_ids(grid))
            continue
        raw = np.frombuffer(reader.take(4 * count, "the ids"), dtype="<u4").astype(np.int64)
        # Gaps cannot spell ids that repeat or decrease; plain integers can.
        try:
            check_ids(raw, grid.count)
        except SettingError as error:
            raise WireError(str(error)) from None
        ids.append(raw)
    bits = [
        0 if code == ALL_KEPT else RAW_ID_BITS * count
        for code, count in zip(codes, counts, strict=True)
    ]
    return ids, np.array(bits, dtype=np.float64)


def _write_gaps(ids: Int64, count: int, writer: RiceWriter) -> int:
    if ids.size == count:
        return ALL_KEPT
    if not ids.size:
        return 0
    gaps = gaps_of(ids)
    rice = best_rice(gaps)
    writer.write_numbers(gaps, rice)
    return rice
