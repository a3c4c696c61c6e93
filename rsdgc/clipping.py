"""Norm clipping: no site's update may be many times as long as those of the others.

An honest update is about as long as the others of its round and of the rounds before: the same
model, learning rate and budget of bytes made them. One that is scaled up is not, and owns the mean.
So the server compares the Euclidean norm n of each update with a reference, and lets it count by a
share s of its length::

    reference = min(median of the round's norms, GROWTH · median of the last rounds' medians)
    ρ = n / reference        s = 1 if ρ ≤ limit, else limit² / ρ³

Up to the limit nothing changes, not a bit. Beyond it the length that counts, s · ρ = (limit / ρ)²
in references, falls: the longer an update is, the less it moves the model. Plain clipping to the
limit would leave a hostile site the most that it could have. (Estimators with such an influence are
called redescending: Huber and Ronchetti, "Robust Statistics", section 4.8.)

The limit is the ``multiple`` c for most sites. Honest updates are longer than that for two reasons.
The limit allows for both:

- A site that trains on more chips makes more steps: its limit is as many times c as its weight is
  times the median weight.
- Under error feedback a site whose uploads were not accepted sends what they held, too: its c is
  greater by 1 for each of them, up to twice c.

The second median, over rounds, of norms as they counted, holds where most of one round's senders
are hostile, as may happen with partial participation; no single round moves it far. Updates of zero
length do not count in a median.

A mean of clipped updates is divided by the weight that counts, Σ w · s, as if a sender whose update
hardly counts had not come (:func:`counted_weight`). Otherwise it would shorten the others' step.

What it guarantees: while less than half of the weight of a round is clipped away, each update moves
the model by at most its share of that weight, twice at most, times its limit times the reference.
What it does not: an update of usual length may point anywhere, for instance backwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from rsdgc.errors import SettingError

DEFAULT_MULTIPLE = 3.0
"""c: honest sites came to 0.6 of their limit at most (docs/reliability.md)."""

GROWTH = 2.0
"""How many times the median of the rounds before the reference of a round may be."""

WINDOW = 20
"""Rounds whose medians are kept."""


class NormClip:
    """Norm clipping against the round's and the history's medians.

    Parameters
    ----------
    multiple : float
        c, at least 1; 0 turns clipping off.

    Attributes
    ----------
    medians : list of float
        Medians of the norms that counted in the last :data:`WINDOW` rounds, oldest first. They
        are all the state: a run that resumes sets them.

    Raises
    ------
    SettingError
        The multiple is neither 0 nor at least 1.
    """

    def __init__(self, multiple: float = DEFAULT_MULTIPLE) -> None:
        if not (multiple == 0 or 1 <= multiple < math.inf):
            raise SettingError(f"the multiple of norm clipping is {multiple}: choose 0 or from 1")
        self.multiple = multiple
        self.medians: list[float] = []

    def reference(self, norms: Mapping[str, float]) -> float:
        """Return the length that a round's updates are compared with; 0 if all norms are 0."""
        median = _median(norms.values())
        if self.medians:
            median = min(median, GROWTH * _median(self.medians))
        return median

    def shares(
        self,
        norms: Mapping[str, float],
        weights: Mapping[str, float] | None = None,
        missed: Mapping[str, int] | None = None,
    ) -> dict[str, float]:
        """Return which share of its length each update counts by, of those below 1 only.

        Nothing is remembered.

        Parameters
        ----------
        norms : mapping of str to float
            Euclidean norms of a round's updates by sender.
        weights : mapping of str to float, optional
            Weights of the same updates; equal by default.
        missed : mapping of str to int, optional
            How many uploads of a sender have not been accepted since the last one that was; 0 by
            default.
        """
        reference = self.reference(norms)
        if not self.multiple or not reference:
            return {}
        usual_weight = _median(weights.values()) if weights else 1.0
        shares = {}
        for sender, norm in sorted(norms.items()):
            limit = self.multiple + min((missed or {}).get(sender, 0), self.multiple)
            limit *= max(1.0, (weights or {}).get(sender, 1.0) / usual_weight)
            ratio = norm / reference
            if ratio > limit:
                shares[sender] = (limit / ratio) ** 2 / ratio
        return shares

    def record(self, norms: Mapping[str, float], shares: Mapping[str, float]) -> None:
        """Remember a round's norms, each times the share that it counted by (1 by default)."""
        if not self.multiple:
            return
        median = _median(norm * shares.get(sender, 1.0) for sender, norm in norms.items())
        if median:
            self.medians = [*self.medians, median][-WINDOW:]


def counted_weight(weights: Mapping[str, float], shares: Mapping[str, float]) -> float:
    """Return the weight by which a mean of clipped updates is divided: max(Σ w · s, Σ w / 2).

    At least half of all, so that no update counts more than twice for the others' being clipped.

    Parameters
    ----------
    weights : mapping of str to float
        Weights w of a round's updates by sender.
    shares : mapping of str to float
        Shares s that updates count by, of those below 1; others than the senders' are not used.
    """
    total = math.fsum(weights.values())
    counted = math.fsum(weight * shares.get(sender, 1.0) for sender, weight in weights.items())
    return max(counted, total / 2)


def _median(norms: Iterable[float]) -> float:
    """Return the upper median of those above 0; 0 if there are none."""
    # One of the norms itself, and not a mean of two: of an honest and a hostile norm, the mean
    # would be hostile. The upper one, so that of two sites the larger is not clipped.
    positive = sorted(norm for norm in norms if norm > 0)
    return positive[len(positive) // 2] if positive else 0.0
