"""Values that settings share: the names of a registry, ``auto``, numbers that may be ``auto``.

In ``pyproject.toml`` a default of ``auto`` is a text, so a number may come as a text, too, and is
turned into a number here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field

from rsdgc.errors import SettingError
from rsdgc.registry import Registry

AUTO: Final = "auto"
"""Value of a setting that the method decides, the optimizer or the model."""

MAX_ROUNDS = 1_000_000
"""Most rounds of a run, or of a part of it: a run keeps some numbers for each."""


@dataclass(frozen=True)
class NameIn:
    """Accepts the names of a registry, and ``auto`` if the method may decide.

    A path ``package.module:name`` is accepted as it is: it is imported where it is used.
    """

    #: returns the registry; called late, because :mod:`rsdgc` imports NumPy with its registries
    find: Callable[[], Registry[Any]]
    auto: bool = False

    @property
    def names(self) -> list[str]:
        """All names that are accepted, for the documentation."""
        return [AUTO] * self.auto + list(self.find())

    def __call__(self, value: str) -> str:
        """Return the value, or raise :class:`ValueError` if it is not accepted."""
        if ":" in value or (self.auto and value == AUTO):
            return value
        try:
            self.find()[value]
        except SettingError as error:  # names the nearest name; pydantic wants a ValueError
            raise ValueError(str(error)) from None
        return value


def _parse_momentum(value: object) -> float | str:
    """Return a momentum from 0 to below 1, or ``auto``.

    Run folders of earlier versions have -1 for ``auto``.
    """
    automatic = value in (-1, "-1", "-1.0")
    return _parse_auto(AUTO if automatic else value, "a number from 0 to below 1", below=1.0)


def _parse_rate(value: object) -> float | str:
    return _parse_auto(value, "a number above 0", above=0.0)


def _parse_share(value: object) -> float | str:
    return _parse_auto(value, "a number above 0, up to 1", above=0.0, below=math.nextafter(1, 2))


def _parse_from_zero(value: object) -> float | str:
    return _parse_auto(value, "a number from 0")


def _parse_count(value: object) -> int | str:
    expected = f"a whole number from 0 to {MAX_ROUNDS}"
    count = _parse_auto(value, expected, below=MAX_ROUNDS + 1)
    if count == AUTO:
        return AUTO
    if int(count) != count:
        raise ValueError(f"write {expected}, or 'auto'")
    return int(count)


def _parse_auto(
    value: object, expected: str, *, above: float = -math.ulp(0.0), below: float = math.inf
) -> float | str:
    """Return a number between the limits, by default one from 0, or ``auto``."""
    if value == AUTO:
        return AUTO
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not above < number < below:
        raise ValueError(f"write {expected}, or 'auto'")
    return number


UnitInterval = Annotated[float, Field(gt=0.0, le=1.0)]
CountOrAuto = Annotated[int | Literal["auto"], BeforeValidator(_parse_count)]
FromZeroOrAuto = Annotated[float | Literal["auto"], BeforeValidator(_parse_from_zero)]
MomentumOrAuto = Annotated[float | Literal["auto"], BeforeValidator(_parse_momentum)]
RateOrAuto = Annotated[float | Literal["auto"], BeforeValidator(_parse_rate)]
ShareOrAuto = Annotated[float | Literal["auto"], BeforeValidator(_parse_share)]
