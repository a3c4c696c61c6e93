"""Golomb-Rice code of arrays, in two bit streams that all arrays of a buffer share.

A number ``g ≥ 0`` is split at bit ``rice``:

- The *unary stream* gets ``g >> rice`` zero bits and a one bit.
- The *plain stream* gets the ``rice`` low bits of all numbers of the array as bit planes, the
  highest plane first, one bit for each number in each plane. It also takes bits as they are.

Two streams instead of one make every step an operation on arrays: the ends of all numbers are the
one bits of the unary stream, and a plane of low bits is one slice of the plain stream.

Both are packed with the first bit highest, and padded with zero bits to full bytes at their ends.
Where an array ends follows from its count, so no lengths are stored. Strictly increasing ids are
coded by their gaps ``id - previous id - 1`` (the first previous is -1), so no bits can represent
repeated or decreasing ids.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsdgc.arrays import CHUNK, Bools, Float64, Int64, UInt32, chunks
from rsdgc.errors import SettingError, WireError

Numbers: TypeAlias = Int64 | UInt32

MAX_RICE = 31
SAMPLE_NUMBERS = 1 << 17
"""The choice of a Rice parameter samples arrays longer than this. Next to the best parameter the
cost is flat, so a sample this large costs no bits that one could measure."""
MAX_STREAM_BYTES = 1 << 28
"""Limit of the unary stream: positions of its bits must fit into 32 bits."""


def best_rice(numbers: Numbers) -> int:
    """Return the Rice parameter with the fewest bits for at least one number, all 0 or more.

    ``2^rice`` never exceeds the largest number (or rice is 0), which decoders rely on.
    """
    numbers = numbers[:: -(-numbers.size // SAMPLE_NUMBERS)]
    # The cost k(rice + 1) + Σ (g >> rice) is convex in rice, so walking downhill from a guess
    # ends at the optimum. For geometric numbers the guess, the mean's highest bit, is at most one
    # step away, so this tries three parameters instead of 32.
    rice = max(0, int(numbers.mean()).bit_length() - 1)
    guess, cost = rice, rice_cost(numbers, rice)
    while rice > 0 and (lower := rice_cost(numbers, rice - 1)) <= cost:
        rice, cost = rice - 1, lower  # of equal costs the lower: it keeps 2^rice within the range
    if rice < guess:
        return rice
    while rice < MAX_RICE and (higher := rice_cost(numbers, rice + 1)) < cost:
        rice, cost = rice + 1, higher
    return rice


def rice_cost(numbers: Numbers, rice: int) -> int:
    """Return the bits that these numbers take in both streams together."""
    quotients = sum(int((numbers[part] >> rice).sum()) for part in chunks(numbers.size))
    return numbers.size * (rice + 1) + quotients


def expected_id_bits(density: Float64) -> Float64:
    """Return the expected bits per id of the best code for the gaps of evenly random ids.

    For densities (shares of the ids that are kept, float64 [n]) above 0 and up to 1, at which a
    bit is enough. Such gaps are geometric, so the expected quotient by ``2^r`` is ``a / (1 - a)``
    with ``a = (1 - density)^(2^r)``.
    """
    # From 2^rice = 1 / density on, a quotient is below 1 and a larger parameter does not pay.
    sparsest = float(np.min(density, initial=1.0))
    rice = np.arange(min(MAX_RICE, math.ceil(-math.log2(sparsest))) + 1, dtype=np.float64)
    # Logarithms, because 1 - density loses the digits of a small density.
    with np.errstate(divide="ignore"):
        power = np.log1p(-np.asarray(density, dtype=np.float64))[..., None] * 2.0**rice
    quotient = np.exp(power) / -np.expm1(power)
    bits: Float64 = (rice + 1 + quotient).min(axis=-1)
    return bits


def gaps_of(ids: Int64) -> Int64:
    """Return ``id - previous id - 1`` of strictly increasing ids, int64 [k]."""
    gaps = ids.copy()
    gaps[1:] -= ids[:-1]
    gaps[1:] -= 1
    return gaps


def gaps_in(flags: Bools) -> UInt32:
    """Return the gaps of the ids of the ones among flags, uint32 [k]."""
    return _gaps((flags[part] for part in chunks(flags.size)), int(np.count_nonzero(flags)))


def ids_of(gaps: Int64) -> Int64:
    """Return the ids that have these gaps; the array is reused."""
    gaps += 1
    ids = np.cumsum(gaps, out=gaps)
    ids -= 1
    return ids


class RiceWriter:
    """Writes arrays to the two streams."""

    def __init__(self) -> None:
        self._unary, self._plain = _Packer(), _Packer()

    @property
    def num_bits(self) -> int:
        """Bits of both streams so far."""
        return self._unary.num_bits + self._plain.num_bits

    def write_numbers(self, numbers: Numbers, rice: int) -> None:
        """Append numbers, int64 or uint32 [k], all 0 or more, with a Rice parameter.

        Raises
        ------
        SettingError
            The unary stream becomes longer than readers accept.
        """
        for part in chunks(numbers.size):
            # Quotients are the gaps of the one bits that end the numbers.
            ends = ids_of((numbers[part] >> rice).astype(np.int64))
            num_unary = self._unary.num_bits + int(ends[-1]) + 1
            if num_unary > 8 * (MAX_STREAM_BYTES - 1):
                msg = f"the update needs a unary stream of {num_unary} bits: lower the budget"
                raise SettingError(msg)
            bits = np.zeros(int(ends[-1]) + 1, dtype=np.bool_)
            bits[ends] = True
            self._unary.append(bits)
        for bit in range(rice - 1, -1, -1):
            for part in chunks(numbers.size):
                self._plain.append((numbers[part] & (1 << bit)).astype(np.bool_))

    def write_bits(self, bits: Bools) -> None:
        """Append bits as they are, one for each element."""
        self._plain.append(bits)

    def finish(self) -> tuple[bytes, bytes]:
        """Return the unary and the plain stream."""
        return self._unary.finish(), self._plain.finish()


class _Packer:
    """Packs bits into bytes."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._waiting: list[Bools] = []
        self._num_packed = self.num_bits = 0

    def append(self, bits: Bools) -> None:
        # Bits wait until they fill a chunk: packing a few at a time costs more than it packs.
        for part in chunks(bits.size):
            self._waiting.append(bits[part])
            self.num_bits += self._waiting[-1].size
            if self.num_bits - self._num_packed >= CHUNK:
                self._pack()

    def finish(self) -> bytes:
        self._waiting.append(np.zeros(-self.num_bits % 8, dtype=np.bool_))
        self._pack()
        return bytes(self._bytes)

    def _pack(self) -> None:
        bits = np.concatenate(self._waiting)
        full = bits.size // 8 * 8
        self._bytes += np.packbits(bits[:full]).data
        self._waiting = [bits[full:]]
        self._num_packed += full


class RiceReader:
    """Reads arrays from two streams that a peer sent; the inverse of :class:`RiceWriter`.

    It allocates at most a small multiple of the bytes that arrived. Every method raises
    :class:`WireError` if the streams do not hold what is asked for. ``num_bits`` counts the bits
    of both streams that have been read.
    """

    def __init__(self, unary: memoryview, plain: memoryview) -> None:
        self._quotients = _quotients(np.frombuffer(unary, np.uint8))
        self._plain = np.frombuffer(plain, np.uint8)
        self._num_read = self._bits_read = 0
        self.num_bits = 0

    def read_numbers(self, count: int, rice: int) -> Int64:
        """Return the next ``count`` numbers, int64 [count], each below 2⁶²."""
        # Without numbers the parameter must be 0, so that an empty array has one spelling.
        if not 0 <= rice <= MAX_RICE or (count == 0 and rice):
            msg = f"Rice parameter {rice} does not suit {count} numbers"
            raise WireError(msg)
        start, self._num_read = self._num_read, self._num_read + count
        if self._num_read > self._quotients.size:
            msg = f"the unary stream holds {self._quotients.size} numbers and more are claimed"
            raise WireError(msg)
        quotients = self._quotients[start : self._num_read]
        first_bit, self._bits_read = self._bits_read, self._bits_read + rice * count
        self._check_plain()
        self.num_bits += (rice + 1) * count
        numbers = np.empty(count, dtype=np.int64)
        # In pieces that stay in a core's cache: each is read from all of its bit planes.
        for part in chunks(count):
            piece = numbers[part]
            piece[:] = quotients[part]
            self.num_bits += int(piece.sum())
            for plane in range(rice):
                piece <<= 1
                piece |= self._bits(first_bit + plane * count + part.start, piece.size)
        return numbers

    def read_bits(self, count: int) -> NDArray[np.uint8]:
        """Return the next ``count`` plain bits, uint8 [count] of 0 and 1."""
        start, self._bits_read = self._bits_read, self._bits_read + count
        self._check_plain()
        self.num_bits += count
        return self._bits(start, count)

    def read_ids(self, count: int, rice: int, limit: int) -> Int64:
        """Return ids, int64 [count], strictly increasing, from 0 to ``limit - 1``."""
        if not 0 <= count <= limit:
            raise WireError(f"{count} ids are claimed of {limit}")
        # No encoder writes a larger parameter (see best_rice), and a small one bounds the shift.
        if rice > 0 and 1 << rice > limit:
            msg = f"Rice parameter {rice} does not suit ids below {limit}"
            raise WireError(msg)
        ids, last = self.read_numbers(count, rice), -1
        for part in chunks(count):
            piece = ids[part]
            # The maximum comes first, because a sum of huge gaps could overflow and look valid.
            if int(piece.max()) < limit:
                ids_of(piece)
                piece += last + 1
                last = int(piece[-1])
            else:
                last = limit
            if last >= limit:
                raise WireError(f"the ids are not all below {limit}")
        return ids

    def _check_plain(self) -> None:
        """Raise :class:`WireError` if more plain bits have been claimed than there are."""
        if self._bits_read > 8 * self._plain.size:
            msg = f"the plain stream holds {8 * self._plain.size} bits and more are claimed"
            raise WireError(msg)

    def _bits(self, start: int, count: int) -> NDArray[np.uint8]:
        """Return some plain bits, uint8 [count] of 0 and 1."""
        bits = np.unpackbits(self._plain[start // 8 : (start + count + 7) // 8])
        return bits[start % 8 : start % 8 + count]

    def finish(self) -> None:
        """Check that both streams have been read to their ends and padding bits are zero."""
        unread = self._quotients.size - self._num_read
        if unread:
            msg = f"the unary stream holds {unread} numbers that nothing claims"
            raise WireError(msg)
        padding = 8 * self._plain.size - self._bits_read
        if padding >= 8 or self.read_bits(padding).any():
            msg = f"the plain stream ends in {padding} bits that nothing claims"
            raise WireError(msg)


def _quotients(unary: NDArray[np.uint8]) -> UInt32:
    """Return the zero bits before each one bit; the last one bit must be in the last byte."""
    if unary.size >= MAX_STREAM_BYTES:
        msg = f"a unary stream of {unary.size} bytes is beyond any model's"
        raise WireError(msg)
    if unary.size and not unary[-1]:
        msg = f"the unary stream of {unary.size} bytes ends in a zero byte"
        raise WireError(msg)
    # All at once, because finding where the k-th number starts would need the same pass.
    pieces = (np.unpackbits(unary[part]).view(np.bool_) for part in chunks(unary.size, CHUNK // 8))
    return _gaps(pieces, int(np.bitwise_count(unary).sum(dtype=np.int64)))


def _gaps(pieces: Iterable[Bools], count: int) -> UInt32:
    """Return the gaps of the ids of ``count`` ones among flags that come in pieces."""
    # Pieces stay in a core's cache; ids of all flags at once would take eight bytes each.
    gaps = np.empty(count, dtype=np.uint32)
    filled, last, start = 0, -1, 0
    for flags in pieces:
        ids = np.flatnonzero(flags)
        ids += start
        part = gaps[filled : filled + ids.size]
        if part.size:
            part[0] = ids[0] - last - 1
            np.subtract(ids[1:], ids[:-1], out=part[1:], casting="unsafe")
            part[1:] -= 1
            filled, last = filled + part.size, int(ids[-1])
        start += flags.size
    return gaps
