"""Momentum of the global model: the step of a round carries part of the steps before it.

With mean update ``s`` and momentum μ, ``u ← μ·u + s`` and ``w ← w + u`` (Hsu, Qi, Brown, "Measuring
the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019, FedAvgM).
What error feedback delays makes a compressed run trail a dense one by some rounds; momentum makes
up for them, and it costs no bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Flat = NDArray[np.float32]


class ServerMomentum:
    """The velocity of the global model.

    Parameters
    ----------
    momentum : float
        μ, 0 to below 1; 0 passes steps on as they are and keeps nothing.
    size : int
        Parameters of the model.

    Attributes
    ----------
    velocity : float32 [size], or [0] without momentum
        The last step taken.
    """

    def __init__(self, momentum: float, size: int) -> None:
        self.momentum = momentum
        self.velocity: Flat = np.zeros(size if momentum else 0, dtype=np.float32)

    def step(self, update: Flat) -> Flat:
        """Return the step of the global model for a round's mean update, both float32 [size].

        The step is this object's own memory when there is momentum: use it before the next.
        """
        if not self.momentum:
            return update
        self.velocity *= np.float32(self.momentum)
        self.velocity += update
        return self.velocity
