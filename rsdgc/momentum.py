"""Momentum correction: momentum that a site keeps from round to round, before error feedback.

For rounds of a single step, where momentum within a round means nothing (Lin et al., "Deep
Gradient Compression", ICLR 2018, section 3.2). With change ``c``, velocity ``u`` and momentum
``m``::

    u ← m · u + c        v = u + r        d = decode(compress(v))        r ← v - d

and **factor masking** (section 3.3): ``u`` is set to zero wherever something was sent, so that
stale momentum does not carry what was sent along once more. ``m = 0`` is plain error feedback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rsdgc.arrays import check_flat
from rsdgc.errors import SettingError

if TYPE_CHECKING:
    from rsdgc.arrays import Float32
    from rsdgc.sparse import SparseUpdate


def accumulate(velocity: Float32, change: Float32, momentum: float) -> None:
    """Do ``u ← m · u + c``, in place, and turn the change into the velocity that is to be sent.

    Parameters
    ----------
    velocity, change : float32 [n]
        Both hold the new velocity afterwards.
    momentum : float
        0 to below 1.

    Raises
    ------
    SettingError
        If the momentum is out of range or the vectors do not fit each other.
    """
    if not 0 <= momentum < 1:
        msg = f"momentum correction is {momentum}: choose 0 to below 1"
        raise SettingError(msg)
    check_flat(change, velocity.size, "the change")
    velocity *= np.float32(momentum)
    velocity += change
    np.copyto(change, velocity)


def mask(velocity: Float32, sent: SparseUpdate) -> None:
    """Set the velocity to zero, in place, wherever an update says something (factor masking)."""
    for view, part in zip(sent.spec.views(velocity), sent.parts, strict=True):
        part.clear(view)
