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
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rsdgc.arrays import CHUNK, chunks, extract

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from rsdgc.arrays import Bools, Float32, Int64
    from rsdgc.scheme import Scheme


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
    """The grid of neighborhoods over one layer; :func:`cut` makes it.

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
        """Return the number of members of the given neighborhoods (default: of all).

        Parameters
        ----------
        ids : int64 [k], optional
            Neighborhoods, each below :attr:`count`.

        Returns
        -------
        int64 [k] or [count]
            Members of each; fewer at a ragged edge.
        """
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

        Parameters
        ----------
        ids : int64 [k]
            Neighborhoods, each below :attr:`count`.

        Returns
        -------
        int64 [sizes(ids).sum()]
            Indices into the flat layer, neighborhood by neighborhood and row by row within one.
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
        """Copy the members of the given neighborhoods out of a flat layer, in id order."""
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
            Distinct neighborhoods, each below :attr:`count`.
        values : float32 [num_members(ids)]
            As :meth:`gather` orders them.
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
                items[ids[part]] = self._as_items(sums)
            return
        for part, index in self._element_chunks(ids):
            target[index] += values[part] if weight == 1.0 else values[part] * factor

    def clear_at(self, target: Float32, ids: Int64) -> None:
        """Set the members of the given neighborhoods of a flat layer to zero, in place."""
        for _, index in self._element_chunks(ids):
            target[index] = 0.0

    def peaks(self, values: Float32, ids: Int64) -> Float32:
        """Return the largest magnitude in each of the given neighborhoods, float32 [k].

        Parameters
        ----------
        values : float32 [num_members(ids)]
            As :meth:`gather` orders them.
        ids : int64 [k]
            The neighborhoods.
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
        """Yield the members of some of the given neighborhoods, in id order.

        Parameters
        ----------
        values : float32 [num_members(ids)]
            As :meth:`gather` orders them.
        ids : int64 [k]
            The neighborhoods.
        chosen : bool [k]
            Which of the given ones to yield.

        Yields
        ------
        float32 [n]
            Members, in pieces that fit into a core's cache. Once a piece is yielded, ``values``
            may be overwritten up to the end of that piece.
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
        for down, height in _spans(self.rows, self.height):
            for across, width in _spans(self.cols, self.width):
                step_across = max(1, min(len(across), chunk // (height * width)))
                step_down = max(1, chunk // (len(across) * height * width))
                for i in chunks(len(down), step_down):
                    for j in chunks(len(across), step_across):
                        yield self._block(matrix, down[i], across[j], height, width)

    def _block(self, matrix: Float32, down: range, across: range, height: int, width: int) -> Block:
        top, left = down.start * self.height, across.start * self.width
        part = matrix[top : top + len(down) * height, left : left + len(across) * width]
        members = part.reshape(len(down), height, len(across), width).transpose(0, 2, 1, 3)
        return Block(slice(down.start, down.stop), slice(across.start, across.stop), members)

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


def _spans(size: int, step: int) -> Iterator[tuple[range, int]]:
    """Yield (the full neighborhoods, their extent), then (the ragged one, its extent)."""
    full, remainder = divmod(size, step)
    if full:
        yield range(full), step
    if remainder:
        yield range(full, full + 1), remainder


def cut(shape: Sequence[int], scheme: Scheme) -> Neighborhoods:
    """Cut a layer of the given shape into neighborhoods (paper: gradient neighborhoods).

    Parameters
    ----------
    shape : sequence of int
        The layer's shape, output channels first; ``()`` is a single number.
    scheme : Scheme
        Which kind of neighborhood, and how large.

    Returns
    -------
    Neighborhoods
        The grid over the layer.
    """
    rows = shape[0] if len(shape) > 1 else 1
    cols = math.prod(shape) // rows
    run = _run_length(cols, scheme.tile_px**2)
    if scheme.neighborhood == "element":
        return Neighborhoods(rows, cols, 1, 1)
    if scheme.neighborhood == "tile" and len(shape) > 1:
        return Neighborhoods(rows, cols, scheme.tile_px, scheme.tile_px)
    kernel_px = math.prod(shape[2:]) if len(shape) > 2 else 1
    if scheme.neighborhood == "kernel" and kernel_px > 1:
        return Neighborhoods(rows, cols, 1, kernel_px)
    return Neighborhoods(rows, cols, 1, run)


def _run_length(cols: int, target: int) -> int:
    """Return the divisor of ``cols`` nearest to ``target``, if one is within a third of it."""
    near = range(math.ceil(target * 2 / 3), target * 4 // 3 + 1)
    divisors = [length for length in near if cols % length == 0]
    return min(divisors, key=lambda length: abs(length - target), default=target)
