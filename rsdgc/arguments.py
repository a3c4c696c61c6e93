"""Checks of what a caller passes: a wrong value is refused by its name, in one line."""

from __future__ import annotations

import math
from numbers import Integral, Real

from rsdgc.errors import SettingError

BytesLike = bytes | bytearray | memoryview


def check_whole(name: str, value: object, least: int, largest: float = math.inf) -> None:
    """Raise SettingError unless a value is a whole number from ``least`` to ``largest``.

    NumPy's integers are whole numbers; 2.0 and True are not.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not least <= value <= largest:  # type: ignore[operator]
        kind = "" if whole else "a whole number, "
        raise SettingError(f"{name} is {value!r}: choose {kind}{_range(least, largest)}")


def check_number(name: str, value: object, least: float, largest: float = math.inf) -> None:
    """Raise SettingError unless a value is a finite number from ``least`` to ``largest``."""
    number = isinstance(value, Real) and not isinstance(value, bool)
    try:
        is_in = number and math.isfinite(value) and least <= value <= largest  # type: ignore
    except OverflowError:  # an integer beyond the range of float
        is_in = False
    if not is_in:
        kind = "" if number else "a number, "
        raise SettingError(f"{name} is {value!r}: choose {kind}{_range(least, largest)}")


def payload_bytes(payload: object, name: str = "the payload") -> bytes:
    """Return a payload that is passed as any object of bytes, such as a bytearray or a memoryview.

    Raises
    ------
    SettingError
        It is something else, such as a number or a tensor.
    """
    if isinstance(payload, bytes):
        return payload
    try:
        return bytes(memoryview(payload))  # type: ignore[arg-type]
    except TypeError:
        kind = type(payload).__name__
        raise SettingError(f"{name} is of type {kind}: pass what compress() returned") from None


def _range(least: float, largest: float) -> str:
    return f"{least:g} or more" if largest == math.inf else f"{least:g} to {largest:g}"
