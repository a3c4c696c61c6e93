"""Durations in words: those that were measured, and the time that is left."""

from __future__ import annotations


def human_seconds(seconds: float) -> str:
    """Return a duration in words: '42 s', '3 min 5 s', '2 h 10 min'."""
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s"
    return f"{total // 3600} h {total % 3600 // 60} min"


def time_left(seconds: float) -> str:
    """Return an estimate of what is left, no finer than it is known.

    >>> [time_left(seconds) for seconds in (0, 3, 42, 200, 7812)]
    ['0 s left', '5 s left', '40 s left', '3 min left', '2 h 10 min left']
    """
    if seconds < 57.5:
        steps = max(1, round(seconds / 5)) if seconds > 0 else 0
        return f"{5 * steps} s left"
    minutes = max(1, round(seconds / 60))
    return f"{human_seconds(60 * minutes) if minutes >= 60 else f'{minutes} min'} left"
