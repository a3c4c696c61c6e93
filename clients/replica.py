"""The site's replica of the published model: patched to the server's version, or replaced."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from clients.state import StateTransaction
from clients.task import ReceivedModel
from rsdgc.arrays import Float32, max_magnitude
from rsdgc.errors import RunError, WireError
from rsdgc.patches import apply_patches, fingerprint


class ReplicaOutOfSync(Exception):  # noqa: N818  # an outcome that the server answers, not a failure
    """The patches do not lead from this site's replica to the published model.

    The server answers it with the whole model.
    """


class ReferenceMissing(ReplicaOutOfSync):
    """The site has another reference of the channel transform than the server.

    The server answers it with the reference and the whole model.
    """


@dataclass(frozen=True, eq=False)
class Replica:
    """A site's copy of one version of the published model, bit for bit."""

    weights: Float32  #: float32 [size]: in the memory of the file ``name``; not to be written to
    name: str
    version: int


def update_replica(
    transaction: StateTransaction,
    received: ReceivedModel,
    initial: Callable[[], Float32],
    reference: Float32 | None = None,
) -> Replica:
    """Return the replica at the received version, checked against the server's fingerprint.

    A new version gets a new file; the state does not change before the transaction commits. A site
    without a replica is at version 0, which ``initial`` makes: the model before training.
    ``reference`` is that of the channel transform, if patches are transformed.

    Raises
    ------
    ReplicaOutOfSync
        The replica or the patches are not those that the server expects; nothing was changed.
    RunError
        A whole model was received, and it does not have its fingerprint or is not finite.
    StateError
        The disk is full.
    """
    if received.whole is not None:
        check_finite(received.whole)
        if fingerprint(received.whole) != received.fingerprint:
            raise RunError(
                f"version {received.version} of the model arrived damaged: send it again"
            )
        name, weights = transaction.new_vector("replica")
        weights[:] = received.whole
        return Replica(weights, name, received.version)
    state, folder = transaction.state, transaction.folder
    present = folder.replica(state)
    if present is not None and state.version == received.version:
        _check_fingerprint(present, received)
        return Replica(present, state.replica, state.version)
    if present is None and state.version > 0:
        raise ReplicaOutOfSync(f"the replica of version {state.version} is missing")
    if state.version > received.version:
        raise ReplicaOutOfSync(
            f"the replica is at version {state.version}, past {received.version}"
        )
    # Patch a copy: the present replica must survive patches that turn out to be wrong.
    name, weights = transaction.new_vector("replica")
    weights[:] = initial() if present is None else present
    try:
        reached = apply_patches(
            *(weights, state.version, received.patches, folder.spec, folder.run, reference)
        )
    except WireError as error:
        raise ReplicaOutOfSync(str(error)) from None
    if reached != received.version:
        raise ReplicaOutOfSync(f"the patches end at version {reached}, not {received.version}")
    _check_fingerprint(weights, received)
    return Replica(weights, name, reached)


def check_finite(weights: Float32) -> None:
    """Raise :class:`RunError` if a received model holds NaN or infinity."""
    if not math.isfinite(max_magnitude(weights)):
        raise RunError("the received model is not finite: lower the learning rate")


def _check_fingerprint(weights: Float32, received: ReceivedModel) -> None:
    if fingerprint(weights) != received.fingerprint:
        raise ReplicaOutOfSync(
            f"the replica is not version {received.version} of the published model"
        )
