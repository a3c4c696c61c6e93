"""Numbers as people read them: units, and no more digits than mean something."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeGuard

#: Stands where a number was not recorded.
MISSING = "\u2013"
TIMES = "\u00d7"
# A number and its unit stay on one line.
_SPACE = "\u00a0"
# Of larger numbers, digits after the point say nothing.
_HUGE = 1e6
_THOUSANDS = ("k", "M", "G")
_BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _scale(value: float, units: Sequence[str]) -> tuple[float, str]:
    """Choose the unit, each a thousand times the one before, in which a value is below 1000."""
    for unit in units[:-1]:
        if round(value) < 1000:
            return value, unit
        value /= 1000
    return value, units[-1]


def bytes_text(count: float | None) -> str:
    """Write bytes in decimal units with three digits: ``12.3 MB``."""
    if not _known(count):
        return MISSING
    value, unit = _scale(count, _BYTE_UNITS)
    digits = 0 if unit == "B" else max(0, 2 - math.floor(math.log10(max(value, 1))))
    return f"{value:.{digits}f}{_SPACE}{unit}"


def bytes_tick(count: float) -> str:
    """Write bytes for an axis, without digits that are zero: ``20 MB``."""
    number, _, unit = bytes_text(count).partition(_SPACE)
    number = number.rstrip("0").rstrip(".") if "." in number else number
    return "0" if count == 0 else f"{number}{_SPACE}{unit}"


def times_text(factor: float | None) -> str:
    """Write a factor: ``1.9×``, ``97×``, ``1,230×``."""
    if not _known(factor):
        return MISSING
    digits = 1 if round(factor, 1) < 10 else 0
    return f"{factor:,.{digits}f}{TIMES}"


def percent_text(share: float | None) -> str:
    """Write a share of 1 as a percentage: ``87.3 %``."""
    return f"{100 * share:.1f}{_SPACE}%" if _known(share) else MISSING


def decimal_text(value: float | None) -> str:
    """Write a plain number with three digits after the point: ``0.853``; ``2.4e+15`` if huge."""
    if not _known(value):
        return MISSING
    return f"{value:.3f}" if abs(value) < _HUGE else f"{value:.3g}"


def count_text(count: float | None) -> str:
    """Write a count, short from ten thousand up: ``9,412``, ``1.24 M``."""
    if not _known(count):
        return MISSING
    if round(count) < 10_000:
        return f"{count:,.0f}"
    value, unit = _scale(count / 1000, _THOUSANDS)
    return f"{value:.3g}{_SPACE}{unit}"


def seconds_text(seconds: float | None) -> str:
    """Write a duration: ``4.2 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if not _known(seconds):
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min {rest}{_SPACE}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}{_SPACE}h {minutes}{_SPACE}min"


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Write a count with its noun: ``1 round``, ``12 rounds``."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"
