"""Bytes of a buffer: varints, and a reader that never reads past the end.

A varint (LEB128) is a count in as few bytes as it needs: seven bits in each, the lowest first; the
highest bit of a byte says that another one follows.
"""

from __future__ import annotations

from rsdgc.errors import WireError

MAX_VARINT_BYTES = 5
"""Enough for every count of neighborhoods, which is below 2³¹."""


def encode_varint(number: int) -> bytes:
    """Return the code of a number from 0 to 2³⁵ - 1."""
    code = bytearray()
    while number >= 0x80:
        code.append(number & 0x7F | 0x80)
        number >>= 7
    code.append(number)
    return bytes(code)


class ByteReader:
    """Reads fields from a buffer that a peer sent, from a position on.

    Every method raises :class:`WireError` if the buffer does not hold what is asked for.
    """

    def __init__(self, payload: bytes, position: int = 0) -> None:
        self._view = memoryview(payload)
        self.position = position

    @property
    def remaining(self) -> int:
        """Number of bytes that have not been read."""
        return len(self._view) - self.position

    def take(self, size: int, what: str) -> memoryview:
        """Return the next bytes; ``what`` they are is for the error message."""
        if size > self.remaining:
            msg = f"{what} needs {size} bytes and the upload has {self.remaining} left"
            raise WireError(msg)
        start = self.position
        self.position += size
        return self._view[start : self.position]

    def read_byte(self) -> int:
        """Return the next byte."""
        return self.take(1, "a byte of the table")[0]

    def read_varint(self) -> int:
        """Return the number of the next varint, which must not be longer than it needs."""
        number = 0
        for place in range(MAX_VARINT_BYTES):
            byte = self.read_byte()
            number |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                if place and not byte:  # a leading zero: one number must have one code only
                    break
                return number
        raise WireError("a count is written in more bytes than it needs")
