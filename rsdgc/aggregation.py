"""Aggregation: what the server makes of the sites' updates of one round.

An aggregation rule is a subclass of :class:`Aggregator` with one method::

    @AGGREGATORS.register("median")
    class CoordinateMedian(Aggregator):
        def aggregate(self) -> Float32:
            return np.median([update.to_dense() for update, _ in self.updates()], axis=0)

The base class checks and keeps the uploads and decodes them again, so a rule sees valid updates
only, always in the same order.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from rsdgc.arrays import Float32
from rsdgc.codec.wire import decode
from rsdgc.errors import RunError, WireError
from rsdgc.registry import Registry
from rsdgc.spec import ModelSpec
from rsdgc.update import SparseUpdate


class Aggregator(ABC):
    """Base of aggregation rules: collects the encoded updates of one round.

    Uploads are kept encoded, so memory grows with the bytes that arrived and not with the number
    of sites times the model. A rule implements :meth:`aggregate`; one that needs no second look
    at the uploads may override :meth:`add` as well.

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
        self._uploads: dict[str, tuple[bytes, float]] = {}

    def __len__(self) -> int:
        """Return the number of updates accepted so far."""
        return len(self._uploads)

    @property
    def total_weight(self) -> float:
        """Sum of the weights accepted so far."""
        return math.fsum(weight for _, weight in self._uploads.values())

    def add(self, key: str, payload: bytes | SparseUpdate, weight: float) -> None:
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
        # The decoded update is dropped: it may be as large as the model.
        self._uploads[key] = (update.payload, float(weight))

    @abstractmethod
    def aggregate(self) -> Float32:
        """Combine all accepted updates.

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
        uploads = [self._uploads[key] for key in sorted(self._uploads)]
        with ThreadPoolExecutor(self._threads) as pool:
            # At most one decoded update per thread is ahead of the caller, which bounds the memory.
            ahead: deque[Future[SparseUpdate]] = deque()
            for number, (_, weight) in enumerate(uploads):
                for payload, _ in uploads[number + len(ahead) : number + self._threads]:
                    ahead.append(pool.submit(decode, payload, self.spec))
                yield ahead.popleft().result(), weight


AGGREGATORS: Registry[type[Aggregator]] = Registry("aggregation rule")


@AGGREGATORS.register("mean")
class WeightedMean(Aggregator):
    """Weighted mean, bit-identical for every order of arrival.

    The sum is divided by the *total* weight, including the sites that sent nothing of a
    coordinate. Otherwise a site that alone sends a coordinate would decide it.
    """

    def aggregate(self) -> Float32:
        """Return ``Σ (weight / total weight) · update``, each quotient rounded to float32.

        See :meth:`Aggregator.aggregate`.
        """
        total = np.zeros(self.spec.size, dtype=np.float32)
        total_weight = self.total_weight
        for update, weight in self.updates():
            update.add_to(total, weight / total_weight)
        return total
