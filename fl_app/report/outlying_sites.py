"""Sites that report figures far from those of the others.

A site may be mistaken about its accuracy or its loss, or lie; an unusual site may also just have
other data. So these sites are named for a person to look at, and nothing else is done.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from fl_app.runs.records import Run
from strategies.ledger import EVALUATE, TRAIN, SiteEntry

FIGURES = {"accuracy": 0.05, "train_loss": 0.25, "seconds": 0.5}
"""The figures compared, and the least spread of each: absolute, or relative to the median.

Sites that agree closely would otherwise make an outlier of whoever differs in the last digit.
"""
LARGEST_SCORE = 3.5
"""Largest modified z-score that is no outlier's: Iglewicz and Hoaglin, "How to Detect and Handle
Outliers", 1993."""
MIN_SITES = 5
"""Of fewer sites none can be said to be an outlier."""

_NORMAL = 1.4826  # standard deviations of a normal distribution in its median absolute deviation


@dataclass(frozen=True)
class OutlyingFigure:
    """A figure of one site that is far from the median over the sites."""

    site: str
    figure: str  #: a key of :data:`FIGURES`
    value: float | None  #: None if it was never finite while other sites' was
    median: float  #: over the sites


def outlying_figures(run: Run) -> list[OutlyingFigure]:
    """Return the figures that stand out, by site; each is the last that the site reported."""
    outliers = []
    for figure in FIGURES:
        reported = _last_reported(run, figure)
        values = [value for value in reported.values() if value is not None]
        if len(values) < MIN_SITES:
            continue
        center, spread = median(values), _spread(figure, values)
        outliers += [
            OutlyingFigure(site, figure, value, center)
            for site, value in reported.items()
            if value is None or abs(value - center) > LARGEST_SCORE * spread
        ]
    return sorted(outliers, key=lambda outlier: outlier.site)


def _last_reported(run: Run, figure: str) -> Mapping[str, float | None]:
    """Return a figure by site: the last one, None if all are missing from accepted replies."""
    reported: dict[str, float | None] = {}
    for entry in run.site_entries:
        if entry.accepted and entry.phase in _phases(figure):
            value = _figure(entry, figure)
            if value is not None:
                reported[entry.site] = value
            elif figure == "train_loss":  # the only one that every accepted reply has
                reported.setdefault(entry.site, None)
    return reported


def _phases(figure: str) -> tuple[str, ...]:
    return (TRAIN, EVALUATE) if figure == "accuracy" else (TRAIN,)


def _figure(entry: SiteEntry, figure: str) -> float | None:
    value: float | None = getattr(entry, figure)
    return value if value is not None and math.isfinite(value) else None


def _spread(figure: str, values: list[float]) -> float:
    """Return the spread of values as a standard deviation, robust, and not below the least."""
    center = median(values)
    least = FIGURES[figure] * (1.0 if figure == "accuracy" else abs(center))
    return max(_NORMAL * median(abs(value - center) for value in values), least)
