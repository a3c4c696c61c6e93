"""Kept neighborhoods of a layer, before and after they are coded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from rsdgc.sparse import Part
from rsdgc.varint import varint

if TYPE_CHECKING:
    from rsdgc.arrays import Float32, Float64, Int64
    from rsdgc.neighborhoods import Neighborhoods


@dataclass(frozen=True, eq=False)
class Kept:
    """Kept neighborhoods of one layer.

    Parameters
    ----------
    hoods : Neighborhoods
        The layer's grid.
    ids : int64 [k]
        Which ones, strictly increasing.
    values : float32 [num_members(ids)]
        Their members.
    """

    hoods: Neighborhoods
    ids: Int64
    values: Float32


@dataclass(frozen=True, eq=False)
class Coded:
    """The sparse layers of an update, with their ids (and levels, if values are levels) coded.

    Parameters
    ----------
    kept : list of Kept
        What is sent of each layer; levels stand with the values that they decode to.
    codes : list of int
        How each layer's ids are coded (:mod:`rsdgc.indices`).
    unary, plain : bytes
        The streams (:mod:`rsdgc.rice`).
    layer_bits : float64 [num_layers]
        Bits of each layer in both streams.
    table : bytes
        Quantiser and groups (:mod:`rsdgc.quantized`), if values are levels.
    raw_ids : bytes
        Ids as plain integers, if they are not in the streams.
    """

    kept: list[Kept]
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
            varint(layer.ids.size) for layer in self.kept if layer.ids.size < layer.hoods.count
        )

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        pieces = (self.counts, self.unary, self.plain, self.table, self.raw_ids)
        return sum(len(piece) for piece in pieces)

    def parts(self) -> list[Part]:
        """Return each layer as a part of a decoded update."""
        return [
            Part(
                layer.hoods,
                all_ids(layer.hoods) if layer.ids.size == layer.hoods.count else layer.ids,
                layer.values,
                num_bytes,
            )
            for layer, num_bytes in zip(self.kept, whole_bytes(self.layer_bits), strict=True)
        ]


def all_ids(hoods: Neighborhoods) -> Int64 | None:
    """Return the ids of a part that keeps all neighborhoods.

    None if their members, in id order, are the layer as it lies in memory; tiles are not.
    """
    return None if hoods.height == 1 else np.arange(hoods.count, dtype=np.int64)


def whole_bytes(bits: Float64) -> list[int]:
    """Turn the bits of layers into bytes that add up to those of all, padding included."""
    ends = np.rint(np.cumsum(bits) / 8).astype(np.int64)
    return [int(size) for size in np.diff(ends, prepend=0)]
