"""Kept neighborhoods of a layer, before and after they are coded.

Ids of the kept neighborhoods of sparse layers: codes, counts, and the ids themselves.
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


@dataclass(frozen=True, eq=False)
class KeptNeighborhoods:
    """Kept neighborhoods of one layer.

    Parameters
    ----------
    grid : Neighborhoods
        The layer's grid.
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
    """The sparse layers of an update, with their ids (and levels, if values are levels) coded.

    Parameters
    ----------
    kept : list of Kept
        What is sent of each layer; levels stand with the values that they decode to.
    codes : list of int
        How each layer's ids are coded (:mod:`rsdgc.codec.indices`).
    unary, plain : bytes
        The streams (:mod:`rsdgc.codec.golomb_rice`).
    layer_bits : float64 [num_layers]
        Bits of each layer in both streams.
    table : bytes
        Quantiser and groups (:mod:`rsdgc.codec.dead_zone`), if values are levels.
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
        """Bytes of all of it."""
        pieces = (self.counts, self.unary, self.plain, self.table, self.raw_ids)
        return sum(len(piece) for piece in pieces)

    def layer_updates(self) -> list[LayerUpdate]:
        """Return each layer as a part of a decoded update."""
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
    """Return the ids of a part that keeps all neighborhoods.

    None if their members, in id order, are the layer as it lies in memory; tiles are not.
    """
    return None if grid.height == 1 else np.arange(grid.count, dtype=np.int64)


def bytes_from_bits(bits: Float64) -> list[int]:
    """Turn the bits of layers into bytes that add up to those of all, padding included."""
    ends = np.rint(np.cumsum(bits) / 8).astype(np.int64)
    return [int(size) for size in np.diff(ends, prepend=0)]


WHOLE_LAYER = 255
"""Code of a layer that is sent whole."""
ALL_KEPT = 254
"""Code of a sparse layer all of whose neighborhoods are kept; others have a Rice parameter."""


def check_ids(ids: Int64, count: int) -> None:
    """Refuse ids that do not increase strictly from 0 to ``count - 1``.

    Raises
    ------
    SettingError
        If they do not.
    """
    if ids.size and (ids[0] < 0 or ids[-1] >= count or (np.diff(ids) <= 0).any()):
        msg = f"ids must increase strictly within 0 to {count - 1}: sort and deduplicate them"
        raise SettingError(msg)


class CodedIds(NamedTuple):
    """Ids of all sparse layers, coded.

    Attributes
    ----------
    codes : list of int
        A byte a layer.
    bits : float64 [num_layers]
        That the ids take.
    raw : bytes
        The ids as plain integers, if they are not in the streams.
    """

    codes: list[int]
    bits: Float64
    raw: bytes = b""


def encode_ids(layers: Sequence[KeptNeighborhoods], indices: IndexKind) -> EncodedLayers:
    """Code the ids of all sparse layers, whose values are coded elsewhere."""
    writer = RiceWriter()
    codes, bits, raw = write_ids(layers, indices, writer)
    return EncodedLayers(list(layers), codes, *writer.finish(), bits, raw_ids=raw)


def write_ids(
    layers: Sequence[KeptNeighborhoods], indices: IndexKind, writer: RiceWriter
) -> CodedIds:
    """Code the ids of all layers, into the streams unless they are plain integers."""
    codes: list[int] = []
    if indices == "int32":
        codes += [ALL_KEPT if layer.ids.size == layer.grid.count else 0 for layer in layers]
        raw = [
            b"" if code == ALL_KEPT else layer.ids.astype("<u4").tobytes()
            for code, layer in zip(codes, layers, strict=True)
        ]
        return CodedIds(codes, np.array([8.0 * len(ids) for ids in raw]), b"".join(raw))
    marks = [writer.num_bits]
    for layer in layers:
        codes.append(_write(layer.ids, layer.grid.count, writer))
        marks.append(writer.num_bits)
    return CodedIds(codes, np.diff(np.array(marks, dtype=np.float64)))


def read_counts(
    codes: Sequence[int], layers: Sequence[Neighborhoods], reader: ByteReader
) -> list[int]:
    """Read how many neighborhoods of each sparse layer a peer claims to send.

    Raises
    ------
    WireError
        If there are no counts, or one is more than the layer has.
    """
    counts = []
    for code, grid in zip(codes, layers, strict=True):
        count = grid.count if code == ALL_KEPT else reader.read_varint()
        if (code != ALL_KEPT and (code > MAX_RICE or count >= grid.count)) or (code and not count):
            msg = f"{count} neighborhoods of {grid.count} are claimed in code {code}"
            raise WireError(f"{msg}: refuse the upload")
        counts.append(count)
    return counts


def read_ids(
    codes: Sequence[int],
    counts: Sequence[int],
    layers: Sequence[Neighborhoods],
    streams: RiceReader,
) -> tuple[list[Int64 | None], Float64]:
    """Take the ids of all sparse layers off the streams that a peer sent.

    Returns
    -------
    ids : list of (int64 [k] or None)
        What :func:`rsdgc.codec.indices.all_ids` returns where all neighborhoods are kept.
    bits : float64 [num_layers]
        That the ids took.

    Raises
    ------
    WireError
        If the streams do not hold them.
    """
    ids: list[Int64 | None] = []
    marks = [streams.num_bits]
    for code, count, grid in zip(codes, counts, layers, strict=True):
        ids.append(all_ids(grid) if code == ALL_KEPT else streams.read_ids(count, code, grid.count))
        marks.append(streams.num_bits)
    return ids, np.diff(np.array(marks, dtype=np.float64))


def read_raw_ids(
    codes: Sequence[int], counts: Sequence[int], layers: Sequence[Neighborhoods], reader: ByteReader
) -> tuple[list[Int64 | None], Float64]:
    """Take int32 ids off a buffer that a peer sent; otherwise as :func:`read_ids`."""
    if set(codes) - {0, ALL_KEPT}:
        msg = f"layers of plain ids have the codes {sorted(set(codes))}: refuse the upload"
        raise WireError(msg)
    ids: list[Int64 | None] = []
    for code, count, grid in zip(codes, counts, layers, strict=True):
        if code == ALL_KEPT:
            ids.append(all_ids(grid))
            continue
        raw = np.frombuffer(reader.take(4 * count, "the ids"), dtype="<u4").astype(np.int64)
        try:
            check_ids(raw, grid.count)
        except SettingError as error:
            raise WireError(str(error)) from None
        ids.append(raw)
    bits = [
        0.0 if code == ALL_KEPT else 32.0 * count for code, count in zip(codes, counts, strict=True)
    ]
    return ids, np.array(bits)


def _write(ids: Int64, count: int, writer: RiceWriter) -> int:
    if ids.size == count:
        return ALL_KEPT
    if not ids.size:
        return 0
    gaps = gaps_of(ids)
    rice = best_rice(gaps)
    writer.write_numbers(gaps, rice)
    return rice
