"""Takes fields off the front of a buffer that a peer sent, and never more than there are."""

from __future__ import annotations

from rsdgc.errors import WireError
from rsdgc.varint import read_varint


class Reader:
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

    def byte(self) -> int:
        """Return the next byte; :class:`WireError` if there is none."""
        return self.take(1, "a byte of the table")[0]

    def count(self) -> int:
        """Return the next count (varint); :class:`WireError` if it is not one."""
        return read_varint(self.byte)
