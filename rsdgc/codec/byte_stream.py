"""Counts in as few bytes as they need: seven bits a byte, the lowest first (LEB128).

Takes fields off the front of a buffer that a peer sent, and never more than there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rsdgc.errors import WireError

if TYPE_CHECKING:
    from collections.abc import Callable


MAX_VARINT_BYTES = 5


def encode_varint(number: int) -> bytes:
    """Return the code of a number from 0 to 2³⁵ - 1."""
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)


def decode_varint(next_byte: Callable[[], int]) -> int:
    """Return the number whose code a peer sent, taken byte by byte.

    Raises
    ------
    WireError
        If it is longer than :data:`MAX_VARINT_BYTES` or than the number needs.
    """
    number = 0
    for place in range(MAX_VARINT_BYTES):
        byte = next_byte()
        number |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            if place and not byte:
                break
            return number
    msg = "a count is written in more bytes than it needs: refuse the upload"
    raise WireError(msg)


class ByteReader:
    """A position in a buffer.

    Parameters
    ----------
    payload : bytes
        The buffer.
    position : int
        Where to start.
    """

    def __init__(self, payload: bytes, position: int = 0) -> None:
        self._view = memoryview(payload)
        self.position = position

    @property
    def remaining(self) -> int:
        """Bytes that have not been taken."""
        return len(self._view) - self.position

    def take(self, size: int, what: str) -> memoryview:
        """Return the next bytes.

        Raises
        ------
        WireError
            If there are fewer.
        """
        if size > self.remaining:
            msg = f"{what} needs {size} bytes and the upload has {self.remaining} left: refuse it"
            raise WireError(msg)
        start = self.position
        self.position += size
        return self._view[start : self.position]

    def read_byte(self) -> int:
        """Return the next byte; :class:`WireError` if there is none."""
        return self.take(1, "a byte of the table")[0]

    def read_varint(self) -> int:
        """Return the next count (varint); :class:`WireError` if it is not one."""
        return decode_varint(self.read_byte)
