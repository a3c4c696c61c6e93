"""The model of the best round, chosen by the sites' validation splits.

The test splits never take part in the choice. The model is the published one, as the sites
received and scored it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from flwr.app import Array, ArrayRecord

from rsdgc.errors import RunError
from strategies.checkpoints import State
from strategies.metrics import Scores
from strategies.model_record import array_values


class BestModel:
    """Keeps the model with the best validation score.

    The highest balanced accuracy wins; of equal ones the lowest loss; then the earliest round.
    """

    def __init__(self) -> None:
        self.round: int | None = None  #: after which the model was published; None without any
        self.balanced_accuracy = 0.0  #: on the validation splits
        #: mean cross-entropy on the validation splits, in nats; None if no site's was finite
        self.loss: float | None = None
        self.arrays: ArrayRecord | None = None  #: its layers and running statistics

    def offer(self, number: int, val: Scores | None, model: Callable[[], ArrayRecord]) -> bool:
        """Keep the model after a round if it is better; return whether it is.

        ``val`` are its scores on the validation splits, None if it has none. ``model`` returns it,
        and is called only if it is kept.
        """
        if val is None:
            return False
        score = _rank(val.balanced_accuracy, val.loss)
        if self.round is not None and score <= _rank(self.balanced_accuracy, self.loss):
            return False
        self.round, self.balanced_accuracy, self.loss = number, val.balanced_accuracy, val.loss
        self.arrays = model()
        return True

    def state(self) -> State:
        """Return the model and its scores."""
        arrays = {} if self.arrays is None else {n: array_values(a) for n, a in self.arrays.items()}
        values: dict[str, Any] = {
            "round": self.round,
            "balanced_accuracy": self.balanced_accuracy,
            "loss": self.loss,
            "layers": list(arrays),
        }
        return State(arrays, values)

    def restore(self, state: State) -> None:
        """Continue from what :meth:`state` returned."""
        layers = state.texts("layers")
        number = None if state.values.get("round") is None else state.integer("round")
        missing = set(layers) - set(state.arrays)
        if missing:
            raise RunError(f"it has no array {min(missing)} of the best round's model")
        arrays = {name: state.array(name, state.arrays[name]) for name in layers}
        self.balanced_accuracy = state.number("balanced_accuracy")
        self.loss = None if state.values.get("loss") is None else state.number("loss")
        self.round = number
        self.arrays = None
        if number is not None:
            self.arrays = ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _rank(balanced_accuracy: float, loss: float | None) -> tuple[float, float]:
    """Return what is larger for a better model; one without a loss wins no tie."""
    return balanced_accuracy, -math.inf if loss is None else -loss
