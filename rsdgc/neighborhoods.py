"""Neighborhoods: the groups of elements of a layer that are kept or held back together.

The layer is read as a matrix of ``rows × cols`` (its first dimension by all others; one row if it
has fewer than two dimensions) and cut into a grid of rectangles of ``height × width``, numbered
row by row. The kind of neighborhood decides their size:

========== ================================ ======== ==========
kind       layer                            height   width
========== ================================ ======== ==========
kernel     convolution, kernel over 1 px    1        kernel px
kernel     anything else                    1        about tile_px²
tile       two or more dimensions           tile_px  tile_px
tile       fewer                            1        about tile_px²
element    any                              1        1
========== ================================ ======== ==========

Rectangles at the right and lower edges may be ragged: smaller, never padded. "About ``tile_px²``"
is the divisor of the row's length nearest to it, if one is within a third of it, so that the usual
row lengths (512 and 4096, in runs of 8) have no ragged edge; otherwise it is ``tile_px²``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsdgc.arrays import CHUNK, Bools, Float32, Int64, chunks, extract

NeighborhoodKind: TypeAlias = Literal["kernel", "tile", "element"]
# The numbers on the wire: never change one, never use one twice.
NEIGHBORHOOD_CODES: dict[NeighborhoodKind, int] = {"kernel": 0, "tile": 1, "element": 2}
MAX_TILE_PX = 64


class Block(NamedTuple):
    """Neighborhoods of one shape, side by side, as a view of the layer.

    ``members`` has shape ``(down, across, height, width)``; ``down`` and ``across`` say which
    neighborhoods of the grid these are.
    """

    down: slice
    across: slice
    members: Float32


@dataclass(frozen=True)
class Neighborhoods:
    """The grid of neighborhoods over one layer; :meth:`rsdgc.Scheme.cut` makes it.

    Parameters
    ----------
    rows, cols : int
        The layer as a matrix.
    height, width : int
        Rows and columns of one neighborhood.
    """

    rows: int
    cols: int
    height: int
    width: int

    @property
    def grid_shape(self) -> tuple[int, int]:
        """Neighborhoods down and across."""
        return -(-self.rows // self.height), -(-self.cols // self.width)

    @property
    def count(self) -> int:
        """Number of neighborhoods."""
        down, across = self.grid_shape
        return down * across

    @property
    def size(self) -> int:
        """Number of elements of the layer."""
        return self.rows * self.cols

    @property
    def is_ragged(self) -> bool:
        """Whether some neighborhoods are smaller than the others."""
        return bool(self.rows % self.height or self.cols % self.width)

    def sizes(self, ids: Int64 | None = None) -> Int64:
        """Return the number of members of each given neighborhood (default: of all), int64 [k]."""
        ids = np.arange(self.count, dtype=np.int64) if ids is None else ids
        top, left = self._corners(ids)
        return np.minimum(self.height, self.rows - top) * np.minimum(self.width, self.cols - left)

    @property
    def is_flat(self) -> bool:
        """Whether all neighborhoods have the same size and each is contiguous in memory."""
        return self.height == 1 and self.cols % self.width == 0

    def num_members(self, ids: Int64 | None) -> int:
        """Return the number of elements in the given neighborhoods together; None means all."""
        if ids is None:
            return self.size
        if not self.is_ragged:
            return int(ids.size) * self.height * self.width
        return sum(int(self.sizes(ids[part]).sum()) for part in chunks(ids.size))

    def elements(self, ids: Int64) -> Int64:
        """Return the flat indices of the members of the given neighborhoods.

        int64 [num_members(ids)], neighborhood by neighborhood and row by row within one.
        """
        top, left = self._corners(ids)
        row = top[:, None, None] + np.arange(self.height)[:, None]
        col = left[:, None, None] + np.arange(self.width)
        index = row * self.cols + col
        if not self.is_ragged:
            return index.reshape(-1)
        inside: Int64 = index[(row < self.rows) & (col < self.cols)]
        return inside

    def gather(self, values: Float32, ids: Int64) -> Float32:
        """Copy the members of the given neighborhoods out of a flat layer, in id order.

        Returns float32 [num_members(ids)]; all other methods take members in this order.
        """
        if self.is_flat:
            return self._as_items(values).take(ids).view(np.float32)
        out = np.empty(self.num_members(ids), dtype=np.float32)
        # With mode="clip" take writes to out directly; by default it would fill a copy first.
        for part, index in self._element_chunks(ids):
            np.take(values, index, out=out[part], mode="clip")
        return out

    def add_at(self, target: Float32, ids: Int64, values: Float32, weight: float = 1.0) -> None:
        """Add ``weight × values`` to the members of distinct neighborhoods of a flat layer.

        Parameters
        ----------
        target : float32 [size]
            Changed in place.
        ids : int64 [k]
            Distinct neighborhoods.
        values : float32 [num_members(ids)]
            As :meth:`gather` returns them.
        weight : float
            Rounded to float32 before it is used.
        """
        # Ids are distinct, so reading, adding and writing back in one go loses no sum. A weight of
        # 1 is the common case, for patches, and needs no temporary product.
        factor = np.float32(weight)
        if self.is_flat:
            items = self._as_items(target)
            for part in chunks(ids.size, max(1, CHUNK // self.width)):
                change = values[part.start * self.width : part.stop * self.width]
                sums = items.take(ids[part]).view(np.float32)
                sums += change if weight == 1.0 else change * factor
                # Faster than an assignment by index; the ids are in range.
                np.put(items, ids[part], self._as_items(sums), mode="clip")
            return
        for part, index in self._element_chunks(ids):
            target[index] += values[part] if weight == 1.0 else values[part] * factor

    def clear_at(self, target: Float32, ids: Int64) -> None:
        """Set the members of the given neighborhoods of a flat layer to zero, in place."""
        for _, index in self._element_chunks(ids):
            target[index] = 0.0

    def peaks(self, values: Float32, ids: Int64) -> Float32:
        """Return the largest magnitude in each of the given neighborhoods, float32 [k].

        ``values`` are their members, as :meth:`gather` returns them.
        """
        if not ids.size:
            return np.empty(0, dtype=np.float32)
        if self.is_ragged:
            ends = np.cumsum(self.sizes(ids))
            ragged: Float32 = np.maximum.reduceat(np.abs(values), np.r_[0, ends[:-1]])
            return ragged
        members = values.reshape(ids.size, -1)
        peaks = np.empty(ids.size, dtype=np.float32)
        for part in chunks(ids.size, max(1, CHUNK // members.shape[1])):
            magnitudes = np.abs(members[part])
            peaks[part] = magnitudes[:, 0]
            # Column by column, because a reduction along short rows starts anew for each of them.
            for column in range(1, magnitudes.shape[1]):
                np.maximum(peaks[part], magnitudes[:, column], out=peaks[part])
        return peaks

    def select(self, values: Float32, ids: Int64, chosen: Bools) -> Iterator[Float32]:
        """Yield the members of the chosen ones (bool [k]) of the given neighborhoods.

        ``values`` are the members of all of them, as :meth:`gather` returns them. The pieces fit
        into a core's cache. Once a piece is yielded, ``values`` may be overwritten up to its end.
        """
        if chosen.all():
            yield from (values[part] for part in chunks(values.size))
        elif self.is_ragged:
            flags = np.repeat(chosen, self.sizes(ids))
            for part in chunks(flags.size):
                yield extract(values[part], flags[part])
        else:
            members = self._as_items(values)
            for part in chunks(chosen.size, max(1, CHUNK // (self.height * self.width))):
                yield extract(members[part], chosen[part]).view(np.float32)

    def blocks(self, values: Float32, chunk: int = CHUNK) -> Iterator[Block]:
        """Yield the neighborhoods of a flat layer in views of at most about ``chunk`` elements.

        Every neighborhood is in exactly one block. A neighborhood larger than ``chunk`` is a
        block of its own.
        """
        # A block needs neighborhoods of one shape, and there are up to four: the full ones, those
        # at the right edge, at the lower edge, and in the corner.
        matrix = values.reshape(self.rows, self.cols)
        for i, down, height in _spans(self.rows, self.height):
            for j, across, width in _spans(self.cols, self.width):
                top, left = i * self.height, j * self.width
                part = matrix[top : top + down * height, left : left + across * width]
                members = part.reshape(down, height, across, width).transpose(0, 2, 1, 3)
                for m in chunks(down, max(1, chunk // (across * height * width))):
                    for n in chunks(across, max(1, chunk // (height * width))):
                        where = slice(i + m.start, i + m.stop), slice(j + n.start, j + n.stop)
                        yield Block(*where, members[m, n])

    def _as_items(self, values: Float32) -> NDArray[np.void]:
        """Return a view with one item for each neighborhood.

        NumPy copies such an item at once, in a quarter of the time of a row of floats.
        """
        return values.view(np.dtype((np.void, values.itemsize * self.height * self.width)))

    def _corners(self, ids: Int64) -> tuple[Int64, Int64]:
        down, across = np.divmod(ids, self.grid_shape[1])
        return down * self.height, across * self.width

    def _element_chunks(self, ids: Int64) -> Iterator[tuple[slice, Int64]]:
        # In chunks, because the index takes eight bytes for each element of four.
        start = 0
        for part in chunks(ids.size, max(1, CHUNK // (self.height * self.width))):
            index = self.elements(ids[part])
            yield slice(start, start + index.size), index
            start += index.size


def _spans(size: int, step: int) -> Iterator[tuple[int, int, int]]:
    """Yield first, number and extent of the full neighborhoods, then those of the ragged one."""
    full, remainder = divmod(size, step)
    if full:
        yield 0, full, step
    if remainder:
        yield full, 1, remainder


def cut(shape: Sequence[int], kind: NeighborhoodKind, tile_px: int) -> Neighborhoods:
    """Cut a layer of the given shape into neighborhoods, as the table above says."""
    rows = shape[0] if len(shape) > 1 else 1
    cols = math.prod(shape) // rows
    if kind == "element":
        return Neighborhoods(rows, cols, 1, 1)
    if kind == "tile" and len(shape) > 1:
        return Neighborhoods(rows, cols, tile_px, tile_px)
    kernel_px = math.prod(shape[2:])
    if kind == "kernel" and kernel_px > 1:
        return Neighborhoods(rows, cols, 1, kernel_px)
    # A run: the divisor of the row's length nearest to tile_px², if one is within a third of it.
    target = tile_px**2
    near = range(math.ceil(target * 2 / 3), target * 4 // 3 + 1)
    divisors = [length for length in near if cols % length == 0]
    run = min(divisors, key=lambda length: abs(length - target), default=target)
    return Neighborhoods(rows, cols, 1, run)
