"""Counts in as few bytes as they need: seven bits a byte, the lowest first (LEB128)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsdgc.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_BYTES = 5


def varint(number: int) -> bytes:
    """Return the code of a number from 0 to 2³⁵ - 1."""
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def read_varint(next_byte: Callable[[], int]) -> int:
    """Return the number whose code a peer sent, taken byte by byte.

    Raises
    ------
    WireError
        If it is longer than :data:`MAX_BYTES` or than the number needs.
    """
    number = 0
    for place in range(MAX_BYTES):
        byte = next_byte()
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            if place and not byte:
                break
            return number
    msg = "a count is written in more bytes than it needs: refuse the upload"
    raise WireError(msg)
