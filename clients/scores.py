"""How well a model classifies the splits that it is not trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Score:
    """How well a model classifies a split."""

    #: int64 [K, K]: rows are the reference classes, columns the predicted ones
    confusion: NDArray[np.int64]
    loss: float  #: mean cross-entropy, in nats; 0 without samples

    @property
    def samples(self) -> int:
        """Chips scored."""
        return int(self.confusion.sum())

    def figures(self) -> dict[str, Any]:
        """Return the score as JSON values."""
        return {"confusion": self.confusion.tolist(), "loss": self.loss}

    @classmethod
    def from_figures(cls, figures: dict[str, Any]) -> Score:
        """Return the score whose :meth:`figures` these are."""
        return cls(np.array(figures["confusion"], np.int64), figures["loss"])


@dataclass(frozen=True, eq=False)
class SiteScores:
    """Scores of one model at a site; ``val`` is None where the site has no validation split."""

    test: Score
    val: Score | None = None
