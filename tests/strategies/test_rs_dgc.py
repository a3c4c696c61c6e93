"""The step of a round carries part of the steps before it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.rs_dgc import ServerMomentum

UPDATES = st.lists(st.lists(st.floats(-1, 1, width=32), min_size=3, max_size=3), min_size=1)


@given(updates=UPDATES, momentum=st.floats(0.01, 0.99))
def test_a_step_is_the_weighted_sum_of_all_updates_so_far(
    updates: list[list[float]], momentum: float
) -> None:
    steps = ServerMomentum(momentum, 3)
    for update in updates:
        found = steps.step(np.array(update, np.float32))
    ages = np.arange(len(updates))[::-1, None]
    expected = (np.array(updates) * momentum**ages).sum(axis=0)
    assert found == pytest.approx(expected, abs=1e-4)


def test_the_update_itself_is_left_as_it_is() -> None:
    steps = ServerMomentum(0.5, 2)
    steps.step(np.ones(2, np.float32))
    update = np.ones(2, np.float32)
    assert steps.step(update).tolist() == [1.5, 1.5]
    assert update.tolist() == [1.0, 1.0]


def test_without_momentum_a_step_is_the_update_and_nothing_is_kept() -> None:
    steps = ServerMomentum(0.0, 2)
    update = np.ones(2, np.float32)
    assert steps.step(update) is update
    assert steps.velocity.size == 0
