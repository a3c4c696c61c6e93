"""Durations in words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsdgc.time_text import human_seconds, time_left


def test_durations_are_read_by_people() -> None:
    assert [human_seconds(s) for s in (42, 185, 7800)] == ["42 s", "3 min 5 s", "2 h 10 min"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0.0, "0 s left"), (0.2, "5 s left"), (42.0, "40 s left"), (57.4, "55 s left")),
        *((58.0, "1 min left"), (89.0, "1 min left"), (3569.0, "59 min left")),
        *((3571.0, "1 h 0 min left"), (7812.0, "2 h 10 min left"), (360_000.0, "100 h 0 min left")),
    ],
)
def test_what_is_left_is_no_finer_than_it_is_known(seconds: float, text: str) -> None:
    assert time_left(seconds) == text


@given(st.floats(0, 1e7), st.floats(0, 1e7))
def test_more_is_never_written_as_less(one: float, other: float) -> None:
    def seconds(text: str) -> int:
        units = {"h": 3600, "min": 60, "s": 1}
        return sum(int(n) * units[unit] for n, unit in re.findall(r"(\d+) (h|min|s)\b", text))

    low, high = sorted((one, other))
    assert seconds(time_left(low)) <= seconds(time_left(high))
    assert seconds(time_left(low)) == pytest.approx(low, abs=max(5, 31))
