"""From a byte budget to the next round's ratio of each layer and the size of its uploads.

A policy decides each layer's share: the paper's ranking of neurons by mean magnitude of weight,
the aggregated update, or equal shares. The budget decides the level of all ratios, and the bytes
measured on the wire correct that level for the next round. Within the target size, the step of
dead-zone levels is found where the update is (:mod:`rsdgc.codec.dead_zone`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from rsdgc import ModelSpec, Scheme, fit_ratios, uniform_shares, update_shares, weight_shares
from rsdgc.arrays import Float32, Float64
from rsdgc.errors import RunError
from rsdgc.ratios import least_bytes
from strategies.checkpoints import State

Policy = Literal["weight", "update", "uniform", "whole"]

# Weight of earlier rounds' shares under the ``update`` policy. One round's aggregate is noisy: a
# layer stands out in the round in which its residual has grown, and hardly in the next.
SHARE_MEMORY = 0.5

# Largest change of the level by one round's measurement. Sizes vary from round to round (a site
# that was away, a hard batch), and a full correction would make them oscillate.
MAX_CORRECTION = 1.25

# A reply that is so many times larger or smaller than the median of its round is not typical. Those
# of honest sites were within 6 % of it with every method and coding.
OUTLIER = 1.25

# The level never leaves this range: a series of odd measurements (one tiny model whose overhead
# is most of the message) must not drive uploads to nothing, or to the whole model.
MIN_LEVEL, MAX_LEVEL = 0.25, 4.0

# The first upload of a warm-up has a quarter of the dense model's bytes, as the first of the
# densities in Deep Gradient Compression (25 %).
WARM_UP_START = 4.0


def round_weights(
    budget_bytes: float, dense_bytes: int, rounds: int, warm_up_rounds: int
) -> Float64:
    """Return how a run's bytes are divided over its rounds, float64 [rounds], mean 1.

    A warm-up (Deep Gradient Compression, section 3.3) starts with the dense model's bytes over
    :data:`WARM_UP_START` and falls evenly on a logarithmic scale. The rounds after it share what
    is left, so that the run keeps to its budget.
    """
    weights = np.ones(rounds)
    warm = min(warm_up_rounds, rounds - 1)
    if warm > 0:
        start = max(1.0, dense_bytes / WARM_UP_START / budget_bytes)
        weights[:warm] = start ** (1.0 - np.arange(warm) / warm)
    return np.asarray(weights * (rounds / weights.sum()), dtype=np.float64)


def typical_bytes(replies: Sequence[tuple[int, float]]) -> float:
    """Return the size of a reply that the next round's ratios are corrected by.

    It is the mean over the sites, in which a reply that is far from the median counts as the
    median (:data:`OUTLIER`): no site can change the budget of the others by the size of its own
    reply.

    Parameters
    ----------
    replies : sequence of (int, float)
        Bytes of each site's reply, and the share of an upload that they are (above 0).
    """
    median = float(np.median([num_bytes / share for num_bytes, share in replies]))
    total_bytes = total_share = 0.0
    for num_bytes, share in replies:
        typical = median / OUTLIER <= num_bytes / share <= median * OUTLIER
        total_bytes += num_bytes if typical else median * share
        total_share += share
    return total_bytes / total_share


class RateControl:
    """Keeps uploads on budget and divides the budget over the layers.

    Parameters
    ----------
    spec, scheme
        Layers of the model, and how updates are cut and coded.
    policy : {"weight", "update", "uniform", "whole"}
        Source of the layers' shares. "whole" sends every layer whole, whatever the budget.
    budget_bytes : float
        Size of one reply on the wire, report included.
    top_share : float
        Global top in which a layer's share is counted. 0: half of all neurons under ``weight``,
        the density that the budget allows under ``update``.
    dense_share : float
        Share of the budget for the smallest layers, which are sent whole.
    rounds, warm_up_rounds : int
        See :func:`round_weights`; the budget is then the mean over the run's rounds. With
        ``rounds=0`` all rounds have the same budget.
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
        self.top_share = top_share
        self.dense_share = dense_share
        self._warm_up(warm_up_rounds, max(1, rounds))
        self._round = 0
        self._level = 1.0
        #: size of an encoded upload of the next round such that the reply keeps to its budget
        self.target_bytes = self.reply_bytes
        self.shares = uniform_shares(spec)
        self._shares_measured = False
        self._least_bytes = 0.0 if policy == "whole" else least_bytes(spec, scheme)
        #: float64 [num_layers]: ratios of the next round
        self.ratios: Float64 = np.ones(len(spec.layers))
        self._fit()

    @property
    def reply_bytes(self) -> float:
        """Budget of a reply of the next round, upload and report together."""
        last = self._round_weights.size - 1
        return self.budget_bytes * float(self._round_weights[min(self._round, last)])

    @property
    def expected_bytes(self) -> float:
        """Size of the next round's replies, also where the budget does not decide it."""
        if self.policy == "whole" or self.reply_bytes >= self.spec.dense_bytes:
            return max(self.reply_bytes, self.spec.dense_bytes)
        return max(self.reply_bytes, self.target_bytes)

    def begin(self, weights: Float32, overhead_bytes: int = 0) -> None:
        """Set the first round's ratios.

        ``weights``, float32 [spec.size], is the model before training; ``overhead_bytes`` are those
        of a reply without its upload.
        """
        self._level = max(MIN_LEVEL, 1.0 - overhead_bytes / self.reply_bytes)
        if self.policy == "weight":
            self.shares = weight_shares(self.spec, weights, self._top())
        self._fit()

    def adjust(self, weights: Float32, update: Float32, measured_bytes: float) -> None:
        """Set the next round's ratios.

        ``weights`` and ``update``, float32 [spec.size], are the new global model and the aggregated
        update that led to it; ``measured_bytes`` is the mean size of this round's replies.
        """
        if self.policy == "weight":
            self.shares = weight_shares(self.spec, weights, self._top())
        elif self.policy == "update":
            measured = update_shares(self.spec, self.scheme, update, self._top())
            # The equal shares of the first round are on another scale and must not be mixed in.
            memory = SHARE_MEMORY if self._shares_measured else 0.0
            self.shares = memory * self.shares + (1.0 - memory) * measured
        self._shares_measured = True
        correction = np.clip(self.reply_bytes / measured_bytes, 1 / MAX_CORRECTION, MAX_CORRECTION)
        self._level = float(np.clip(self._level * correction, MIN_LEVEL, MAX_LEVEL))
        self._round += 1
        self._fit()

    def state(self) -> State:
        """Return what has changed since the object was created from the settings."""
        values = {
            "round": self._round,
            "warm_up_rounds": self._warm_up_rounds,
            "level": self._level,
            "target_bytes": self.target_bytes,
            "shares_measured": self._shares_measured,
        }
        return State({"shares": self.shares, "ratios": self.ratios}, values)

    def restore(self, state: State) -> None:
        """Continue from what :meth:`state` returned."""
        shares, ratios = state.array("shares", self.shares), state.array("ratios", self.ratios)
        if (np.minimum(shares, ratios) < 0).any() or (ratios > 1).any():
            raise RunError("its shares and ratios are not from 0 to 1")
        self.shares, self.ratios = shares, ratios
        if "warm_up_rounds" in state.values:  # checkpoints of earlier versions have none
            # A method's own warm-up is in epochs, so a new one would depend on the present sites.
            self._warm_up(state.integer("warm_up_rounds"), self._round_weights.size)
        self._round = state.integer("round")
        self._level = state.number("level")
        self.target_bytes = state.number("target_bytes")
        self._shares_measured = state.flag("shares_measured")

    def _warm_up(self, warm_up_rounds: int, rounds: int) -> None:
        self._warm_up_rounds = warm_up_rounds
        self._round_weights = round_weights(
            self.budget_bytes, self.spec.dense_bytes, rounds, warm_up_rounds
        )

    def _top(self) -> float:
        """Return the global top: half of all neurons for weights, else the budget's density."""
        if self.top_share:
            return self.top_share
        if self.policy == "weight":
            return 0.5
        even = self._fit_shares(uniform_shares(self.spec))
        sizes = np.array([layer.size for layer in self.spec.layers])
        return float(np.clip((even * sizes).sum() / sizes.sum(), 1e-6, 1.0))

    def _fit(self) -> None:
        self.target_bytes = self._level * self.reply_bytes
        if self.reply_bytes >= self._least_bytes:
            # The rest of a reply (running statistics, the report) may take most of the budget: the
            # replies are then larger than the budget, instead of the run coming to an end.
            self.target_bytes = max(self.target_bytes, self._least_bytes)
        if self.policy == "whole" or self.reply_bytes >= self.spec.dense_bytes:
            self.ratios = np.ones(len(self.spec.layers))
        else:
            self.ratios = self._fit_shares(self.shares)

    def _fit_shares(self, shares: Float64) -> Float64:
        return fit_ratios(self.spec, self.scheme, shares, self.target_bytes, self.dense_share)
