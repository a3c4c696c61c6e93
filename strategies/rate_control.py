"""From a byte budget to the next round's layer-wise ratios and the size of its uploads.

The share of each layer comes from a policy (the paper's ranking of neurons by mean |weight|, the
aggregated update, or even), the level from the budget, and what was measured on the wire corrects
the level for the next round. Within the size, the step of dead-zone levels is found where the
update is (:mod:`rsdgc.codec.dead_zone`).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rsdgc import (
    ModelSpec,
    Scheme,
    fit_ratios,
    uniform_shares,
    update_shares,
    weight_shares,
)

Policy = Literal["weight", "update", "uniform", "whole"]
Flat = NDArray[np.float32]

SHARE_MEMORY = 0.5
"""Weight of the shares of earlier rounds under the ``update`` policy: one round's aggregate is
noisy, and a layer's turn comes when its residual has grown."""

MAX_CORRECTION = 1.25
"""Most that one round's measurement may change the level."""

WARM_UP_START = 4.0
"""A warm-up begins with the dense model over this."""


def round_weights(
    budget_bytes: float, dense_bytes: int, rounds: int, warm_up_rounds: int
) -> NDArray[np.float64]:
    """Return what each round may take of a run's bytes, float64 [rounds], mean 1.

    A warm-up (as in Deep Gradient Compression) begins with :data:`WARM_UP_START` and falls evenly
    on a logarithmic scale; the rounds after it share what it leaves, so that the run keeps to its
    budget.
    """
    weights = np.ones(rounds)
    warm = min(warm_up_rounds, rounds - 1)
    if warm > 0:
        start = max(1.0, dense_bytes / WARM_UP_START / budget_bytes)
        weights[:warm] = start ** (1.0 - np.arange(warm) / warm)
    return np.asarray(weights * (rounds / weights.sum()), dtype=np.float64)


class RateControl:
    """Keeps the uploads on budget and decides which layer gets how much of it.

    Parameters
    ----------
    spec : ModelSpec
        Layers of the model.
    scheme : Scheme
        How updates are cut and coded.
    policy : {"weight", "update", "uniform", "whole"}
        Where the layers' shares come from; "whole" sends every layer whole, whatever it takes.
    budget_bytes : float
        What one reply may weigh on the wire, report included.
    top_share : float
        Global top in which a layer's share is counted. 0: half of all neurons under ``weight``,
        the density that the budget allows under ``update``.
    dense_share : float
        Share of the budget for the smallest layers, which are sent whole.
    rounds, warm_up_rounds : int
        See :func:`round_weights`; the budget is then the mean of the run's rounds. 0: the same
        for every round.

    Attributes
    ----------
    ratios : float64 [num_layers]
        Of the next round.
    target_bytes : float
        What an encoded upload of the next round is to take, so that the reply keeps to its budget.
    """

    def __init__(
        self,
        spec: ModelSpec,
        scheme: Scheme,
        policy: Policy,
        budget_bytes: float,
        *,
        top_share: float = 0.0,
        dense_share: float = 0.1,
        rounds: int = 0,
        warm_up_rounds: int = 0,
    ) -> None:
        self.spec = spec
        self.scheme = scheme
        self.policy = policy
        self.budget_bytes = budget_bytes
        self.dense_share = dense_share
        self._weights = np.ones(1)
        if rounds > 0:
            self._weights = round_weights(budget_bytes, spec.dense_bytes, rounds, warm_up_rounds)
        self._round = 0
        self._level = 1.0
        self.target_bytes = self.wanted_bytes
        self.top_share = top_share
        self.shares = uniform_shares(spec)
        self.ratios: NDArray[np.float64] = np.ones(len(spec.layers))
        self._followed = False
        self._fit()

    @property
    def wanted_bytes(self) -> float:
        """What a reply of the next round may weigh on the wire."""
        return self.budget_bytes * float(self._weights[min(self._round, self._weights.size - 1)])

    def begin(self, weights: Flat, overhead_bytes: int = 0) -> None:
        """Set the first round's ratios.

        Parameters
        ----------
        weights : ndarray of float32, shape (size,)
            The model before training.
        overhead_bytes : int
            What a reply weighs beside its upload.
        """
        self._level = max(0.25, 1.0 - overhead_bytes / self.wanted_bytes)
        self.target_bytes = self._level * self.wanted_bytes
        if self.policy == "weight":
            self.shares = weight_shares(self.spec, weights, self._top())
        self._fit()

    def follow(self, weights: Flat, update: Flat, measured_bytes: float) -> None:
        """Set the next round's ratios.

        Parameters
        ----------
        weights, update : ndarray of float32, shape (size,)
            The new global model, and the step that led to it.
        measured_bytes : float
            Mean size of this round's accepted replies.
        """
        if self.policy == "weight":
            self.shares = weight_shares(self.spec, weights, self._top())
        elif self.policy == "update":
            fresh = update_shares(self.spec, self.scheme, update, self._top())
            steady = SHARE_MEMORY if self._followed else 0.0  # even shares are on another scale
            self.shares = steady * self.shares + (1.0 - steady) * fresh
        self._followed = True
        correction = self.wanted_bytes / measured_bytes
        correction = np.clip(correction, 1 / MAX_CORRECTION, MAX_CORRECTION)
        self._level = float(np.clip(self._level * correction, 0.25, 4.0))
        self._round += 1
        self.target_bytes = self._level * self.wanted_bytes
        self._fit()

    def _top(self) -> float:
        """Return the global top: half of all neurons for weights, else the budget's density."""
        if self.top_share:
            return self.top_share
        if self.policy == "weight":
            return 0.5
        even = fit_ratios(
            self.spec, self.scheme, uniform_shares(self.spec), self.target_bytes, self.dense_share
        )
        sizes = np.array([layer.size for layer in self.spec.layers])
        return float(np.clip((even * sizes).sum() / sizes.sum(), 1e-6, 1.0))

    def _fit(self) -> None:
        if self.policy == "whole" or self.wanted_bytes >= self.spec.dense_bytes:
            self.ratios = np.ones(len(self.spec.layers))
            return
        self.ratios = fit_ratios(
            self.spec, self.scheme, self.shares, self.target_bytes, self.dense_share
        )
