"""Tests of a difference between two methods that were run on the same data with the same seeds.

Two questions are apart. Do two *models* differ, beyond what other test chips would change?
:func:`mcnemar` and :func:`difference_interval` answer from the chips that both have scored, one
seed at a time. Do two *methods* differ, beyond what other seeds would change? :func:`sign_flip`
answers from one difference a seed. All are exact or closed, and need few seeds or chips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

from fl_app.report.intervals import Interval, Z

MOST_SEEDS = 16
"""Of more differences, the 65,536 sign patterns of the first ones are tried."""


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p of McNemar's test.

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12, 1947. Of the chips that one model alone gets right, each is as
    likely of either model if they are equally good: a binomial test with one half.

    Parameters
    ----------
    only_first, only_second : int
        Chips that the first model alone gets right, and that the second alone does.
    """
    total, few = only_first + only_second, min(only_first, only_second)
    if not total:
        return 1.0
    tail = sum(math.comb(total, count) for count in range(few + 1))
    # whole numbers: two to the power of thousands of chips is no float
    return min(1.0, 2 * tail / (1 << total))


def difference_interval(only_first: int, only_second: int, count: int) -> Interval:
    """Return the 95 % interval of the first model's accuracy less the second's.

    D. G. Bonett and R. M. Price, "Adjusted Wald confidence interval for a difference of binomial
    proportions based on paired data", Journal of Educational and Behavioral Statistics 37, 2012.
    """
    first, second = (only_first + 1) / (count + 2), (only_second + 1) / (count + 2)
    difference = first - second
    half = Z * math.sqrt(max(0.0, first + second - difference**2) / (count + 2))
    return Interval(max(-1.0, difference - half), min(1.0, difference + half))


def sign_flip(differences: Sequence[float]) -> float:
    """Return the exact two-sided p of a permutation test over seeds.

    R. A. Fisher, "The Design of Experiments", 1935: if two methods are equally good, each seed's
    difference is as likely with the other sign. The p is the share of sign patterns whose mean is
    at least as far from 0. With n seeds it cannot be below 2 / 2ⁿ: .25 with three, .06 with five.
    """
    kept = list(differences)[:MOST_SEEDS]
    if not kept:
        return 1.0
    observed = abs(sum(kept)) * (1 - 1e-9)
    patterns = product((1, -1), repeat=len(kept))
    sums = [abs(sum(s * d for s, d in zip(signs, kept, strict=True))) for signs in patterns]
    return sum(total >= observed for total in sums) / len(sums)


def holm(values: Sequence[float]) -> list[float]:
    """Return p values adjusted for being several, in their order.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6, 1979.
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    adjusted, largest = [0.0] * len(values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[i]))
        adjusted[i] = largest
    return adjusted
