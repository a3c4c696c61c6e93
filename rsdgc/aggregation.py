"""Aggregation: what the server makes of the sites' updates of one round.

An aggregation rule is a subclass of :class:`Aggregator` with one method::

    @AGGREGATORS.register("median")
    class CoordinateMedian(Aggregator):
        def aggregate(self) -> Float32:
            return np.median([update.to_dense() for update, _ in self.updates()], axis=0)

The base class checks and keeps the uploads, so a rule sees valid updates only, always in the same
order.

A site that lacks a modality does not have the layers of its branch. Its update of them is absent,
which is not the same as zero. So :meth:`Aggregator.combine` applies the rule to one group of layers
after the other, those that the same sites have, with the updates of these sites alone. A rule need
not know of it.

A rule may leave updates out, as :meth:`Aggregator.screen` names them, and a server may let one
count by a share only (:mod:`rsdgc.clipping`). The sender is told the share, because what did not
count returns to its residual. :mod:`rsdgc.robust_rules` has rules against hostile senders.
"""

from __future__ import annotations

import copy
import math
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

import numpy as np

from rsdgc.arrays import Bools, Float32
from rsdgc.clipping import counted_weight
from rsdgc.codec.wire import decode
from rsdgc.errors import RunError, WireError
from rsdgc.registry import Registry
from rsdgc.spec import ModelSpec
from rsdgc.update import SparseUpdate


class Aggregator(ABC):
    """Base of aggregation rules: collects the encoded updates of one round.

    Uploads are kept encoded, so memory grows with the bytes that arrived and not with the number
    of sites times the model. As many as take the memory of one model are also kept decoded; the
    others are decoded again where they are needed. A rule implements :meth:`aggregate`, and reads
    the uploads with :meth:`updates`.

    Parameters
    ----------
    spec : ModelSpec
        The model.
    threads : int
        Uploads decoded at the same time; 0 for one per core.
    """

    def __init__(self, spec: ModelSpec, threads: int = 0) -> None:
        self.spec = spec
        self._threads = threads or os.cpu_count() or 1
        self._last_step: Callable[[], Float32] | None = None
        # Encoded, and as they are only if they were not sent in the wire format.
        self._uploads: dict[str, tuple[bytes | SparseUpdate, float]] = {}
        self._decoded: dict[str, SparseUpdate] = {}
        self._room_bytes = spec.dense_bytes  # for more decoded ones
        self._norms: dict[str, float] = {}
        # Only of senders whose update does not count whole.
        self._shares: dict[str, float] = {}
        # Only of senders that lack some.
        self._present: dict[str, Bools] = {}

    def __len__(self) -> int:
        """Return the number of updates accepted so far."""
        return len(self._uploads)

    @property
    def total_weight(self) -> float:
        """Sum of the weights accepted so far."""
        return math.fsum(weight for _, weight in self._uploads.values())

    @property
    def counted_weight(self) -> float:
        """Sum of the weights, each by the share that its update counts by; half of all at least."""
        return counted_weight(self.weights, self._shares)

    def add(
        self,
        key: str,
        payload: bytes | SparseUpdate,
        weight: float,
        present: Bools | None = None,
    ) -> None:
        """Accept one update.

        Parameters
        ----------
        key : str
            The sender. Each sender counts once.
        payload : bytes or SparseUpdate
            The upload. Bytes are decoded to check them; an update that is already decoded is not
            checked again.
        weight : float
            Its weight, such as a number of examples; positive and finite.
        present : bool [num_layers], optional
            Which layers the sender has (:meth:`ModelSpec.present_layers`); all by default. What
            the update says of the others is not used.

        Raises
        ------
        WireError
            The upload or the weight is not valid, or the sender has already sent one. Nothing
            changes in that case.
        """
        if key in self._uploads:
            raise WireError(f"{key!r} sent a second update: only the first counts")
        if not (math.isfinite(weight) and weight > 0):
            raise WireError(f"the weight of {key!r} is {weight}: it must be positive and finite")
        # Finite weights may have an infinite sum, which would make every quotient zero.
        if not math.isfinite(self.total_weight + weight):
            raise WireError(f"the weight {weight} of {key!r} makes the total infinite: lower it")
        update = payload if isinstance(payload, SparseUpdate) else decode(payload, self.spec)
        if update.spec.signature != self.spec.signature:
            raise WireError(f"the update of {key!r} is for another model")
        self._uploads[key] = (update.payload or update, float(weight))
        # The decoded update is dropped without room for it: it may be as large as the model.
        if update.payload and update.memory_bytes <= self._room_bytes:
            self._room_bytes -= update.memory_bytes
            self._decoded[key] = update
        if present is not None and not present.all():
            self._present[key] = present
            update = update.restricted(present)
        self._norms[key] = update.norm()

    @property
    def last_step(self) -> Float32 | None:
        """The model's last step, for rules that compare; None if the server has no momentum.

        float32 [spec.size], in the basis of the updates. It may be computed at each call.
        """
        return None if self._last_step is None else self._last_step()

    def compare_with(self, last_step: Callable[[], Float32]) -> None:
        """Set what returns :attr:`last_step`; it is called only by rules that read that."""
        self._last_step = last_step

    @property
    def norms(self) -> Mapping[str, float]:
        """Euclidean norm of each update, of the layers that its sender has."""
        return self._norms

    @property
    def accepted_shares(self) -> Mapping[str, float]:
        """Share that an update counts by, of those below 1 only; 0 for one that is left out."""
        return self._shares

    @property
    def weights(self) -> Mapping[str, float]:
        """Weight of each update."""
        return {key: weight for key, (_, weight) in self._uploads.items()}

    def clip(self, shares: Mapping[str, float]) -> None:
        """Let updates count by a share of their length, as :mod:`rsdgc.clipping` finds it."""
        self._shares |= shares

    def combine(self) -> Float32:
        """Apply the rule to each layer over the senders that have it.

        Updates that the rule's :meth:`screen` names are left out, as if they had not come.

        Returns
        -------
        float32 [spec.size]
            The change of the published model; a new array, zero in layers that no sender has.

        Raises
        ------
        RunError
            No update was accepted.
        """
        rejected = self.screen() if self._uploads else []
        if not rejected:
            return self.combine_layers()
        self._shares |= dict.fromkeys(rejected, 0.0)
        return self._part([key for key in self._uploads if key not in rejected]).combine_layers()

    def combine_layers(self) -> Float32:
        """Do what :meth:`combine` does, with all updates."""
        if not self._present:
            return self.aggregate()
        keys = sorted(self._uploads)
        everything = np.ones(len(self.spec.layers), np.bool_)
        present = np.array([self._present.get(key, everything) for key in keys])
        change = np.zeros(self.spec.size, np.float32)
        targets = self.spec.views(change)
        groups: dict[tuple[str, ...], list[int]] = {}
        for index, column in enumerate(present.T):
            senders = tuple(key for key, has in zip(keys, column, strict=True) if has)
            groups.setdefault(senders, []).append(index)
        for senders, layers in groups.items():
            if senders:
                sources = self.spec.views(self._part(senders, complete=True).aggregate())
                for index in layers:
                    targets[index][:] = sources[index]
        return change

    def _part(self, keys: Collection[str], *, complete: bool = False) -> Self:
        """Return a copy with the updates of some senders; ``complete`` ones have all layers."""
        part = copy.copy(self)
        lacking = () if complete else self._present.keys() & set(keys)
        present = {key: self._present[key] for key in lacking}
        vars(part).update(_uploads={key: self._uploads[key] for key in keys}, _present=present)
        return part

    def screen(self) -> Collection[str]:
        """Return the senders whose updates are left out of this round; none by default.

        Never all of them. What error feedback has of an update that is left out stays at the site.
        """
        return ()

    @abstractmethod
    def aggregate(self) -> Float32:
        """Combine all accepted updates; all senders have all layers.

        Returns
        -------
        float32 [spec.size]
            The change of the published model; a new array.

        Raises
        ------
        RunError
            No update was accepted.
        """

    def updates(self) -> Iterator[tuple[SparseUpdate, float]]:
        """Yield every accepted update and its weight; :class:`RunError` if there is none.

        They come in the order of the keys, so results do not depend on the order of arrival.
        """
        if not self._uploads:
            raise RunError("no update was accepted: keep the model as it is")
        keys = sorted(self._uploads)
        with ThreadPoolExecutor(self._threads) as pool:
            # At most one decoded update per thread is ahead of the caller, which bounds the memory.
            ahead: deque[Future[SparseUpdate]] = deque()
            for number, key in enumerate(keys):
                for later in keys[number + len(ahead) : number + self._threads]:
                    ahead.append(pool.submit(self._read, later))
                yield ahead.popleft().result(), self._uploads[key][1]

    def _read(self, key: str) -> SparseUpdate:
        """Return an update, by the share that it counts by."""
        kept = self._decoded.get(key, self._uploads[key][0])
        update = kept if isinstance(kept, SparseUpdate) else decode(kept, self.spec)
        if key in self._present:
            update = update.restricted(self._present[key])
        share = self._shares.get(key, 1.0)
        return update if share == 1.0 else update.scaled(share)


AGGREGATORS: Registry[type[Aggregator]] = Registry("aggregation rule")


@AGGREGATORS.register("mean")
class WeightedMean(Aggregator):
    """Weighted mean, bit-identical for every order of arrival.

    The sum is divided by the weight of all sites that have a layer, including those that sent
    nothing of a coordinate. Otherwise a site that alone sends a coordinate would decide it. Only a
    site whose update is clipped counts less there, too (:attr:`Aggregator.counted_weight`).
    """

    def aggregate(self) -> Float32:
        """Return ``Σ (weight / counted weight) · update``, each quotient rounded to float32.

        See :meth:`Aggregator.aggregate`.
        """
        total = np.zeros(self.spec.size, dtype=np.float32)
        total_weight = self.counted_weight
        for update, weight in self.updates():
            update.add_to(total, weight / total_weight)
        return total
