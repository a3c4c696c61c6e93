"""Aggregation rules that hold against some hostile senders, for sparse updates.

An update says nothing of most coordinates: it is zero there. Rules made for dense updates fail on
that. The median of a coordinate of which fewer than half of the senders say something is zero, and
so is a mean from which the extremes of *all* senders are trimmed: the model stops. Distances
between updates (Krum) say little where updates are nearly orthogonal ("Sparsification Under
Siege", arXiv 2505.01454). The rules below look only at the coordinates that senders speak of, and
divide by the weight of *all* senders, so that a sender that speaks alone does not own a coordinate.

Norm clipping (:mod:`rsdgc.clipping`) comes before them, and bounds what they let through.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar

import numpy as np

from rsdgc.aggregation import AGGREGATORS, Aggregator, WeightedMean
from rsdgc.arrays import Float32, Float64, add_scaled, chunks, l2_norm


@AGGREGATORS.register("trimmed-mean")
class TrimmedMean(Aggregator):
    """Coordinate-wise trimmed mean over the senders of each coordinate (after Yin et al. 2018).

    Of n updates, f = ⌊:attr:`trim_share` · n⌋ may be hostile. Of the m values that were sent of a
    coordinate, the b = min(f, ⌊(m - 1) / 2⌋) lowest and highest are dropped. What remains counts
    for what was dropped, and for no one else::

        change = (weight of the m senders / weight of all) · weighted mean of the m - 2b values

    If at most b of the m senders are hostile, the result lies between values of honest senders,
    times a factor up to 1. Where hostile senders speak alone, it is theirs, bounded by their weight
    and by clipping. Values that are dropped are lost: the sites are not told. A sender whose update
    is clipped has a weight that is smaller by the share that counts, but for a mean of the values
    kept at least half of theirs.

    Takes the memory of one layer of all senders, and of all decoded updates.
    """

    trim_share: ClassVar[float] = 0.2
    """Share of hostile senders that the rule is made for, below a half."""

    def aggregate(self) -> Float32:
        """Return the trimmed mean; see :meth:`rsdgc.Aggregator.aggregate`."""
        received = list(self.updates())
        weights = np.array([weight for _, weight in received]) / self.counted_weight
        shares = np.array([self.accepted_shares.get(key, 1.0) for key in sorted(self.weights)])
        trimmed = int(self.trim_share * len(received))
        change = np.zeros(self.spec.size, np.float32)
        for index, view in enumerate(self.spec.views(change)):
            values = np.zeros((len(received), view.size), np.float32)
            for row, (update, _) in zip(values, received, strict=True):
                update.layers[index].add_to(row)
            for part in chunks(view.size):
                view[part] = _trimmed_mean(values[:, part], weights, shares, trimmed)
        return change


def _trimmed_mean(values: Float32, weights: Float64, shares: Float64, trimmed: int) -> Float64:
    """Return the trimmed means of the columns, float64 [size], times the weight of their senders.

    ``values`` are float32 [n, size], zero where nothing was sent, and ``weights`` float64 [n] add
    up to 1 with the ``shares``, float64 [n], that the values count by already.
    """
    sent = values != 0
    senders = sent.sum(axis=0)
    dropped = np.minimum(trimmed, np.maximum(senders - 1, 0) // 2)
    # Stable, so that equal values are dropped in the order of the senders.
    order = np.argsort(np.where(sent, values, np.inf), axis=0, kind="stable")
    rank = np.arange(len(values))[:, None]
    kept = (rank >= dropped) & (rank < senders - dropped)
    kept_weights = np.where(kept, weights[order], 0.0)
    total = (kept_weights * np.take_along_axis(values, order, axis=0)).sum(axis=0)
    counted = weights * shares
    sent_weight = np.where(sent, counted[:, None], 0.0).sum(axis=0)
    kept_counted = np.where(kept, counted[order], 0.0).sum(axis=0)
    divisor = np.maximum(kept_counted, kept_weights.sum(axis=0) / 2)
    # Without a sender the sum is zero, too.
    return np.asarray(total * sent_weight / np.maximum(divisor, 1e-300))


@AGGREGATORS.register("sign-agreement")
class SignAgreement(WeightedMean):
    """Weighted mean of the updates whose signs agree with those of the others.

    Each update is compared with the sum r of the others, each scaled to length 1 so that none
    counts for its length, and of the model's last step if the server has momentum. Over the
    coordinates of which both the update u and r say something,

        agreement = mean of sign(u) · sign(r)

    An update whose agreement is below :attr:`least_agreement` is left out of the round, at most as
    many as leave more than half. Of an update that is left out nothing is lost: with error feedback
    the site adds it to its residual again.

    It finds updates that point backwards while honest senders are in the majority. It does not find
    those that agree in most signs, such as those of wrong labels.

    Takes the memory of three models.
    """

    least_agreement: ClassVar[float] = 0.0
    """Below it, an update points against the others."""

    least_senders: ClassVar[int] = 3
    """With fewer no update can be left out: more than half would not remain."""

    def screen(self) -> Collection[str]:
        """Return the senders whose updates point against the others; see the class."""
        scores = self.agreements()
        most = (len(scores) - 1) // 2
        against = sorted(
            (score, key) for key, score in scores.items() if score < self.least_agreement
        )
        return [key for _, key in against[:most]]

    def agreements(self) -> dict[str, float]:
        """Return each sender's agreement with the others, -1 to 1; 0 if they say nothing of it."""
        keys = sorted(self._uploads)
        total = np.zeros(self.spec.size, np.float32)
        last_step = self.last_step
        if last_step is not None:
            add_scaled(total, last_step, _inverse(l2_norm(last_step)))
        scales = [_inverse(self.norms[key]) for key in keys]
        for scale, (update, _) in zip(scales, self.updates(), strict=True):
            update.add_to(total, scale)
        scores: dict[str, float] = {}
        for key, scale, (update, _) in zip(keys, scales, self.updates(), strict=True):
            own = update.scaled(scale).to_dense()
            agree = np.sign(own) * np.sign(total - own)
            scores[key] = float(agree.sum(dtype=np.float64)) / max(1, int(np.count_nonzero(agree)))
        return scores


def _inverse(norm: float) -> float:
    """Return what brings a vector of this norm to length 1; 0 if it is too short for that."""
    return 1 / norm if norm > 1e-30 else 0.0
