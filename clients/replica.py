"""The site's replica of the published model: brought up to date by patches, or replaced."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rsdgc.arrays import max_magnitude
from rsdgc.errors import RunError, WireError
from rsdgc.patches import apply_patches, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable

    from clients.state import SiteState, StateFolder
    from clients.task import ReceivedModel
    from rsdgc.arrays import Float32
    from rsdgc.spec import ModelSpec


class ReplicaOutOfSync(Exception):  # noqa: N818  # an outcome that the server answers, not a failure
    """The patches do not bring this site's replica to the published model: it needs the whole."""


@dataclass(frozen=True, eq=False)
class Replica:
    """A site's copy of one version of the published model, bit for bit.

    Parameters
    ----------
    weights : float32 [size]
        The model, in the file's memory; not to be written to.
    name : str
        Of its file.
    version : int
        Of the published model.
    """

    weights: Float32
    name: str
    version: int


def update_replica(
    folder: StateFolder,
    state: SiteState,
    delivery: ReceivedModel,
    *,
    spec: ModelSpec,
    run: int,
    initial: Callable[[], Float32],
    serial: int,
) -> Replica:
    """Return the replica at the version delivered, checked against the server's fingerprint.

    Parameters
    ----------
    folder : StateFolder
        Where the replica is kept. A new version gets a new file; no state is changed.
    state : SiteState
        The present state; one without a replica stands at version 0, the model before training.
    delivery : ReceivedModel
        What came.
    spec : ModelSpec
        The model.
    run : int
        That the patches must be of.
    initial : callable
        Makes the model before training, float32 [spec.size].
    serial : int
        A number that no file has.

    Raises
    ------
    ReplicaOutOfSync
        The replica or the patches are not what the server takes them for; nothing was changed.
    RunError
        The whole model came and is not what its fingerprint says, or is not finite.
    StateError
        There is no room for it.
    """
    if delivery.whole is not None:
        check_finite(delivery.whole)
        if fingerprint(delivery.whole) != delivery.fingerprint:
            raise RunError(f"version {delivery.version} of the model arrived damaged: resend it")
        name, target = folder.new_vector("replica", serial)
        target[:] = delivery.whole
        return Replica(target, name, delivery.version)
    kept = folder.replica(state)
    if kept is not None and state.version == delivery.version:
        _compare(kept, delivery)
        return Replica(kept, state.replica, state.version)
    if kept is None and state.version > 0:
        raise ReplicaOutOfSync(f"the replica of version {state.version} is gone")
    if state.version > delivery.version:
        raise ReplicaOutOfSync(
            f"the replica is at version {state.version}, past {delivery.version}"
        )
    name, target = folder.new_vector("replica", serial)
    target[:] = initial() if kept is None else kept
    try:
        reached = apply_patches(target, state.version, delivery.patches, spec, run)
    except WireError as error:
        raise ReplicaOutOfSync(str(error)) from None
    if reached != delivery.version:
        raise ReplicaOutOfSync(f"the patches end at version {reached}, not {delivery.version}")
    _compare(target, delivery)
    return Replica(target, name, reached)


def check_finite(weights: Float32) -> None:
    """Raise :class:`RunError` if a received model holds NaN or infinity."""
    if not math.isfinite(max_magnitude(weights)):
        raise RunError("the received model is not finite: lower the learning rate")


def _compare(weights: Float32, delivery: ReceivedModel) -> None:
    if fingerprint(weights) != delivery.fingerprint:
        raise ReplicaOutOfSync(
            f"the replica is not version {delivery.version} of the published model"
        )
