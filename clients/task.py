"""What the server asks of a site in one round, and what the site replies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Literal

import numpy as np

from rsdgc.errors import SettingError
from rsdgc.scheme import Scheme

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from clients.training import TrainSettings

METHODS = ("rs-dgc", "topk", "fedavg")


@dataclass(frozen=True)
class RunOrigin:
    """Which start of which run a message comes from.

    Parameters
    ----------
    run : int
        Number of the run, unique to it: states of other runs are never touched.
    attempt : int
        Number of this start of the server; a resumed run has the same `run` and another attempt.
    resumed_round : int
        The last round that the server knew when it started; 0 if it started anew.
    kept_rounds : tuple of int
        Rounds that the server could be resumed from: the site must be able to go back to them.
    """

    run: int
    attempt: int = 0
    resumed_round: int = 0
    kept_rounds: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class ReceivedModel:
    """How the published model reaches a site.

    ::

        ReceivedModel(9, print9)                                 the site has it already
        ReceivedModel(9, print9, patches=(from7to8, from8to9))   what it lacks
        ReceivedModel(9, print9, whole=model)                    all of it

    Parameters
    ----------
    version : int
        Of the published model that the site is to work from.
    fingerprint : bytes
        Its :func:`rsdgc.patches.fingerprint`; empty: not compared (FedAvg, which has one
        message a round and no replica).
    patches : tuple of bytes
        Encoded, successive, oldest first; more than the site lacks does no harm.
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
    origin : RunOrigin
        The run, and this start of its server.
    round : int
        From 1, growing.
    method : {"rs-dgc", "topk", "fedavg"}
        ``"fedavg"`` sends the whole model back and keeps no state; ``"rs-dgc"`` and ``"topk"``
        send a compressed update and differ in their `scheme` alone.
    train : TrainSettings
        Of this round, its learning rate included.
    seed : int
        Of the run; site and round are mixed in here.
    scheme, indicator, mean_weight, std_weight : Scheme, str, float, float
        How to compress (:mod:`rsdgc.scheme`, :mod:`rsdgc.indicators`).
    ratios : float64 [num_layers]
        The share of each layer's neighborhoods to send; unused by FedAvg.
    budget_bytes : float
        Size of the encoded update that dead-zone levels are fitted to.
    momentum_correction : float
        Momentum that the site keeps over rounds (:mod:`rsdgc.feedback`); 0 for none.
    accepted_round : int
        Last round whose upload the server accepted from this site; 0 for none.

    Raises
    ------
    SettingError
        The method is unknown, or the round not after the accepted one.
    """

    origin: RunOrigin
    round: int
    method: Literal["rs-dgc", "topk", "fedavg"]
    train: TrainSettings
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
        if self.method not in METHODS:
            raise SettingError(
                f"method {self.method!r} is unknown: choose one of {', '.join(METHODS)}"
            )
        if not 0 <= self.accepted_round < self.round:
            raise SettingError(
                f"round {self.round} cannot follow an upload accepted in round "
                f"{self.accepted_round}: number rounds from 1, each once"
            )

    def digest(self, delivery: ReceivedModel) -> str:
        """Return a text that tells this task, from this model, from every other.

        The model counts by its version and fingerprint, whichever way it came.
        """
        scalars = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "ratios"}
        text = repr((scalars, delivery.version, delivery.fingerprint))
        digest = hashlib.blake2b(text.encode(), digest_size=16)
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
        The trained model; None but for FedAvg.
    num_examples : int
        Chips in the training split: the update's weight in the mean.
    confusion : int64 [K, K]
        Of the model **as received**, on the test split; rows are the reference.
    loss : float
        Of the model as received, on the test split.
    train_loss : float
        Mean over the samples trained on.
    seconds : float
        Wall clock of the whole round at the site.
    version : int
        Of the published model that the site's replica now is, on its disk.
    """

    payload: bytes
    weights: NDArray[np.float32] | None
    num_examples: int
    confusion: NDArray[np.int64]
    loss: float
    train_loss: float
    seconds: float
    version: int = 0
