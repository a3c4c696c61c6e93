"""A site's work in one round, as a transaction on its durable state.

1. **Bring the replica up to date**: apply the patches to a copy, and compare its fingerprint with
   the server's. If they differ, nothing changes and the server sends the whole model
   (:mod:`clients.replica`).
2. **Score** the received model on the test and validation splits, then **train** it, from a step
   ahead of it if the task says so (:mod:`rsdgc.feedback`). Running statistics and the entries of
   the model that stay at this site go apart from the change (:mod:`clients.model_parts`).
3. **Add up what to send**: the change, with momentum correction the velocity, plus the residual.
   The task says which round's upload the server accepted last. If the site's last upload is a
   later one (lost, late or refused), it is added, too, and of one that the server has clipped the
   part that is not in the model (:mod:`clients.uplink`).
4. **Compress** it; what the upload does not say is the new residual.
5. **Commit** replica, residual, local entries, upload and reply, all at once
   (:mod:`clients.state`).
6. **Reply.**

This order makes every local change count exactly once, whenever a process is killed or a message
is lost. Before step 5, the old state stands, as if the site had not trained. After it, the reply
may be lost: the server's next task then says so, and step 3 adds the upload again. If the same
task is delivered twice, the site sends the reply from its state. So at every instant::

    Σ accepted uploads + Σ residuals (with uploads not accepted) = Σ committed local changes

where an upload that the server clips to a share s of its length counts as s times the upload, and
the residual has the rest of it.

A server that resumes from a checkpoint is behind its sites. They return to the state that they
had at that checkpoint (:mod:`clients.state`).
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from torch import nn

from clients.evaluation import score_model
from clients.loader import SplitLoader
from clients.mapped_vectors import checksum
from clients.memory_format import place_model
from clients.micro_batch import MicroBatches
from clients.model_parts import ModelParts
from clients.replica import ReferenceMissing, check_finite, update_replica
from clients.scores import Score, SiteScores
from clients.state import SiteState, StateFolder, StateTransaction
from clients.task import ReceivedModel, RoundResult, RoundTask, RunOrigin
from clients.training import TrainReport, train
from clients.uplink import TrainingStart, held_back, make_upload
from rsdgc.arrays import Float32
from rsdgc.channel_transform import find_transform, transformed_part
from rsdgc.errors import DataError, RunError, WireError
from rsdgc.feedback import step_ahead_share
from rsdgc.patches import fingerprint
from rsdgc.spec import in_branch
from rsdgc.statistics_codec import decode_statistics, encode_statistics
from rsdgc.update import Stamp

_log = logging.getLogger(__name__)


class _WorkClock:
    """Wall-clock seconds since a task has come, and of the steps of its work."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.steps: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure what is done within."""
        start = time.perf_counter()
        yield
        self.steps[name] = time.perf_counter() - start


class _Trained(NamedTuple):
    """What a round's training has left beside the trained weights."""

    scores: SiteScores | None
    report: TrainReport
    statistics: bytes
    local: bytes


class Site:
    """One site: its splits, its model, its durable state.

    Parameters
    ----------
    name : str
        Unique in the run; names the folder of its state.
    model : torch.nn.Module
        As built, before training; moved to the training split's device. Its trained weights come
        with each task.
    train, test, val : SplitLoader
        The splits, on one device. Without a test split, scores count no chips; without a validation
        split, there is no score of it.
    num_classes : int
        K, the same at all sites.
    state_dir : path
        Root of the states on this machine.
    initial : callable
        Makes the trained weights before training, float32 [size], which are version 0 of the
        published model.
    batch_norm : {"average", "local-statistics", "local", "group"}
        What becomes of batch normalization, see :mod:`clients.model_parts`.
    lacking : collection of str
        Modalities of the run that this site lacks. The parameters of their branches do not change
        here, and nothing of them is sent.
    micro_batches : MicroBatches, optional
        How many chips go through the model at once; one for all sites of a process.
    transformed : bool
        Whether the run's updates are transformed (:mod:`rsdgc.channel_transform`). Only then the
        transformed layers of the model before training are kept.
    durable_every : int
        Rounds between two states that survive a loss of power; 0: none does. In a simulation the
        server loses power, too, and returns to a checkpoint: no state between two checkpoints is
        of use then.

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
        val: SplitLoader | None = None,
        num_classes: int,
        state_dir: Path | str,
        initial: Callable[[], Float32],
        batch_norm: str = "average",
        lacking: Collection[str] = (),
        micro_batches: MicroBatches | None = None,
        transformed: bool = False,
        durable_every: int = 1,
    ) -> None:
        for split in (train, test, val):
            if split is not None:
                split.check_labels(num_classes)
        self.name = name
        self.model = place_model(model, train.device)
        self.parts = ModelParts(self.model, batch_norm)
        self.spec = self.parts.spec
        #: which layers of the shared part this site has, bool [num_layers]
        self.present = self.spec.present_layers(lacking)
        if not self.present.any():
            raise DataError(
                f"site {name} lacks {', '.join(lacking)}, and the run trains nothing else: leave "
                "the site out, or train more of the model"
            )
        # Only now that the shared part is known, which is the same at all sites.
        for layer, parameter in self.model.named_parameters():
            if in_branch(layer, lacking):
                parameter.requires_grad = False
        self.train = train
        self.test = test
        self.val = val
        self.num_classes = num_classes
        self.state_dir = state_dir
        self._initial = initial
        self._micro_batches = micro_batches or MicroBatches()
        self._durable_every = durable_every
        #: the channel transform's reference, as this machine makes it, and its fingerprint
        self._reference: Float32 | None = None
        self._reference_fingerprint = b""
        if transformed:
            self._reference = transformed_part(self.spec, self.parts.vector())
            self._reference_fingerprint = fingerprint(self._reference)
        self._initial_statistics = self.parts.arrays(self.parts.running)
        self._initial_local = self.parts.arrays(self.parts.local)

    def work(self, task: RoundTask, received: ReceivedModel) -> RoundResult:
        """Work one round.

        The result is in the state before this method returns (except for FedAvg), and the same
        task returns it again.

        Raises
        ------
        ReplicaOutOfSync
            The replica needs the whole model; nothing was changed.
        RunError
            The received or the trained model is not finite, or the task is older than the state.
        StateError
            The state cannot be read or written; nothing was changed.
        SettingError
            The model has another size, or the scheme or indicator is unknown.
        """
        clock = _WorkClock()
        if not task.compressed:
            return self._work_uncompressed(task, received, clock)
        every = self._durable_every
        durable = every > 0 and task.round % every == 0
        with self._transaction(task.origin, durable=durable) as transaction:
            digest = task.digest(received)
            repeated = self._repeated_reply(task, digest, transaction)
            if repeated is not None:
                return repeated

            reference = self._transform_reference(transaction, received)
            replica = update_replica(transaction, received, self._initial, reference)
            self._load(replica.weights, received, self._local(transaction))
            held = held_back(transaction, task.accepted_round, task.accepted_share, reference)
            ahead = 0.0
            if held is not None:
                ahead = step_ahead_share(held, transaction.state.change_norm, task.step_ahead)
            try:
                trained = self._score_and_train(task, clock, received, held, ahead)
            except (RunError, WireError) as error:
                # Nothing would change before the next round, which would fail for the same reason.
                if not ahead:
                    raise
                _log.warning("%s: starting from the model as received, not ahead of it", error)
                ahead = 0.0
                self._load(replica.weights, received, self._local(transaction))
                trained = self._score_and_train(task, clock, received)
            statistics, local = trained.statistics, trained.local
            stamp = Stamp(task.origin.run, task.round, received.version)
            transform = None
            with clock.step("compress_seconds"):
                if task.scheme.transform != "none":
                    if reference is None:
                        raise RunError("the task has no reference for the transform of its scheme")
                    transform = find_transform(self.spec, replica.weights, reference)
                upload = make_upload(
                    self.parts,
                    TrainingStart(replica, held, ahead),
                    task,
                    stamp,
                    transaction,
                    seed=self._seed(task.seed, 0),
                    present=self.present,
                    transform=transform,
                )
            result = self._result(trained, clock, payload=upload.payload, version=replica.version)

            # The replica needs no sync: one that a loss of power has damaged does not match the
            # fingerprint of the next round, and the server sends it again.
            # Unless the upload is transformed: without the replica it could not be added again.
            if transform is not None:
                transaction.sync(replica.name)
            transaction.sync(upload.residual_name)
            if upload.velocity is not None:
                transaction.sync(upload.velocity_name)
            transaction.commit(
                SiteState(
                    round=task.round,
                    version=replica.version,
                    replica=replica.name,
                    residual=upload.residual_name,
                    residual_check=checksum(upload.residual),
                    velocity=upload.velocity_name,
                    velocity_check=0 if upload.velocity is None else checksum(upload.velocity),
                    upload=transaction.write_bytes("upload", upload.payload),
                    upload_check=checksum(upload.payload),
                    statistics=transaction.write_bytes("statistics", statistics),
                    statistics_check=checksum(statistics),
                    local=transaction.write_bytes("local", local),
                    local_check=checksum(local),
                    **self._state_of_reference(transaction, received),
                    upload_replica="" if transform is None else replica.name,
                    upload_base="" if transform is None else received.fingerprint.hex(),
                    upload_reference=(
                        "" if transform is None else received.reference_fingerprint.hex()
                    ),
                    change_norm=upload.change_norm,
                    task=digest,
                    reply=result.figures(),
                )
            )
        return result

    def evaluate(self, origin: RunOrigin, received: ReceivedModel) -> tuple[SiteScores, bytes]:
        """Score the published model, for the final evaluation.

        The replica at its version is kept. Raises as :meth:`work` does.

        Returns
        -------
        scores : SiteScores
            Of the published model, with the entries that stay at this site.
        local : bytes
            Those entries, encoded relative to the model before training; empty without any. The
            model that the run delivers has their mean over the sites.
        """
        if not received.fingerprint and not self.parts.local:
            self._load(_whole_model(received), received, {})
            return self._score(), b""
        with self._transaction(origin) as transaction:
            local = self._local(transaction)
            if received.fingerprint:
                reference = self._transform_reference(transaction, received)
                replica = update_replica(transaction, received, self._initial, reference)
                self._load(replica.weights, received, local)
                # A server that evaluates again then has nothing to send.
                state = replace(transaction.state, version=replica.version, replica=replica.name)
                transaction.commit(
                    replace(state, **self._state_of_reference(transaction, received))
                )
            else:
                self._load(_whole_model(received), received, local)
            return self._score(), encode_statistics(local, self._initial_local)

    def _work_uncompressed(
        self, task: RoundTask, received: ReceivedModel, clock: _WorkClock
    ) -> RoundResult:
        """Work a round of FedAvg: no replica, no residual, and no state but local entries."""
        weights = _whole_model(received)
        if not self.parts.local:
            self._load(weights, received, {})
            trained = self._score_and_train(task, clock, received)
            return self._result(trained, clock, weights=self.parts.vector())
        with self._transaction(task.origin) as transaction:
            self._check_not_past(task, transaction.state)
            self._load(weights, received, self._local(transaction))
            trained = self._score_and_train(task, clock, received)
            result, local = self._result(trained, clock, weights=self.parts.vector()), trained.local
            name = transaction.write_bytes("local", local)
            transaction.commit(SiteState(round=task.round, local=name, local_check=checksum(local)))
        return result

    def _transaction(
        self, origin: RunOrigin, *, durable: bool = True
    ) -> AbstractContextManager[StateTransaction]:
        folder = StateFolder(self.state_dir, origin.run, self.name, self.spec)
        return folder.transaction(origin, durable=durable)

    def _repeated_reply(
        self, task: RoundTask, digest: str, transaction: StateTransaction
    ) -> RoundResult | None:
        """Return the reply that the state holds if the task was worked before; else None."""
        state = transaction.state
        if state.task == digest:
            upload = transaction.folder.upload(state)
            statistics = transaction.folder.statistics(state) if state.statistics else b""
            if upload is not None and statistics is not None:
                try:
                    reply = (state.reply, upload, state.version, statistics)
                    result = RoundResult.from_figures(*reply)
                except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                    _log.warning("the reply of round %d is damaged (%r)", task.round, error)
                else:
                    _log.info("round %d is done already: sending the same reply again", task.round)
                    return result
        self._check_not_past(task, state)
        return None

    def _check_not_past(self, task: RoundTask, state: SiteState) -> None:
        """Raise :class:`RunError` if the state is of a later round than the task."""
        # The server of this run never goes back without a new attempt, so another run has the same
        # number; its changes must not be mixed with this state's.
        if state.round > task.round:
            raise RunError(
                f"site {self.name} has worked round {state.round} of run {task.origin.run} "
                f"and cannot return to round {task.round}: give the new run another number"
            )

    def _load(self, weights: Float32, received: ReceivedModel, local: dict[str, Float32]) -> None:
        """Load the received model, and the entries that stay at this site."""
        self.parts.load_vector(weights)
        self.parts.load_arrays(self._received_statistics(received) | local)

    def _received_statistics(self, received: ReceivedModel) -> dict[str, Float32]:
        if not received.statistics:
            return self._initial_statistics
        try:
            changed = decode_statistics(received.statistics, self._initial_statistics)
        except WireError as error:
            raise RunError(f"the running statistics arrived damaged ({error})") from None
        return self._initial_statistics | changed

    def _changed_statistics(self, received: ReceivedModel) -> bytes:
        """Return the running statistics after training, encoded relative to those received."""
        trained = self.parts.arrays(self.parts.running)
        return encode_statistics(trained, self._received_statistics(received))

    def _transform_reference(
        self, transaction: StateTransaction, received: ReceivedModel
    ) -> Float32 | None:
        """Return the channel transform's reference; None if the run has no transform.

        Raises :class:`ReferenceMissing` if this site has another and the message does not bring it.
        """
        expected = received.reference_fingerprint
        if not expected:
            return None
        if received.reference is not None:
            if fingerprint(received.reference) != expected:
                raise RunError("the reference of the transform arrived damaged: send it again")
            return received.reference
        if self._reference_fingerprint == expected:
            return self._reference
        reference = transaction.folder.reference(transaction.state)
        if reference is None or fingerprint(reference) != expected:
            raise ReferenceMissing("this machine builds another model before training")
        return reference

    def _state_of_reference(
        self, transaction: StateTransaction, received: ReceivedModel
    ) -> dict[str, Any]:
        """Return the fields of the state for a reference that the site has been sent."""
        state = transaction.state
        if received.reference is None:
            return {"reference": state.reference, "reference_check": state.reference_check}
        content = np.ascontiguousarray(received.reference, np.float32).tobytes()
        name = transaction.write_bytes("reference", content)
        return {"reference": name, "reference_check": checksum(content)}

    def _local(self, transaction: StateTransaction) -> dict[str, Float32]:
        """Return the entries that stay at this site; before training, those as built."""
        packed = transaction.folder.local(transaction.state)
        return self._initial_local if packed is None else safetensors.numpy.load(packed)

    def _packed_local(self) -> bytes:
        """Return the entries that stay at this site as they are now; empty without any.

        Raises :class:`RunError` if one is not finite: a site would keep it for the rest of the run.
        """
        arrays = self.parts.arrays(self.parts.local)
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise RunError(f"{name} became infinite at this site: lower the learning rate")
        return safetensors.numpy.save(arrays) if arrays else b""

    def _score_and_train(
        self,
        task: RoundTask,
        clock: _WorkClock,
        received: ReceivedModel,
        held: Float32 | None = None,
        ahead: float = 0.0,
    ) -> _Trained:
        """Score the loaded model if the task asks for it, then train it from a step ahead.

        What is not part of the upload is packed, too.
        """
        # Scored before training: the server wants the accuracy of the model that it sent.
        with clock.step("score_seconds"):
            scores = self._score() if task.score else None
        if held is not None and ahead:
            self.parts.add(held, ahead)
        seed = self._seed(task.seed, task.round)
        with clock.step("train_seconds"):
            micro_batch = self._micro_batches.train
            report = train(self.model, self.train, task.train, seed, micro_batch)
        return _Trained(scores, report, self._changed_statistics(received), self._packed_local())

    def _score(self) -> SiteScores:
        test = self._score_split(self.test)
        return SiteScores(test, None if self.val is None else self._score_split(self.val))

    def _score_split(self, split: SplitLoader | None) -> Score:
        micro_batch = self._micro_batches.score
        return score_model(self.model, split, self.num_classes, micro_batch=micro_batch)

    def _seed(self, run_seed: int, number: int) -> int:
        """Mix the site's name and a number into the run's seed; 56 bits: PyTorch takes 63."""
        text = f"{run_seed}/{self.name}/{number}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "little")

    def _result(
        self,
        trained: _Trained,
        clock: _WorkClock,
        *,
        payload: bytes = b"",
        weights: Float32 | None = None,
        version: int = 0,
    ) -> RoundResult:
        return RoundResult(
            payload=payload,
            weights=weights,
            num_examples=len(self.train),
            scores=trained.scores,
            train_loss=trained.report.loss,
            seconds=time.perf_counter() - clock.start,
            **clock.steps,
            version=version,
            statistics=trained.statistics,
        )


def _whole_model(received: ReceivedModel) -> Float32:
    """Return the whole model, which a message to a site without a replica must carry."""
    if received.whole is None:
        raise RunError("the message carries no model: install the same version at all sites")
    check_finite(received.whole)
    return received.whole
