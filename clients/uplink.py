"""From a site's change to its upload, in place in the file that will hold the new residual.

Algorithm 1 of DGC (Lin et al., 2018) with error feedback: momentum correction, the residual of the
rounds before, compression, the new residual. :mod:`rsdgc.feedback` has the arithmetic; this module
takes its inputs from the site's state, without another array of the model's size.
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
    from clients.state import StateTransaction
    from clients.task import RoundTask
    from rsdgc.arrays import Float32
    from rsdgc.spec import ModelSpec
    from rsdgc.update import SparseUpdate, Stamp

_log = logging.getLogger(__name__)


def apply_momentum_correction(
    change: Float32, transaction: StateTransaction, momentum: float
) -> tuple[str, Float32 | None]:
    """Turn a change into the velocity that is to be sent, in place (momentum correction).

    Parameters
    ----------
    change : float32 [size]
        This round's change; the velocity afterwards.
    transaction : StateTransaction
        Holds the last velocity, and makes the file of the new one.
    momentum : float
        0: nothing is done.

    Returns
    -------
    name : str
        Name of the velocity's file; empty without momentum.
    velocity : float32 [size] or None
        The new velocity, to be masked once the upload is known.
    """
    if not momentum:
        return "", None
    name, velocity = transaction.new_vector("velocity")
    previous = transaction.folder.velocity(transaction.state)
    np.copyto(velocity, 0.0 if previous is None else previous)
    correct_momentum(velocity, change, momentum)
    return name, velocity


def add_residual(target: Float32, transaction: StateTransaction, accepted_round: int) -> None:
    """Add what earlier uploads held back, in place; also the last upload if it was not accepted.

    Parameters
    ----------
    target : float32 [size]
        This round's change or velocity; afterwards what the upload should say.
    transaction : StateTransaction
        Holds the residual and the last upload.
    accepted_round : int
        The last round whose upload the server accepted from this site; 0 for none.
    """
    state, folder = transaction.state, transaction.folder
    if state.round < accepted_round:
        # The residual of an older state holds changes that later, accepted uploads have sent.
        _log.warning(
            "%s has lost its state of round %d: what its uploads held back is lost",
            folder.path,
            accepted_round,
        )
        return
    residual = folder.residual(state)
    if residual is not None:
        target += residual
    if state.round != accepted_round:
        upload = folder.upload(state)
        if upload is not None:
            _log.info("the upload of round %d was not accepted: adding it again", state.round)
            decode(upload, folder.spec).add_to(target)


def compress_upload(
    target: Float32, task: RoundTask, stamp: Stamp, spec: ModelSpec, seed: int
) -> SparseUpdate:
    """Encode the best part of ``target``, and leave in it what the upload does not say.

    Parameters
    ----------
    target : float32 [size]
        Change plus residual; the new residual afterwards.
    task : RoundTask
        Says how to compress.
    stamp : Stamp
        Run, round and base version, for the upload's header.
    spec : ModelSpec
        Layers of the model.
    seed : int
        Seed of random scores.

    Returns
    -------
    SparseUpdate
        The decoded upload; its ``payload`` is what to send.

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
