"""What the server asks of a site in one round, and what the site replies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from rsdgc.errors import SettingError
from rsdgc.scheme import Scheme

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from clients.training import TrainSettings


@dataclass(frozen=True)
class RunOrigin:
    """The run, and the start of its server, that a message comes from.

    Parameters
    ----------
    run : int
        Unique number of the run.
    attempt : int
        Number of this start of the server; a resumed run has the same `run` and another attempt.
    resumed_round : int
        The last round that the server knew when it started; 0 for a new run.
    kept_rounds : tuple of int
        Rounds of the server's checkpoints: the site must be able to return to them.
    """

    run: int
    attempt: int = 0
    resumed_round: int = 0
    kept_rounds: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class ReceivedModel:
    """What a message says of the published model: the version to work from, and how to reach it.

    ::

        ReceivedModel(9, fingerprint)                           the site has it already
        ReceivedModel(9, fingerprint, patches=(to_8, to_9))     the site is at version 7
        ReceivedModel(9, fingerprint, whole=model)              the site has none

    Parameters
    ----------
    version : int
        Version of the published model that the site is to work from.
    fingerprint : bytes
        Its :func:`rsdgc.patches.fingerprint`; empty for FedAvg, which sends the whole model each
        round and keeps no replica.
    patches : tuple of bytes
        Successive encoded patches, oldest first; the site skips those that it has applied already.
    whole : float32 [size] or None
        The model itself.
    """

    version: int
    fingerprint: bytes = b""
    patches: tuple[bytes, ...] = ()
    whole: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class RoundTask:
    """What the server asks of a site in one round.

    Parameters
    ----------
    round : int
        Number of the round, from 1, growing.
    compressed : bool
        Whether to reply with a compressed update. Otherwise (FedAvg) the site replies with the
        whole trained model and keeps no state.
    seed : int
        Seed of the run; the site mixes its name and the round in.
    scheme, indicator, mean_weight, std_weight : Scheme, str, float, float
        How to compress (:mod:`rsdgc.scheme`, :mod:`rsdgc.indicators`).
    ratios : float64 [num_layers]
        Share of each layer's neighborhoods to send; unused by FedAvg.
    budget_bytes : float
        Size of the encoded update that the step of dead-zone values is fitted to.
    momentum_correction : float
        Momentum that the site keeps over rounds (:mod:`rsdgc.feedback`); 0 for none.
    accepted_round : int
        The last round whose upload the server accepted from this site; 0 for none.
    """

    origin: RunOrigin
    round: int
    train: TrainSettings
    compressed: bool = True
    seed: int = 0
    scheme: Scheme = field(default_factory=Scheme)
    indicator: str = "nsi"
    mean_weight: float = 0.8
    std_weight: float = 0.2
    ratios: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    budget_bytes: float = 0.0
    momentum_correction: float = 0.0
    accepted_round: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.accepted_round < self.round:
            raise SettingError(
                f"round {self.round} cannot follow an upload accepted in round "
                f"{self.accepted_round}: number rounds from 1, each once"
            )

    def digest(self, received: ReceivedModel) -> str:
        """Return a digest that tells this task, from this model, from every other.

        The model counts by version and fingerprint: if the same task is delivered twice, the
        second may bring patches where the first brought the whole model.
        """
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "ratios"}
        text = repr((values, received.version, received.fingerprint))
        digest = hashlib.blake2b(text.encode(), digest_size=16)
        # repr abbreviates long arrays, so the ratios count by their bytes.
        digest.update(np.ascontiguousarray(self.ratios, np.float64).data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class RoundResult:
    """What a site replies.

    Parameters
    ----------
    payload : bytes
        The encoded update; empty for FedAvg.
    weights : float32 [size] or None
        The trained model; only for FedAvg.
    num_examples : int
        Chips in the training split: the update's weight in the mean.
    confusion : int64 [K, K]
        Confusion matrix of the model **as received**, on the test split; rows are the reference.
    loss : float
        Mean cross-entropy of the model as received, on the test split, in nats.
    train_loss : float
        Mean cross-entropy over the samples trained on, in nats.
    seconds : float
        Wall clock of the round's work at the site.
    version : int
        Version of the site's replica; 0 for FedAvg.
    """

    payload: bytes
    weights: NDArray[np.float32] | None
    num_examples: int
    confusion: NDArray[np.int64]
    loss: float
    train_loss: float
    seconds: float
    version: int = 0

    def figures(self) -> dict[str, Any]:
        """Return all but payload, weights and version as JSON values."""
        names = ("num_examples", "loss", "train_loss", "seconds")
        return {"confusion": self.confusion.tolist()} | {n: getattr(self, n) for n in names}

    @classmethod
    def from_figures(cls, figures: dict[str, Any], payload: bytes, version: int) -> RoundResult:
        """Return the result whose :meth:`figures` these are."""
        confusion = np.array(figures["confusion"], np.int64)
        return cls(payload, None, version=version, **(figures | {"confusion": confusion}))
