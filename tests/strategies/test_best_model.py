"""The best round's model, by validation scores alone."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st

from strategies.best_model import BestModel
from strategies.checkpoints import Checkpoint, Checkpoints
from strategies.metrics import Scores

VALS = st.none() | st.tuples(st.sampled_from([0.25, 0.5, 0.75]), st.sampled_from([0.1, 0.2, None]))


def scores(balanced_accuracy: float, loss: float | None) -> Scores:
    return Scores(0.9, balanced_accuracy, 0.1, loss, 10)


def numbered(number: int) -> ArrayRecord:
    return ArrayRecord({"b": Array(np.full(3, number, "f4")), "a": Array(np.ones((), "f4"))})


@given(rounds=st.lists(VALS, max_size=12))
def test_the_highest_balanced_accuracy_wins_then_the_lowest_loss_then_the_first(
    rounds: list[tuple[float, float | None] | None],
) -> None:
    best, made = BestModel(), []

    for number, val in enumerate(rounds):

        def model(number: int = number) -> ArrayRecord:
            made.append(number)
            return numbered(number)

        kept = best.offer(number, None if val is None else scores(*val), model)
        assert kept == (made[-1:] == [number])
    scored = [
        (-val[0], math.inf if val[1] is None else val[1], number)
        for number, val in enumerate(rounds)
        if val is not None
    ]
    if not scored:
        assert best.round is None
        assert best.arrays is None
        return
    accuracy, loss, number = min(scored)
    assert (best.round, best.balanced_accuracy) == (number, -accuracy)
    assert best.loss == (None if loss == math.inf else loss)
    assert best.arrays == numbered(number)


@pytest.mark.parametrize("number", [None, 3])
def test_a_checkpoint_keeps_it(tmp_path: Path, number: int | None) -> None:
    best, again = BestModel(), BestModel()
    if number is not None:
        best.offer(number, scores(0.5, 1.0), lambda: numbered(number))
    checkpoints = Checkpoints(tmp_path, every=1, keep=1)
    checkpoints.save(Checkpoint(4, best.state()))
    again.restore(next(checkpoints.newest()).state)
    assert (again.round, again.arrays) == (number, best.arrays)
    assert not again.offer(5, scores(0.5, 1.0), lambda: numbered(5)) or number is None
