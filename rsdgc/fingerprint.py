"""A model's fingerprint: sixteen bytes by which two ends know that they hold the same bits."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from rsdgc.arrays import Float32

FINGERPRINT_BYTES = 16


def fingerprint(weights: Float32) -> bytes:
    """Return the fingerprint of a model.

    Parameters
    ----------
    weights : float32 [n]
        Contiguous; read once, without a copy on little-endian machines.

    Returns
    -------
    bytes
        The first 16 bytes of SHA-256 over the values as little-endian float32. A zero and a
        negative zero differ, as they do in memory.
    """
    content = np.ascontiguousarray(weights, dtype="<f4").data.cast("B")
    return hashlib.sha256(content).digest()[:FINGERPRINT_BYTES]
