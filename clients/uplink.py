"""From a trained model to an upload: change plus residual, settled, compressed, the rest kept.

What :class:`rsdgc.feedback.ErrorFeedback` does in memory runs here in the file that will hold the
residual, without another array of the model's size.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from rsdgc.codec.wire import decode
from rsdgc.compressor import Compressor
from rsdgc.feedback import compress_with_feedback, correct_momentum
from rsdgc.indicators import make_indicator

if TYPE_CHECKING:
    from clients.state import SiteState, StateFolder
    from clients.task import RoundTask
    from rsdgc.arrays import Float32
    from rsdgc.spec import ModelSpec
    from rsdgc.update import SparseUpdate, Stamp

_log = logging.getLogger(__name__)


def add_residual(
    target: Float32, folder: StateFolder, state: SiteState, accepted_round: int, spec: ModelSpec
) -> None:
    """Add what a site still owes to its change, in place.

    Parameters
    ----------
    target : float32 [spec.size]
        This round's change; the residual is added, and the last upload if it was not accepted.
    folder : StateFolder
        Where both are kept.
    state : SiteState
        The present state.
    accepted_round : int
        The last round whose upload the server accepted from this site; 0 for none.
    spec : ModelSpec
        The model.
    """
    if state.round < accepted_round:
        _log.warning(
            "%s has lost its state of round %d: what its uploads held back is lost",
            folder.path,
            accepted_round,
        )
        return
    if not state.residual:
        return
    residual = folder.residual(state)
    if residual is not None:
        target += residual
    if state.round != accepted_round:
        upload = folder.upload(state)
        if upload is not None:
            _log.info("the upload of round %d was not accepted: taken back", state.round)
            decode(upload, spec).add_to(target)


def apply_momentum_correction(
    change: Float32, folder: StateFolder, state: SiteState, momentum: float, serial: int
) -> tuple[str, Float32 | None]:
    """Turn a change into the velocity that is to be sent, in place (momentum correction).

    Parameters
    ----------
    change : float32 [spec.size]
        This round's change; the velocity afterwards.
    folder : StateFolder
        Where the last velocity is kept, and this one will be.
    state : SiteState
        The present state.
    momentum : float
        0: nothing is done.
    serial : int
        A number that no file has.

    Returns
    -------
    name : str
        Of the velocity's file; empty without momentum.
    velocity : float32 [spec.size] or None
        Its memory, to be masked once the upload is made.
    """
    if not momentum:
        return "", None
    name, velocity = folder.new_vector("velocity", serial)
    last = folder.velocity(state)
    if last is None:
        velocity[:] = 0.0
    else:
        np.copyto(velocity, last)
    correct_momentum(velocity, change, momentum)
    return name, velocity


def compress_upload(
    target: Float32, task: RoundTask, stamp: Stamp, spec: ModelSpec, seed: int
) -> SparseUpdate:
    """Encode the best of ``target``, and leave in it what the bytes do not say.

    Parameters
    ----------
    target : float32 [spec.size]
        Change plus residual; the new residual afterwards.
    task : RoundTask
        Says how to compress.
    stamp : Stamp
        Of the upload.
    spec : ModelSpec
        The model.
    seed : int
        Of random scores.

    Returns
    -------
    SparseUpdate
        The upload, decoded; its ``payload`` is what to send.

    Raises
    ------
    SettingError
        The task's ratios, scheme or indicator do not fit.
    RsdgcError
        ``target`` holds NaN or infinity; it is as it was.
    """
    indicator = make_indicator(
        task.indicator, mean_weight=task.mean_weight, std_weight=task.std_weight, seed=seed
    )
    compressor = Compressor(spec, task.scheme, indicator)
    return compress_with_feedback(compressor, target, task.ratios, stamp, task.budget_bytes)
