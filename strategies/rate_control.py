"""From a byte budget to the layer-wise ratios of the next round.

The share of each layer comes from a policy (the paper's ranking of neurons by mean |weight|, the
aggregated update, or even), the level from the budget, and what was measured on the wire corrects
the level for the next round.
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

Policy = Literal["weight", "update", "uniform"]
Flat = NDArray[np.float32]

STEADY = 0.5
"""Weight of the shares of earlier rounds under the ``update`` policy: one round's aggregate is
noisy, and a layer's turn comes when its residual has grown."""

LARGEST_CORRECTION = 1.25
"""Most that one round's measurement may change the level."""


class RateControl:
    """Keeps the uploads on budget and decides which layer gets how much of it.

    Parameters
    ----------
    spec : ModelSpec
        Layers of the model.
    scheme : Scheme
        How updates are cut and coded.
    policy : {"weight", "update", "uniform"}
        Where the layers' shares come from.
    budget_bytes : float
        What one reply may weigh on the wire, report included.
    top_share : float
        Global top in which a layer's share is counted. 0: half of all neurons under ``weight``,
        the density that the budget allows under ``update``.
    dense_share : float
        Share of the budget for the smallest layers, which are sent whole.
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
    ) -> None:
        self.spec = spec
        self.scheme = scheme
        self.policy = policy
        self.budget_bytes = budget_bytes
        self.dense_share = dense_share
        self.target_bytes = budget_bytes
        self.shares = uniform_shares(spec)
        self.ratios: NDArray[np.float64] = np.ones(len(spec.layers))
        self._followed = False
        self._fit()
        self.top_share = top_share or self._default_top()

    def begin(self, weights: Flat) -> None:
        """Set the first round's ratios from the initial model ``weights``, float32[size]."""
        if self.policy == "weight":
            self.shares = weight_shares(self.spec, weights, self.top_share)
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
            self.shares = weight_shares(self.spec, weights, self.top_share)
        elif self.policy == "update":
            fresh = update_shares(self.spec, self.scheme, update, self.top_share)
            steady = STEADY if self._followed else 0.0  # even shares are on another scale
            self.shares = steady * self.shares + (1.0 - steady) * fresh
        self._followed = True
        self._correct(measured_bytes)
        self._fit()

    def _default_top(self) -> float:
        """Half of all neurons for weights; for updates the density that the budget allows."""
        if self.policy == "weight":
            return 0.5
        sizes = np.array([layer.size for layer in self.spec.layers])
        return float(np.clip((self.ratios * sizes).sum() / sizes.sum(), 1e-6, 1.0))

    def _correct(self, measured_bytes: float) -> None:
        wanted = self.budget_bytes / measured_bytes
        step = float(np.clip(wanted, 1 / LARGEST_CORRECTION, LARGEST_CORRECTION))
        lowest, highest = 0.25 * self.budget_bytes, 4.0 * self.budget_bytes
        self.target_bytes = float(np.clip(self.target_bytes * step, lowest, highest))

    def _fit(self) -> None:
        if self.budget_bytes >= self.spec.dense_bytes:
            return
        self.ratios = fit_ratios(
            self.spec, self.scheme, self.shares, self.target_bytes, self.dense_share
        )
