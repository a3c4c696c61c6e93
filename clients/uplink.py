"""From a trained model to its upload, in place in the file that will hold the new residual.

Error feedback with momentum correction (Lin et al., 2018, Algorithm 1): change, velocity, residual
of the rounds before, compression, new residual. :mod:`rsdgc.feedback` has the arithmetic. This
module takes its inputs from the site's state, without another array of the model's size.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from clients.model_parts import ModelParts
from clients.replica import Replica
from clients.state import StateTransaction
from clients.task import RoundTask
from rsdgc.arrays import Bools, Float32
from rsdgc.codec.wire import decode
from rsdgc.compressor import Compressor
from rsdgc.feedback import compress_with_feedback, correct_momentum, mask_velocity
from rsdgc.indicators import make_indicator
from rsdgc.ratios import share_of_layers
from rsdgc.update import Stamp

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Upload:
    """An encoded update, and the files of the new residual and velocity with their memory.

    Without momentum correction there is no velocity, and its name is empty.
    """

    payload: bytes
    residual_name: str
    residual: Float32
    velocity_name: str = ""
    velocity: Float32 | None = None


def make_upload(
    model: ModelParts,
    replica: Replica,
    task: RoundTask,
    stamp: Stamp,
    transaction: StateTransaction,
    seed: int,
    present: Bools | None = None,
) -> Upload:
    """Compress what the model has learned since the replica, plus the residual.

    The model was trained from the replica, as the task says. ``stamp`` goes into the upload's
    header, and ``seed`` is that of random scores. Nothing is committed.

    Of layers that are not ``present``, bool [num_layers], the site sends and keeps nothing, and
    does not spend the bytes of their ratios on the others.

    Raises
    ------
    SettingError
        The task's ratios, scheme or indicator do not fit.
    RsdgcError
        The change plus the residual holds NaN or infinity.
    StateError
        The disk is full.
    """
    spec = transaction.folder.spec
    # One array of the model's size is in turn the trained model, the change (or velocity), what
    # to send, and the new residual.
    residual_name, vector = transaction.new_vector("residual")
    model.vector(out=vector)
    vector -= replica.weights
    velocity_name, velocity = "", None
    if task.momentum_correction:
        velocity_name, velocity = transaction.new_vector("velocity")
        previous = transaction.folder.velocity(transaction.state)
        np.copyto(velocity, 0.0 if previous is None else previous)
        correct_momentum(velocity, vector, task.momentum_correction)
    add_residual(vector, transaction, task.accepted_round)
    ratios, budget_bytes = task.ratios, task.budget_bytes
    if present is not None and not present.all():
        budget_bytes *= share_of_layers(spec, task.scheme, ratios, present)
        ratios = np.where(present, ratios, 0.0)
        # Something is there only if the site had the modality in an earlier round.
        for held in (vector,) if velocity is None else (vector, velocity):
            for view, is_present in zip(spec.views(held), present, strict=True):
                if not is_present:
                    view.fill(0.0)
    indicator = make_indicator(
        task.indicator, mean_weight=task.mean_weight, std_weight=task.std_weight, seed=seed
    )
    compressor = Compressor(spec, task.scheme, indicator)
    update = compress_with_feedback(compressor, vector, ratios, stamp, budget_bytes)
    # What was sent must not add to the momentum of rounds in which the model has moved on.
    if velocity is not None:
        mask_velocity(velocity, update)
    return Upload(update.payload, residual_name, vector, velocity_name, velocity)


def add_residual(target: Float32, transaction: StateTransaction, accepted_round: int) -> None:
    """Add what earlier uploads held back, in place; also the last upload if it was not accepted.

    ``target`` is this round's change or velocity, and then what the upload should say.
    ``accepted_round`` is the last round whose upload the server accepted; 0 for none.
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
