"""An upload as pieces small enough for a thin link.

Flower 1.41 sends an array in chunks of 5 MiB, two side by side. It gives up a reply of which no
chunk has arrived for three minutes, and repeats a request that was not answered in 30 s, whose
second copy it then refuses: over a thin link a large upload, and its site's round, are lost. Two
pieces of an eighth of a mebibyte take 21 s at 0.1 Mbit/s.
"""

from __future__ import annotations

import numpy as np
from flwr.app import Array, ArrayRecord

from rsdgc import protocol
from rsdgc.errors import WireError

PIECE_BYTES = 128 * 1024
MAX_PIECES = 8192
"""As many as 1 GiB has; more is refused before anything is joined."""


def in_pieces(payload: bytes) -> ArrayRecord:
    """Return an encoded upload as the arrays of a reply.

    Parameters
    ----------
    payload : bytes
        The upload.

    Returns
    -------
    ArrayRecord
        One array named ``packed``, where one piece holds it; else ``packed-0000`` and so on.
    """
    content = np.frombuffer(payload, dtype=np.uint8)
    if content.size <= PIECE_BYTES:
        return ArrayRecord({protocol.PACKED: Array(content)})
    starts = range(0, content.size, PIECE_BYTES)
    pieces = (Array(content[start : start + PIECE_BYTES]) for start in starts)
    return ArrayRecord(dict(zip(_names(len(starts)), pieces, strict=True)))


def joined(record: ArrayRecord) -> bytes:
    """Return what :func:`in_pieces` was given.

    Raises
    ------
    WireError
        The arrays are not pieces of an upload.
    """
    names = [protocol.PACKED] if len(record) == 1 else _names(min(len(record), MAX_PIECES))
    if not names or set(record) != set(names):
        msg = f"the arrays are {', '.join(list(record)[:3]) or 'none'}, not one packed upload"
        raise WireError(msg)
    return b"".join(_content(record[name]) for name in names)


def _content(array: Array) -> bytes:
    try:
        values = array.numpy()
    except (ValueError, TypeError, OSError, EOFError) as error:
        msg = f"an array cannot be read ({error})"
        raise WireError(msg) from None
    if values.dtype != np.uint8 or values.ndim != 1:
        msg = f"an array is {values.dtype}{list(values.shape)}, not bytes"
        raise WireError(msg)
    return values.tobytes()


def _names(count: int) -> list[str]:
    return [f"{protocol.PACKED}-{number:04}" for number in range(count)]
