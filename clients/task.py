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


@dataclass(frozen=True, eq=False)
class RoundTask:
    """What the server asks of a site in one round.

    Parameters
    ----------
    run : int
        Number of the run, unique to it: states of other runs are never touched.
    round : int
        From 1, growing.
    base : int
        Version of the received model.
    method : {"rs-dgc", "topk", "fedavg"}
        ``"fedavg"`` sends the whole model back and keeps no state; ``"rs-dgc"`` and ``"topk"``
        send a compressed update and differ in their `scheme` alone.
    train : TrainSettings
        Of this round, its learning rate included.
    seed : int
        Of the run; site and round are mixed in here.
    scheme, indicator, mean_weight, std_weight : Scheme, str, float, float
        How to compress (:mod:`rsdgc.scheme`, :mod:`rsdgc.indicator`).
    ratios : float64 [num_layers]
        The share of each layer's neighborhoods to send; unused by FedAvg.
    budget_bytes : float
        Size of the encoded update that dead-zone levels are fitted to.
    accepted_round : int
        Last round whose upload the server accepted from this site; 0 for none.

    Raises
    ------
    SettingError
        The method is unknown, or the round not after the accepted one.
    """

    run: int
    round: int
    base: int
    method: Literal["rs-dgc", "topk", "fedavg"]
    train: TrainSettings
    seed: int = 0
    scheme: Scheme = field(default_factory=Scheme)
    indicator: str = "nsi"
    mean_weight: float = 0.8
    std_weight: float = 0.2
    ratios: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    budget_bytes: float = 0.0
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

    def digest(self, weights: NDArray[np.float32]) -> str:
        """Return a text that tells this task, with these weights, from every other."""
        scalars = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "ratios"}
        digest = hashlib.blake2b(repr(scalars).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.ratios, np.float64).data)
        digest.update(np.ascontiguousarray(weights, np.float32).data)
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
    """

    payload: bytes
    weights: NDArray[np.float32] | None
    num_examples: int
    confusion: NDArray[np.int64]
    loss: float
    train_loss: float
    seconds: float
