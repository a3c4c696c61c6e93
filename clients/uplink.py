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
from clients.state import SiteState, StateFolder, StateTransaction
from clients.task import RoundTask
from rsdgc.arrays import Bools, Float32, add_scaled, l2_norm
from rsdgc.channel_transform import ChannelTransform, find_transform
from rsdgc.codec.wire import decode
from rsdgc.compressor import Compressor
from rsdgc.errors import SettingError, WireError
from rsdgc.feedback import compress_with_feedback, correct_momentum, mask_velocity
from rsdgc.indicators import make_indicator
from rsdgc.patches import fingerprint
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
    change_norm: float  #: Euclidean norm of the local change; 0 unless the task steps ahead
    velocity_name: str = ""
    velocity: Float32 | None = None


@dataclass(frozen=True, eq=False)
class TrainingStart:
    """Where a round's training started: the replica plus a part of what was held back."""

    replica: Replica
    held: Float32 | None = None  #: as :func:`held_back` returns it
    ahead: float = 0.0  #: the part of it, 0 to 1


def make_upload(
    model: ModelParts,
    start: TrainingStart,
    task: RoundTask,
    stamp: Stamp,
    transaction: StateTransaction,
    *,
    seed: int,
    present: Bools | None = None,
    transform: ChannelTransform | None = None,
) -> Upload:
    """Compress what the model has learned in this round, plus what earlier uploads held back.

    ``stamp`` goes into the upload's header, and ``seed`` is that of random scores. ``transform`` is
    that of the replica, if the task's scheme has one. Nothing is committed.

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
    local_change(model, start, vector)
    change_norm = l2_norm(vector) if task.step_ahead else 0.0
    velocity_name, velocity = "", None
    if task.momentum_correction:
        if transform is not None:
            raise SettingError(
                "momentum-correction needs updates as they are; set transform to 'none'"
            )
        velocity_name, velocity = transaction.new_vector("velocity")
        previous = transaction.folder.velocity(transaction.state)
        np.copyto(velocity, 0.0 if previous is None else previous)
        correct_momentum(velocity, vector, task.momentum_correction)
    if start.held is not None:
        vector += start.held
    ratios, budget_bytes = task.ratios, task.budget_bytes
    if present is not None and not present.all():
        budget_bytes *= share_of_layers(spec, task.scheme, ratios, present)
        ratios = np.where(present, ratios, 0.0)
        # Something is there only if the site had the modality in an earlier round.
        for sums in (vector,) if velocity is None else (vector, velocity):
            for view, is_present in zip(spec.views(sums), present, strict=True):
                if not is_present:
                    view.fill(0.0)
    indicator = make_indicator(
        task.indicator, mean_weight=task.mean_weight, std_weight=task.std_weight, seed=seed
    )
    compressor = Compressor(spec, task.scheme, indicator)
    update = compress_with_feedback(compressor, vector, ratios, stamp, budget_bytes, transform)
    # What was sent must not add to the momentum of rounds in which the model has moved on.
    if velocity is not None:
        mask_velocity(velocity, update)
    return Upload(update.payload, residual_name, vector, change_norm, velocity_name, velocity)


def local_change(model: ModelParts, start: TrainingStart, out: Float32) -> None:
    """Write what training has added to where it started into ``out``, float32 [size]."""
    model.vector(out=out)
    out -= start.replica.weights
    if start.held is not None and start.ahead:
        add_scaled(out, start.held, -start.ahead)


def held_back(
    transaction: StateTransaction,
    accepted_round: int,
    accepted_share: float = 1.0,
    reference: Float32 | None = None,
) -> Float32 | None:
    """Return what earlier uploads held back, float32 [size]; None if that is nothing.

    The last upload is part of it if the server did not accept it, or accepted a share of it only.
    ``accepted_round`` is the last round whose upload was accepted; 0 for none. ``reference`` is
    that of the channel transform, if uploads are transformed.
    """
    state, folder = transaction.state, transaction.folder
    if state.round < accepted_round:
        # The residual of an older state holds changes that later, accepted uploads have sent.
        _log.warning(
            "%s has lost its state of round %d: what its uploads held back is lost",
            folder.path,
            accepted_round,
        )
        return None
    residual = folder.residual(state)
    # A later upload than the accepted one is not in the model; its state has settled that one.
    returned = 1.0 - accepted_share if state.round == accepted_round else 1.0
    upload = folder.upload(state) if returned else None
    if upload is not None:
        text = "of the upload of round %d, %.3g was not accepted: adding it again"
        _log.info(text, state.round, returned)
        if residual is None:
            residual = np.zeros(folder.spec.size, np.float32)
        # The file stays as it is: it is mapped copy-on-write.
        _add_upload(upload, residual, returned, folder, state, reference)
    return residual


def _add_upload(
    payload: bytes,
    target: Float32,
    weight: float,
    folder: StateFolder,
    state: SiteState,
    reference: Float32 | None,
) -> None:
    """Add ``weight`` times the upload of a state to a vector, float32 [size]."""
    try:
        update = decode(payload, folder.spec)
    except WireError as error:  # another release wrote it, before the run was resumed
        text = "%s cannot read its upload of round %d (%s): what it held is lost"
        _log.warning(text, folder.path, state.round, error)
        return
    if update.scheme.transform == "none":
        update.add_to(target, weight)
        return
    # The replica of that round and the reference say what the upload means. The server's are
    # checked against fingerprints wherever they are used, so these must be, too.
    expected = state.upload_reference
    if reference is not None and expected and fingerprint(reference).hex() != expected:
        _log.warning(
            "the run goes on from another model before training: what %s holds of the upload of "
            "round %d is lost",
            folder.path,
            state.round,
        )
        return
    base = folder.upload_replica(state)
    if reference is None or base is None or fingerprint(base).hex() != state.upload_base:
        _log.warning(
            "%s has lost the replica of round %d: what its upload held is lost",
            folder.path,
            state.round,
        )
        return
    find_transform(folder.spec, base, reference).add_to(update, target, weight)
