"""What the server asks of a site in one round, and what the site replies."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from clients.scores import Score, SiteScores
from rsdgc.errors import SettingError
from rsdgc.scheme import Scheme

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from clients.training import TrainSettings


@dataclass(frozen=True)
class RunOrigin:
    """The run, and the start of its server, that a message comes from."""

    run: int  #: unique number of the run
    #: number of this start of the server; a resumed run has the same `run` and another attempt
    attempt: int = 0
    resumed_round: int = 0  #: the last round that the server knew when it started; 0 for a new run
    #: rounds of the server's checkpoints: the site must be able to return to them
    kept_rounds: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class ReceivedModel:
    """What a message says of the published model: the version to work from, and how to reach it.

    ::

        ReceivedModel(9, fingerprint)                           the site has it already
        ReceivedModel(9, fingerprint, patches=(to_8, to_9))     the site is at version 7
        ReceivedModel(9, fingerprint, whole=model)              the site has none
    """

    version: int  #: version of the published model that the site is to work from
    #: its :func:`rsdgc.patches.fingerprint`; empty for FedAvg, which sends the whole model each
    #: round and keeps no replica
    fingerprint: bytes = b""
    #: successive encoded patches, oldest first; the site skips those that it has applied already
    patches: tuple[bytes, ...] = ()
    whole: NDArray[np.float32] | None = None  #: float32 [size]: the model itself
    #: encoded running statistics (:mod:`rsdgc.statistics_codec`); empty for those before training
    statistics: bytes = b""
    #: fingerprint of the channel transform's reference (:mod:`rsdgc.channel_transform`); empty
    #: without one
    reference_fingerprint: bytes = b""
    #: float32 [n]: the reference itself, for a site that has another
    reference: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class RoundTask:
    """What the server asks of a site in one round."""

    origin: RunOrigin
    round: int  #: number of the round, from 1, growing
    train: TrainSettings
    score: bool = True  #: whether to score the model as received
    #: whether to reply with a compressed update. Otherwise (FedAvg) the site replies with the
    #: whole trained model and keeps no state.
    compressed: bool = True
    seed: int = 0  #: seed of the run; the site mixes its name and the round in
    #: scheme, indicator, mean_weight, std_weight: how to compress (:mod:`rsdgc.scheme`,
    #: :mod:`rsdgc.indicators`)
    scheme: Scheme = field(default_factory=Scheme)
    indicator: str = "nsi"
    mean_weight: float = 0.8
    std_weight: float = 0.2
    #: float64 [num_layers]: share of each layer's neighborhoods to send; unused by FedAvg
    ratios: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    #: size of the encoded update that the step of dead-zone values is fitted to
    budget_bytes: float = 0.0
    #: momentum that the site keeps over rounds (:mod:`rsdgc.feedback`); 0 for none
    momentum_correction: float = 0.0
    #: longest step ahead of the received model, in lengths of the site's last change
    #: (:mod:`rsdgc.feedback`); 0 for none
    step_ahead: float = 0.0
    #: the last round whose upload the server accepted from this site; 0 for none
    accepted_round: int = 0
    #: share of that upload that is in the model; the site adds the rest to its residual again
    accepted_share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.accepted_round < self.round:
            raise SettingError(
                f"round {self.round} cannot follow an upload accepted in round "
                f"{self.accepted_round}: number rounds from 1, each once"
            )
        if not 0 <= self.accepted_share <= 1:
            raise SettingError(f"accepted-share is {self.accepted_share}: it must be from 0 to 1")

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


FIGURES = ("num_examples", "train_loss", "seconds")
"""Fields of a result that a site's state holds as they are."""
STEP_SECONDS = ("score_seconds", "train_seconds", "compress_seconds")
"""More of them, which states of earlier versions lack."""


@dataclass(frozen=True, eq=False)
class RoundResult:
    """What a site replies."""

    payload: bytes  #: the encoded update; empty for FedAvg
    weights: NDArray[np.float32] | None  #: float32 [size]: the trained model; only for FedAvg
    num_examples: int  #: chips in the training split: the update's weight in the mean
    scores: SiteScores | None  #: of the model **as received**; None if the task asks for none
    train_loss: float  #: mean cross-entropy over the samples trained on, in nats
    seconds: float  #: wall clock of the round's work at the site, and of that the steps
    score_seconds: float = 0.0
    train_seconds: float = 0.0
    #: with the residual, momentum correction and the channel transform
    compress_seconds: float = 0.0
    version: int = 0  #: version of the site's replica; 0 for FedAvg
    #: encoded running statistics after training, relative to those received; empty if unchanged
    statistics: bytes = b""

    def figures(self) -> dict[str, Any]:
        """Return all but payload, weights, version and statistics as JSON values."""
        scored = {} if self.scores is None else {"test": self.scores.test, "val": self.scores.val}
        scores = {name: score.figures() for name, score in scored.items() if score is not None}
        names = (*FIGURES, *STEP_SECONDS)
        return {"scores": scores} | {name: getattr(self, name) for name in names}

    @classmethod
    def from_figures(
        cls, figures: dict[str, Any], payload: bytes, version: int, statistics: bytes = b""
    ) -> RoundResult:
        """Return the result whose :meth:`figures` these are."""
        # States of earlier versions have the test split's score among the other figures.
        scored = figures.get("scores", {"test": figures})
        scores = {name: Score.from_figures(score) for name, score in scored.items()}
        return cls(
            payload,
            None,
            scores=SiteScores(**scores) if scores else None,
            version=version,
            statistics=statistics,
            **{name: figures[name] for name in FIGURES},
            **{name: figures.get(name, 0.0) for name in STEP_SECONDS},
        )
