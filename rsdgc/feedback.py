"""Error feedback: what an upload leaves out is added to the next round's change.

With change ``c``, residual ``r`` and decoded upload ``d``, nothing is lost (as in the paper)::

    v = c + r        d = decode(compress(v))        r ← v - d

So the rounding of coded values is fed back as well as what was not sent at all. If the upload was
not accepted, ``r ← r + d``, as if nothing had been sent.

**Step-ahead** (after SA-PEF, arXiv 2601.20738). A site knows a correction that the model lacks: its
own residual. Starting from the model as received, it would compute that correction again, and what
is sent late would be sent twice. So it starts from the model plus a part of its residual, at most
``k`` times as long as its last change, and the change is what training adds to that::

    α = min(1, k · ‖last c‖ / ‖r‖)        c = trained - (w + α · r)        v = c + r

The sum is as before, so nothing is lost. Without the bound it fails where the residual is many
times the change. It costs no bytes.

**Momentum correction** is for rounds of a single step, where momentum inside a round means nothing
(Lin et al., "Deep Gradient Compression", ICLR 2018, section 3.2). A site keeps a velocity ``u``
with momentum ``m`` over the rounds and sends that instead of the change::

    u ← m · u + c        v = u + r        d = decode(compress(v))        r ← v - d

With **factor masking** (section 3.3), ``u`` is set to zero wherever something was sent; otherwise
old momentum would send it a second time. ``m = 0`` is plain error feedback.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rsdgc.arrays import Float32, Float64, check_flat, l2_norm
from rsdgc.channel_transform import (
    ChannelTransform,
    replace_transformed_part,
    transformed_part,
)
from rsdgc.codec.wire import decode
from rsdgc.compressor import Compressor
from rsdgc.errors import SettingError
from rsdgc.update import SparseUpdate, Stamp


def compress_with_feedback(
    compressor: Compressor,
    total: Float32,
    ratios: Float64 | Sequence[float],
    stamp: Stamp,
    budget_bytes: float = 0.0,
    transform: ChannelTransform | None = None,
) -> SparseUpdate:
    """Encode change plus residual, and turn it into the new residual in place.

    In place, so that a caller can pass a memory-mapped file and no second array is needed. The
    other arguments, the result and the errors are those of :meth:`rsdgc.Compressor.compress`.

    Parameters
    ----------
    total : float32 [spec.size]
        Change plus residual; the new residual afterwards. If an error is raised, it is unchanged.
    transform : ChannelTransform, optional
        That of the compressor's scheme, if it has one.
    """
    if transform is None:
        sent = compressor.compress(total, ratios, stamp, budget_bytes)
        sent.add_to(total, -1.0)
        return sent
    # Not by transforming the rest back: over many rounds its rounding would add up.
    kept = transformed_part(compressor.spec, total)
    transform.forward(total)
    try:
        sent = compressor.compress(total, ratios, stamp, budget_bytes)
    finally:
        replace_transformed_part(compressor.spec, total, kept)
    transform.add_to(sent, total, -1.0)
    return sent


class ErrorFeedback:
    """A compressor that remembers what it left out.

    Parameters
    ----------
    compressor : Compressor
        What encodes.
    residual : float32 [spec.size], optional
        What earlier rounds left out; this object takes it over. Zero by default.

    Raises
    ------
    SettingError
        The compressor's scheme has a transform, or the residual has another size.
    """

    def __init__(self, compressor: Compressor, residual: Float32 | None = None) -> None:
        if compressor.scheme.transform != "none":
            raise SettingError(
                f"ErrorFeedback does not apply transform={compressor.scheme.transform!r}: use a "
                "scheme with transform='none', or compress_with_feedback"
            )
        self._compressor = compressor
        if residual is None:
            residual = np.zeros(compressor.spec.size, dtype=np.float32)
        check_flat(residual, compressor.spec.size, "the residual")
        self._residual: Float32 = residual

    @property
    def residual(self) -> Float32:
        """What has been left out so far, float32 [spec.size].

        Do not write to it. Copy it to keep it, because :meth:`roll_back` changes it.
        """
        return self._residual

    def compress(
        self,
        change: Float32,
        ratios: Float64 | Sequence[float],
        stamp: Stamp,
        budget_bytes: float = 0.0,
    ) -> bytes:
        """Encode a change plus the residual, and keep what the upload leaves out.

        The other arguments and the errors are those of :meth:`rsdgc.Compressor.compress`. If an
        error is raised, the residual is unchanged.

        Parameters
        ----------
        change : float32 [spec.size]
            This round's local change. Its memory becomes the new residual.

        Returns
        -------
        bytes
            The upload.
        """
        check_flat(change, self._compressor.spec.size, "the change")
        # Overflow is reported by the compressor, which names the layer.
        with np.errstate(over="ignore", invalid="ignore"):
            # Into the change's memory: a new array of that size takes longer than the sum.
            total = np.add(change, self._residual, out=change)
        sent = compress_with_feedback(self._compressor, total, ratios, stamp, budget_bytes)
        self._residual = total
        return sent.payload

    def roll_back(self, payload: bytes) -> None:
        """Add an upload that was not accepted to the residual again.

        Raises
        ------
        WireError
            The payload is not an update of this model; the residual is unchanged.
        """
        decode(payload, self._compressor.spec).add_to(self._residual)


def step_ahead_share(residual: Float32, last_change: float, bound: float) -> float:
    """Return the part α of a residual that local training starts ahead by, 0 to 1.

    Parameters
    ----------
    residual : float32 [n]
        What has not been sent, or was not accepted.
    last_change : float
        Norm of the site's last local change; 0 if there is none.
    bound : float
        Longest shift, in lengths of the last change.
    """
    norm = l2_norm(residual) if bound and last_change else 0.0
    return min(1.0, bound * last_change / norm) if norm else 0.0


def correct_momentum(velocity: Float32, change: Float32, momentum: float) -> None:
    """Compute ``u ← m · u + c`` in place, and copy the velocity over the change.

    Parameters
    ----------
    velocity, change : float32 [n]
        Both hold the new velocity afterwards.
    momentum : float
        0 to below 1.
    """
    if not 0 <= momentum < 1:
        raise SettingError(f"momentum correction is {momentum}: choose 0 to below 1")
    check_flat(change, velocity.size, "the change")
    velocity *= np.float32(momentum)
    velocity += change
    np.copyto(change, velocity)


def mask_velocity(velocity: Float32, sent: SparseUpdate) -> None:
    """Set the velocity to zero in place wherever an update sends something (factor masking)."""
    for view, layer in zip(sent.spec.views(velocity), sent.layers, strict=True):
        layer.clear(view)
