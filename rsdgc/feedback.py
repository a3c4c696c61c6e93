"""Error feedback: what a compressor leaves out is carried into the next round.

With change ``c``, residual ``r`` and decoded upload ``d`` (paper: nothing is lost)::

    v = c + r        d = decode(compress(v))        r ← v - d

so rounding of coded values is fed back as well as what was not sent at all. If the upload was
not accepted, ``r ← r + d`` (:meth:`ErrorFeedback.roll_back`), as if nothing had been sent.

Momentum correction: momentum that a site keeps from round to round, before error feedback.

For rounds of a single step, where momentum within a round means nothing (Lin et al., "Deep
Gradient Compression", ICLR 2018, section 3.2). With change ``c``, velocity ``u`` and momentum
``m``::

    u ← m · u + c        v = u + r        d = decode(compress(v))        r ← v - d

and **factor masking** (section 3.3): ``u`` is set to zero wherever something was sent, so that
stale momentum does not carry what was sent along once more. ``m = 0`` is plain error feedback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from rsdgc.arrays import check_flat
from rsdgc.codec.wire import decode
from rsdgc.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rsdgc.arrays import Float32, Float64
    from rsdgc.spec import ModelSpec
    from rsdgc.update import SparseUpdate, Stamp


class UpdateCompressor(Protocol):
    """What error feedback wraps: anything that turns an update into wire bytes."""

    @property
    def spec(self) -> ModelSpec:
        """The model."""
        ...

    def compress(
        self,
        update: Float32,
        ratios: Float64 | Sequence[float],
        stamp: Stamp,
        budget_bytes: float = 0.0,
    ) -> SparseUpdate:
        """Encode an update; see :meth:`rsdgc.compressor.Compressor.compress`."""
        ...


def compress_with_feedback(
    compressor: UpdateCompressor,
    total: Float32,
    ratios: Float64 | Sequence[float],
    stamp: Stamp,
    budget_bytes: float = 0.0,
) -> SparseUpdate:
    """Encode the best of change plus residual, and leave in it what the bytes do not say.

    Parameters
    ----------
    compressor : UpdateCompressor
        Usually a :class:`rsdgc.compressor.Compressor`.
    total : float32 [spec.size]
        Change plus residual; the new residual afterwards. If an error is raised, it is as it was.
    ratios, stamp, budget_bytes
        See :meth:`rsdgc.compressor.Compressor.compress`, also for the errors.

    Returns
    -------
    SparseUpdate
        The upload, decoded; its ``payload`` is what to send.
    """
    sent = compressor.compress(total, ratios, stamp, budget_bytes)
    sent.add_to(total, -1.0)
    return sent


class ErrorFeedback:
    """A compressor with memory.

    Parameters
    ----------
    compressor : UpdateCompressor
        Usually a :class:`rsdgc.compressor.Compressor`.
    residual : float32 [spec.size], optional
        What earlier rounds left out; it now belongs to this object. Zero by default.

    Raises
    ------
    SettingError
        If the residual does not fit the model.
    """

    def __init__(self, compressor: UpdateCompressor, residual: Float32 | None = None) -> None:
        self._compressor = compressor
        size = compressor.spec.size
        if residual is None:
            self._residual: Float32 = np.zeros(size, dtype=np.float32)
        else:
            check_flat(residual, size, "the residual")
            self._residual = residual

    @property
    def residual(self) -> Float32:
        """What was left out so far, float32 [spec.size].

        Do not write to it, and copy it to keep it: a roll-back changes it.
        """
        return self._residual

    def compress(
        self,
        change: Float32,
        ratios: Float64 | Sequence[float],
        stamp: Stamp,
        budget_bytes: float = 0.0,
    ) -> bytes:
        """Encode a change plus the residual, and keep what the bytes do not say.

        Parameters
        ----------
        change : float32 [spec.size]
            This round's local change; it is used up, for it becomes the new residual.
        ratios : float [num_layers]
            See :meth:`rsdgc.compressor.Compressor.compress`.
        stamp : Stamp
            Run, round and base version.
        budget_bytes : float
            See :meth:`rsdgc.compressor.Compressor.compress`.

        Returns
        -------
        bytes
            The upload. If an error is raised, the residual is as it was.

        Raises
        ------
        SettingError
            If the change or the ratios do not fit the model.
        RsdgcError
            If change plus residual holds NaN or infinity.
        """
        check_flat(change, self._compressor.spec.size, "the change")
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.add(change, self._residual, out=change)  # a fresh array costs four adds
        sent = compress_with_feedback(self._compressor, total, ratios, stamp, budget_bytes)
        self._residual = total
        return sent.payload

    def roll_back(self, payload: bytes) -> None:
        """Take back an upload that was not accepted: add it to the residual again.

        Raises
        ------
        WireError
            If the payload is not an update of this model; the residual is as it was.
        """
        decode(payload, self._compressor.spec).add_to(self._residual)


def correct_momentum(velocity: Float32, change: Float32, momentum: float) -> None:
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


def mask_velocity(velocity: Float32, sent: SparseUpdate) -> None:
    """Set the velocity to zero, in place, wherever an update says something (factor masking)."""
    for view, part in zip(sent.spec.views(velocity), sent.layers, strict=True):
        part.clear(view)
