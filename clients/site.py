"""A site's work in one round, as a transaction.

The order of the steps is what makes every local change count exactly once, whatever dies when:

1. **Settle the last upload.** The task says which round's upload the server accepted last. If the
   site's last upload is a later one (lost, late or refused), it is added back to the residual.
2. Load the received model, score it on the test split, train.
3. Compress ``change + residual``; what is left is the new residual (:mod:`rsdgc.feedback`).
4. **Make residual, upload and reply durable**, all at once (:mod:`clients.state`).
5. Reply.

Killed before step 4, the site stands where it stood and the change is as if it had never been
made. Killed after it, the reply is lost, the server's next task says so, and step 1 mends it. The
same task delivered twice gets the same reply, from the file. So at every instant::

    Σ accepted uploads + Σ residuals (unsettled uploads added back) = Σ durable local changes
"""

from __future__ import annotations

import hashlib
import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clients.scoring import score
from clients.state import SiteState, StateFolder
from clients.task import RoundResult, RoundTask
from clients.training import train
from clients.weights import flatten, load_flat, model_spec
from rsdgc.compressor import Compressor
from rsdgc.errors import RunError
from rsdgc.feedback import ErrorFeedback
from rsdgc.indicator import make_indicator
from rsdgc.sparse import Stamp

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from clients.partition import Partition
    from clients.scoring import Score
    from clients.training import TrainReport

__all__ = ["RoundResult", "RoundTask", "Site"]

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
        train: Partition,
        test: Partition | None,
        num_classes: int,
        state_dir: Path | str,
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

    def work(self, task: RoundTask, weights: NDArray[np.float32]) -> RoundResult:
        """Work one round.

        Parameters
        ----------
        task : RoundTask
            From the server.
        weights : float32 [spec.size]
            The model as received; left as it is.

        Returns
        -------
        RoundResult
            Durable, but for FedAvg: the same task gives the same result again.

        Raises
        ------
        RunError
            The received or the trained model is not finite, or the task is older than the state.
        StateError
            The state cannot be read or written; nothing was changed.
        SettingError
            The model is of another size, or the scheme or indicator unknown.
        """
        begin = time.perf_counter()
        if task.method == "fedavg":
            received, report = self._learn(task, weights)
            trained = flatten(self.model, self.spec)
            return self._result(received, report, begin, weights=trained)
        folder = StateFolder(self.state_dir, task.run, self.name, self.spec)
        with folder.locked():
            state = folder.load()
            digest = task.digest(weights)
            if state is not None and state.task == digest:
                _log.info("round %d was worked already: the same reply again", task.round)
                return self._from_state(state)
            feedback = self._settle(task, state)
            received, report = self._learn(task, weights)
            change = flatten(self.model, self.spec)
            change -= weights
            stamp = Stamp(task.run, task.round, task.base)
            payload = feedback.compress(change, task.ratios, stamp, task.budget_bytes)
            result = self._result(received, report, begin, payload=payload)
            reply = _figures(result)
            folder.save(SiteState(task.round, digest, feedback.residual, payload, reply))
        return result

    def score_only(self, weights: NDArray[np.float32]) -> Score:
        """Score a model on the test split, for the final evaluation.

        Parameters
        ----------
        weights : float32 [spec.size]
            Any finite model.
        """
        self._load(weights)
        return score(self.model, self.test, self.num_classes)

    def _settle(self, task: RoundTask, state: SiteState | None) -> ErrorFeedback:
        """Return the error feedback with the last upload settled."""
        indicator = make_indicator(
            task.indicator,
            mean_weight=task.mean_weight,
            std_weight=task.std_weight,
            seed=self._seed(task.seed, 0),
        )
        compressor = Compressor(self.spec, task.scheme, indicator)
        if state is None or state.round < task.accepted_round:
            if task.accepted_round > 0:
                _log.warning(
                    "site %s has lost its state of round %d: what its uploads held back is lost",
                    self.name,
                    task.accepted_round,
                )
            return ErrorFeedback(compressor, None)
        if state.round > task.round:
            raise RunError(
                f"site {self.name} has worked round {state.round} of run {task.run} and cannot go "
                f"back to round {task.round}: give the new run another number"
            )
        feedback = ErrorFeedback(compressor, state.residual)
        if state.round != task.accepted_round:
            _log.info("the upload of round %d was not accepted: taken back", state.round)
            feedback.roll_back(state.upload)
        return feedback

    def _learn(self, task: RoundTask, weights: NDArray[np.float32]) -> tuple[Score, TrainReport]:
        self._load(weights)
        received = score(self.model, self.test, self.num_classes)
        seed = self._seed(task.seed, task.round)
        return received, train(self.model, self.train, task.train, seed)

    def _load(self, weights: NDArray[np.float32]) -> None:
        if not np.isfinite(weights).all():
            raise RunError("the received model is not finite: lower the learning rate")
        load_flat(self.model, self.spec, weights)

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
    ) -> RoundResult:
        return RoundResult(
            payload=payload,
            weights=weights,
            num_examples=len(self.train),
            confusion=received.confusion,
            loss=received.loss,
            train_loss=report.loss,
            seconds=time.perf_counter() - begin,
        )

    def _from_state(self, state: SiteState) -> RoundResult:
        figures = state.reply | {"confusion": np.array(state.reply["confusion"], np.int64)}
        return RoundResult(payload=state.upload, weights=None, **figures)


def _figures(result: RoundResult) -> dict[str, Any]:
    """Return all but payload and weights as JSON values."""
    names = ("num_examples", "loss", "train_loss", "seconds")
    return {"confusion": result.confusion.tolist()} | {n: getattr(result, n) for n in names}
