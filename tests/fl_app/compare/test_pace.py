"""The time that is left of a comparison."""

from __future__ import annotations

import pytest

from fl_app.compare import pace
from fl_app.compare.pace import Pace


@pytest.mark.parametrize(
    ("seconds", "left"),
    [(2.0, ", 5 s left"), (240.0, ", 12 min left"), (3600.0, ", 3 h 0 min left")],
)
def test_the_estimate_is_that_of_the_runs_before(
    monkeypatch: pytest.MonkeyPatch, seconds: float, left: str
) -> None:
    clock = iter((0.0, seconds))
    monkeypatch.setattr(pace.time, "monotonic", lambda: next(clock))
    of_four = Pace(4)
    assert of_four.left_text() == ""
    with of_four.run():
        pass
    assert of_four.left_text() == left


def test_a_run_that_fails_does_not_count() -> None:
    of_two = Pace(2)
    with pytest.raises(ValueError, match="failed"), of_two.run():
        raise ValueError("failed")
    assert of_two.left_text() == ""
