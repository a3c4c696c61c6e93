"""One locked look at a site's state, and at most one change of it.

A site's work in one round, as a transaction.

The order of the steps is what makes every local change count exactly once, whatever dies when:

1. **Bring the replica up to date**: apply the patches to a copy, compare its fingerprint with
   the server's. If they differ, say so: the server sends the whole model
   (:mod:`clients.replica`).
2. **Settle the last upload.** The task says which round's upload the server accepted last. If the
   site's last upload is a later one (lost, late or refused), it is added back to the residual.
3. Load the replica, score it on the test split, train.
4. Compress ``change + residual``; what is left is the new residual (:mod:`rsdgc.feedback`).
5. **Make replica, residual, upload and reply durable**, all at once (:mod:`clients.state`).
6. Reply.

Killed before step 5, the site stands where it stood and the change is as if it had never been
made. Killed after it, the reply is lost, the server's next task says so, and step 2 mends it. The
same task delivered twice gets the same reply, from the file. So at every instant::

    Σ accepted uploads + Σ residuals (unsettled uploads added back) = Σ durable local changes

A server that was resumed from a checkpoint finds the sites ahead of it. They go back to the state
that they had at that checkpoint (:mod:`clients.state`).
"""

from __future__ import annotations

import hashlib
import logging
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clients import mapped_vectors
from clients.evaluation import score
from clients.replica import Replica, ReplicaOutOfSync, check_finite, update_replica
from clients.state import SiteState, StateFolder
from clients.task import ReceivedModel, RoundResult, RoundTask, RunOrigin
from clients.training import train
from clients.uplink import add_residual, apply_momentum_correction, compress_upload
from clients.weights import load_vector, model_spec, model_to_vector
from rsdgc.errors import RunError
from rsdgc.feedback import mask_velocity
from rsdgc.update import Stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from clients.evaluation import Score
    from clients.loader import SplitLoader
    from clients.state import StateFolder
    from clients.task import ReceivedModel, RunOrigin
    from clients.training import TrainReport
    from rsdgc.arrays import Float32
    from rsdgc.spec import ModelSpec


class StateTransaction:
    """What a site has when a message comes in, and how it changes.

    Attributes
    ----------
    folder : StateFolder
        Where the state is kept.
    state : SiteState
        The present one, as the server that asks may know it.
    serial : int
        A number that no file has: for those of this turn.
    """

    def __init__(self, folder: StateFolder, origin: RunOrigin, spec: ModelSpec) -> None:
        self.folder = folder
        self._origin = origin
        self._spec = spec
        self._history = folder.load()
        self._past = self._history.at(origin.attempt, origin.resumed_round)
        self.state = self._past[-1] if self._past else SiteState()
        self.serial = self._history.serial + 1

    def bring_up(self, delivery: ReceivedModel, initial: Callable[[], Float32]) -> Replica:
        """Return the replica at the received version (:func:`clients.replica.update_replica`)."""
        return update_replica(
            self.folder,
            self.state,
            delivery,
            spec=self._spec,
            run=self._origin.run,
            initial=initial,
            serial=self.serial,
        )

    def commit(self, state: SiteState) -> None:
        """Make a new state the present one; see :meth:`clients.state.StateFolder.commit`."""
        after = self._history.then(
            state,
            attempt=self._origin.attempt,
            past=self._past,
            kept_rounds=self._origin.kept_rounds,
            serial=self.serial,
        )
        self.folder.commit(after)


@contextmanager
def open_transaction(
    folder: StateFolder, origin: RunOrigin, spec: ModelSpec
) -> Iterator[StateTransaction]:
    """Lock a site's state and look at it.

    Raises
    ------
    StateError
        It cannot be read or written.
    RunError
        The message is of an attempt that is over.
    """
    with folder.locked():
        yield StateTransaction(folder, origin, spec)


__all__ = ["ReceivedModel", "ReplicaOutOfSync", "RoundResult", "RoundTask", "RunOrigin", "Site"]

_log = logging.getLogger(__name__)


class Site:
    """One site: its splits, its model, its durable state.

    Parameters
    ----------
    name : str
        Unique in the run; names the folder of its state.
    model : torch.nn.Module
        The architecture; moved to the training split's device. Its weights come with each task.
    train, test : Partition
        The splits, on one device; no test split: the site trains and scores nothing.
    num_classes : int
        K, the same at all sites.
    state_dir : path
        Root of the states on this machine.
    initial : callable, optional
        Makes the model before training, float32 [size], which is version 0 of the published one;
        by default the weights that ``model`` has now, which costs a copy of them.

    Raises
    ------
    DataError
        A label lies outside the class list.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        *,
        train: SplitLoader,
        test: SplitLoader | None,
        num_classes: int,
        state_dir: Path | str,
        initial: Callable[[], NDArray[np.float32]] | None = None,
    ) -> None:
        for split in (train, test):
            if split is not None:
                split.check_labels(num_classes)
        self.name = name
        # Channels last: a tenth quicker on a CPU, more in mixed precision on a GPU.
        self.model = model.to(device=train.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.spec = model_spec(self.model)
        self.train = train
        self.test = test
        self.num_classes = num_classes
        self.state_dir = state_dir
        self._initial = initial or _keep(model_to_vector(self.model, self.spec))

    def work(self, task: RoundTask, delivery: ReceivedModel) -> RoundResult:
        """Work one round.

        Parameters
        ----------
        task : RoundTask
            From the server.
        delivery : ReceivedModel
            The published model, or what the replica here lacks of it.

        Returns
        -------
        RoundResult
            Durable, but for FedAvg: the same task gives the same result again.

        Raises
        ------
        ReplicaOutOfSync
            The replica needs the whole model; nothing was changed.
        RunError
            The received or the trained model is not finite, or the task is older than the state.
        StateError
            The state cannot be read or written; nothing was changed.
        SettingError
            The model is of another size, or the scheme or indicator unknown.
        """
        begin = time.perf_counter()
        if task.method == "fedavg":
            received, report = self._learn(task, _whole(delivery))
            trained = model_to_vector(self.model, self.spec)
            return self._result(received, report, begin, weights=trained)
        with self._turn(task.origin) as turn:
            state, digest = turn.state, task.digest(delivery)
            upload = turn.folder.upload(state) if state.task == digest else None
            if upload is not None:
                _log.info("round %d was worked already: the same reply again", task.round)
                return _again(state, upload)
            if state.round > task.round:
                raise RunError(
                    f"site {self.name} has worked round {state.round} of run {task.origin.run} "
                    f"and cannot go back to round {task.round}: give the new run another number"
                )
            replica = turn.bring_up(delivery, self._initial)
            received, report = self._learn(task, replica.weights)
            name, residual = turn.folder.new_vector("residual", turn.serial)
            model_to_vector(self.model, self.spec, out=residual)
            residual -= replica.weights
            velocity_name, velocity = apply_momentum_correction(
                residual, turn.folder, state, task.momentum_correction, turn.serial
            )
            add_residual(residual, turn.folder, state, task.accepted_round, self.spec)
            stamp = Stamp(task.origin.run, task.round, delivery.version)
            sent = compress_upload(residual, task, stamp, self.spec, self._seed(task.seed, 0))
            payload = sent.payload
            result = self._result(received, report, begin, payload=payload, version=replica.version)
            turn.folder.keep(name)
            if velocity is not None:
                mask_velocity(velocity, sent)
                turn.folder.keep(velocity_name)
            turn.commit(
                SiteState(
                    round=task.round,
                    version=replica.version,
                    replica=replica.name,
                    residual=name,
                    upload=turn.folder.keep_bytes("upload", turn.serial, payload),
                    residual_check=mapped_vectors.checksum(residual),
                    velocity=velocity_name,
                    velocity_check=0 if velocity is None else mapped_vectors.checksum(velocity),
                    upload_check=mapped_vectors.checksum(payload),
                    task=digest,
                    reply=_figures(result),
                )
            )
        return result

    def evaluate(self, origin: RunOrigin, delivery: ReceivedModel) -> Score:
        """Score the published model on the test split, for the final evaluation.

        Parameters
        ----------
        origin : RunOrigin
            The run.
        delivery : ReceivedModel
            As for :meth:`work`; the replica at its version is kept.

        Raises
        ------
        ReplicaOutOfSync, RunError, StateError
            As for :meth:`work`.
        """
        if not delivery.fingerprint:
            return self._score(_whole(delivery))
        with self._turn(origin) as turn:
            replica = turn.bring_up(delivery, self._initial)
            found = self._score(replica.weights)
            turn.commit(replace(turn.state, version=replica.version, replica=replica.name))
        return found

    def _turn(self, origin: RunOrigin) -> AbstractContextManager[StateTransaction]:
        folder = StateFolder(self.state_dir, origin.run, self.name, self.spec)
        return open_transaction(folder, origin, self.spec)

    def _learn(self, task: RoundTask, weights: NDArray[np.float32]) -> tuple[Score, TrainReport]:
        received = self._score(weights)
        seed = self._seed(task.seed, task.round)
        return received, train(self.model, self.train, task.train, seed)

    def _score(self, weights: NDArray[np.float32]) -> Score:
        load_vector(self.model, self.spec, weights)
        return score(self.model, self.test, self.num_classes)

    def _seed(self, seed: int, number: int) -> int:
        text = f"{seed}/{self.name}/{number}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "little")

    def _result(
        self,
        received: Score,
        report: TrainReport,
        begin: float,
        *,
        payload: bytes = b"",
        weights: NDArray[np.float32] | None = None,
        version: int = 0,
    ) -> RoundResult:
        return RoundResult(
            payload=payload,
            weights=weights,
            num_examples=len(self.train),
            confusion=received.confusion,
            loss=received.loss,
            train_loss=report.loss,
            seconds=time.perf_counter() - begin,
            version=version,
        )


def _again(state: SiteState, upload: bytes) -> RoundResult:
    """Return the reply that a state was kept with."""
    figures = state.reply | {"confusion": np.array(state.reply["confusion"], np.int64)}
    return RoundResult(payload=upload, weights=None, version=state.version, **figures)


def _whole(delivery: ReceivedModel) -> NDArray[np.float32]:
    """Return the whole model that a message without a replica must carry."""
    if delivery.whole is None:
        raise RunError("the message carries no model: run one release at all ends")
    check_finite(delivery.whole)
    return delivery.whole


def _keep(weights: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
    return lambda: weights


def _figures(result: RoundResult) -> dict[str, Any]:
    """Return all but payload and weights as JSON values."""
    names = ("num_examples", "loss", "train_loss", "seconds")
    return {"confusion": result.confusion.tolist()} | {n: getattr(result, n) for n in names}
