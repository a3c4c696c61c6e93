"""Aggregation: the weighted mean of encoded updates, whatever order they arrive in."""

from __future__ import annotations

import math
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from rsdgc.codec.wire import decode
from rsdgc.errors import RunError, WireError
from rsdgc.update import SparseUpdate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rsdgc.arrays import Float32
    from rsdgc.spec import ModelSpec


class WeightedMean:
    """Weighted mean of updates, bit-identical for every order of arrival.

    Encoded uploads are kept; when the mean is asked for they are decoded side by side on several
    cores, and added up one at a time in the order of their keys. Memory: the encoded uploads, a
    decoded update a core, and one model. The sum is divided by the *total* weight, also where only
    some updates say anything (else a lone sender would own a coordinate).

    Parameters
    ----------
    spec : ModelSpec
        The model.
    threads : int
        Uploads decoded at a time; 0: as many as there are cores.
    """

    def __init__(self, spec: ModelSpec, threads: int = 0) -> None:
        self._spec = spec
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
            Who sent it; each key once.
        payload : bytes or SparseUpdate
            The upload. Bytes are decoded here to check them; one that is decoded already (for
            this model) is not checked again.
        weight : float
            Its weight, such as a number of examples; positive and finite.

        Raises
        ------
        WireError
            If the upload or the weight is not valid, or the key is there already. Nothing has
            changed then.
        """
        if key in self._uploads:
            msg = f"{key!r} sent a second update: only the first counts"
            raise WireError(msg)
        if not (math.isfinite(weight) and weight > 0):
            msg = f"the weight of {key!r} is {weight}: it must be positive and finite"
            raise WireError(msg)
        if not math.isfinite(self.total_weight + weight):
            msg = f"the weight {weight} of {key!r} makes the total infinite: lower it"
            raise WireError(msg)
        update = payload if isinstance(payload, SparseUpdate) else decode(payload, self._spec)
        if update.spec.signature != self._spec.signature:
            msg = f"the update of {key!r} is for another model: refuse it"
            raise WireError(msg)
        self._uploads[key] = (update.payload, float(weight))

    def mean(self) -> Float32:
        """Return the weighted mean of all accepted updates.

        Returns
        -------
        float32 [spec.size]
            ``Σ (weight / total weight) · update``, each quotient rounded to float32.

        Raises
        ------
        RunError
            If no update was accepted.
        """
        if not self._uploads:
            msg = "no update was accepted: there is no mean, keep the model as it is"
            raise RunError(msg)
        total = np.zeros(self._spec.size, dtype=np.float32)
        total_weight = self.total_weight
        for update, weight in self._decoded():
            update.add_to(total, weight / total_weight)
        return total

    def _decoded(self) -> Iterator[tuple[SparseUpdate, float]]:
        """Yield every update with its weight in the order of the keys, a few decoded ahead."""
        uploads = [self._uploads[key] for key in sorted(self._uploads)]
        with ThreadPoolExecutor(self._threads) as pool:
            ahead: deque[Future[SparseUpdate]] = deque()
            for number, (_, weight) in enumerate(uploads):
                for payload, _ in uploads[number + len(ahead) : number + self._threads]:
                    ahead.append(pool.submit(decode, payload, self._spec))
                yield ahead.popleft().result(), weight
