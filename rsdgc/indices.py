"""Golomb-Rice code of strictly increasing ids, in whole-array operations.

The gaps ``g = id - previous id - 1`` (``previous`` starts at -1) are split at bit ``rice``:

- *unary stream*: for each id ``g >> rice`` zero bits and a one bit;
- *remainder stream*: the ``rice`` low bits of all gaps as bit planes, the highest plane first,
  each plane one bit an id.

Both are packed with the first bit highest and padded with zero bits to whole bytes. Gaps cannot
be negative, so no byte string can stand for repeated or decreasing ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rsdgc.errors import SettingError, WireError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from rsdgc.arrays import Int64

    Bytes = NDArray[np.uint8]

MAX_RICE = 31


class CodedIds(NamedTuple):
    """The code of one layer's ids: the Rice parameter and the two streams."""

    rice: int
    unary: bytes
    remainder: bytes


def remainder_bytes(kept: int, rice: int) -> int:
    """Return the length of the remainder stream of ``kept`` ids."""
    return (kept * rice + 7) // 8


def best_rice(gaps: Int64) -> int:
    """Return the Rice parameter with the fewest bits for these gaps.

    The cost ``k(rice + 1) + Σ (g >> rice)`` is convex in ``rice``, so walking downhill from
    a guess ends at the optimum. The guess is at most the mean gap, and a parameter above the
    largest gap never costs less than the next lower one: so ``2^rice`` stays within the gaps.

    Parameters
    ----------
    gaps : int64 [k]
        At least one, all 0 or more.
    """

    def cost(rice: int) -> int:
        return gaps.size * (rice + 1) + int((gaps >> rice).sum())

    rice = max(0, int(gaps.mean()).bit_length() - 1)
    while rice > 0 and cost(rice - 1) <= cost(rice):  # ties go down: 2^rice stays below the range
        rice -= 1
    while rice < MAX_RICE and cost(rice + 1) < cost(rice):
        rice += 1
    return rice


def encode_ids(ids: Int64, count: int) -> CodedIds:
    """Code ids with the Rice parameter that suits them best.

    Parameters
    ----------
    ids : int64 [k]
        Strictly increasing, from 0 to ``count - 1``; may be empty.
    count : int
        Neighborhoods of the layer.

    Raises
    ------
    SettingError
        If the ids are not strictly increasing or not in range.
    """
    if ids.size == 0:
        return CodedIds(0, b"", b"")
    gaps = np.diff(ids, prepend=-1) - 1
    if gaps.min() < 0 or ids[-1] >= count:
        msg = f"ids must increase strictly within 0 to {count - 1}: sort and deduplicate them"
        raise SettingError(msg)
    rice = best_rice(gaps)
    ends = np.cumsum((gaps >> rice) + 1) - 1
    bits = np.zeros(int(ends[-1]) + 1, dtype=np.uint8)
    bits[ends] = 1
    planes = np.empty((rice, ids.size), dtype=np.uint8)
    for row in range(rice):
        planes[row] = (gaps >> (rice - 1 - row)) & 1
    return CodedIds(rice, np.packbits(bits).tobytes(), np.packbits(planes).tobytes())


def decode_ids(unary: Bytes, remainder: Bytes, rice: int, kept: int, count: int) -> Int64:
    """Decode ids that a peer sent; the inverse of :func:`encode_ids`.

    What is allocated is bounded by the bytes that arrived and by ``count``, not by claims.

    Parameters
    ----------
    unary, remainder : uint8 [...]
        The two streams, each exactly its own bytes.
    rice : int
        Rice parameter.
    kept : int
        Number of ids.
    count : int
        Neighborhoods of the layer, at most 2³¹.

    Returns
    -------
    int64 [kept]
        Strictly increasing, from 0 to ``count - 1``.

    Raises
    ------
    WireError
        If the streams are not exactly the code of such ids.
    """
    zeros = _check_claims(unary, remainder, rice, kept, count)
    if kept == 0:
        return np.empty(0, dtype=np.int64)
    ends = np.flatnonzero(np.unpackbits(unary))
    gaps = np.diff(ends, prepend=-1) - 1
    gaps <<= rice
    planes = np.unpackbits(remainder)
    if planes[kept * rice :].any():
        msg = "the remainder stream ends in padding bits that are not zero: refuse the upload"
        raise WireError(msg)
    for row, plane in enumerate(planes[: kept * rice].reshape(rice, kept)):
        gaps |= plane.astype(np.int64) << (rice - 1 - row)
    gaps += 1
    ids = np.cumsum(gaps, out=gaps)
    ids -= 1
    if ids[-1] >= count:
        msg = f"id {ids[-1]} is out of range 0 to {count - 1} ({zeros} zeros): refuse the upload"
        raise WireError(msg)
    return ids.astype(np.int64, copy=False)


def _check_claims(unary: Bytes, remainder: Bytes, rice: int, kept: int, count: int) -> int:
    """Check all that can be checked before memory is taken; return the zeros before the ones."""
    if not 0 <= kept <= count:
        msg = f"{kept} neighborhoods are claimed of {count}: refuse the upload"
        raise WireError(msg)
    if not 0 <= rice <= MAX_RICE or (1 << rice) > max(count, 1) or (kept == 0 and rice):
        msg = f"Rice parameter {rice} does not suit {kept} ids of {count}: refuse the upload"
        raise WireError(msg)
    if remainder.size != remainder_bytes(kept, rice):
        msg = f"the remainder stream has {remainder.size} bytes for {kept} ids: refuse the upload"
        raise WireError(msg)
    used = _used_bits(unary)
    zeros = used - kept
    if unary.size != (used + 7) // 8 or not 0 <= zeros << rice <= count - kept:
        msg = f"the unary stream of {unary.size} bytes does not hold {kept} ids: refuse the upload"
        raise WireError(msg)
    ones = int(np.bitwise_count(unary).sum(dtype=np.int64))
    if ones != kept:
        msg = f"the unary stream holds {ones} ids, the table says {kept}: refuse the upload"
        raise WireError(msg)
    return zeros


def _used_bits(unary: Bytes) -> int:
    """Return the number of bits up to the last one bit, 0 if the last byte is zero."""
    last = int(unary[-1]) if unary.size else 0
    return 8 * int(unary.size) - ((last & -last).bit_length() - 1) if last else 0
