"""Limits of what a site counts for in the mean: its number of training chips is its own claim.

Uploads are weighted by training chips, and nobody but the site can count them. A claim of 10¹²
chips would make the mean the site's own upload. So a count is limited in three ways, all of them
known before the first round: by what the site said when it joined, by the operator's own list, and
by a share of the federation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

MEDIAN_FACTOR = 20
"""By default a site counts for at most so many times the median of the other sites.

The sizes of archives that share a task differ by less, so the mean of an honest federation is not
changed. Of n + 1 sites, one can have at most a share of 20 / (20 + n) by its claim alone.
"""


@dataclass(frozen=True)
class WeightRules:
    """How counts of training chips are limited.

    ``share`` is the largest share of the federation's chips, after the limits, that a site may
    have: 1 for no such limit, None for the default, :data:`MEDIAN_FACTOR`. ``chips`` are the
    operator's limits by site.
    """

    share: float | None = None
    chips: Mapping[str, int] = field(default_factory=dict)

    def limits(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Return for each site the number of chips that it counts for at most.

        No limit is below 1, or above the site's own count. A share that is below that of equal
        sites makes all of them equal.
        """
        capped = {name: min(count, self.chips.get(name, count)) for name, count in counts.items()}
        if len(capped) < 2 or self.share == 1.0:
            return capped
        if self.share is None:
            medians = _medians_of_the_others(capped)
            return {
                name: min(count, max(1, MEDIAN_FACTOR * medians[name]))
                for name, count in capped.items()
            }
        largest = _largest_count(sorted(capped.values()), self.share)
        return {name: min(count, largest) for name, count in capped.items()}


def _medians_of_the_others(counts: Mapping[str, int]) -> dict[str, int]:
    """Return for each site the median of the other sites' counts; of two, the lower one."""
    names = sorted(counts, key=lambda name: counts[name])
    middle = (len(names) - 2) // 2
    return {
        name: counts[names[middle + 1 if position <= middle else middle]]
        for position, name in enumerate(names)
    }


def _largest_count(ascending: list[int], share: float) -> int:
    """Return the limit by which no site has more than this share of the limited counts' sum."""
    total = sum(ascending)
    # The largest counts are lowered to one limit c with c = share · (rest + number · c).
    for number in range(len(ascending)):
        largest = ascending[-1 - number]
        total -= largest
        below = ascending[-2 - number] if number + 1 < len(ascending) else 0
        left = 1.0 - share * (number + 1)
        if left <= 0.0 or not below:
            break
        limit = math.floor(share * total / left)
        if limit >= below:
            return min(largest, limit)
    return ascending[0]


def parse_chip_limits(text: str) -> dict[str, int]:
    """Return the limits by site of a text such as ``oslo=5000,porto=2000``.

    Raises
    ------
    ValueError
        The text is not of this form, or names a site twice.
    """
    limits: dict[str, int] = {}
    for part in text.split(",") if text.strip() else []:
        match = re.fullmatch(r"\s*(.+?)\s*=\s*(\d{1,12})\s*", part)
        if match is None or int(match[2]) < 1 or match[1] in limits:
            raise ValueError("write each site once, with a number from 1, as in oslo=5000,porto=50")
        limits[match[1]] = int(match[2])
    return limits
