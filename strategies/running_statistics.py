"""Running statistics at the server: the mean over the sites, apart from the compressed model.

They travel whole in float16 with every task and every upload, and count in the budgets. Each
array is the mean over those sites that sent it, weighted as their uploads. Neither error feedback
nor momentum applies: a running statistic relaxes toward a target, and both would make it overshoot.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flwr.app import ArrayRecord

from rsdgc.arrays import Float32
from rsdgc.errors import WireError
from rsdgc.statistics_codec import decode_statistics, encode_statistics
from strategies.checkpoints import State
from strategies.transport import chunk_upload, join_upload
from strategies.validation import ReplyRefused

GROUP = "running statistics"
"""Group of their bytes in the ledger."""


class RunningStatistics:
    """The running statistics of the global model.

    Parameters
    ----------
    initial : mapping of str to float32 array
        Those of the model before training, which sites build themselves; empty for a model
        without any.
    """

    def __init__(self, initial: Mapping[str, Float32] | None = None) -> None:
        self.initial = dict(initial or {})
        #: the present ones, as all sites have them
        self.current = dict(self.initial)
        #: bytes of the arrays if all of them are sent
        self.largest_bytes = _largest_bytes(self.initial)
        self._packed = b""
        # One record for all sites of a round, as with patches: it is cut once.
        self._record: ArrayRecord | None = None
        self._received: list[tuple[dict[str, Float32], float]] = []

    def groups(self) -> dict[str, int]:
        """Return the bytes of the arrays in a message to a site, by group for the ledger."""
        return {GROUP: len(self._packed)} if self._packed else {}

    def record(self) -> ArrayRecord | None:
        """Return what brings a site's statistics up to date; None if they are the initial ones."""
        return self._record

    def read(self, record: ArrayRecord | None) -> tuple[dict[str, Float32], int]:
        """Return the arrays of a reply's record and their encoded bytes.

        Raises :class:`ReplyRefused` if they cannot be used.
        """
        if record is None:
            return {}, 0
        return read_statistics(record, self.current, "running statistics")

    def add(self, arrays: dict[str, Float32], weight: float) -> None:
        """Keep the arrays of an accepted reply until the round is complete."""
        self._received.append((arrays, weight))

    def aggregate(self) -> None:
        """Take the weighted mean of the arrays of this round."""
        self._replace(self.current | mean_arrays(self._received))
        self.discard()

    def discard(self) -> None:
        """Forget the arrays of this round."""
        self._received = []

    def state(self) -> State:
        """Return the present statistics."""
        return State(self.current)

    def restore(self, state: State) -> None:
        """Continue from what :meth:`state` returned."""
        self._replace({name: state.array(name, array) for name, array in self.initial.items()})

    def _replace(self, arrays: Mapping[str, Float32]) -> None:
        self._packed = encode_statistics(arrays, self.initial)
        self._record = chunk_upload(self._packed) if self._packed else None
        # As the sites decode them, so that the model that is delivered is the one they scored.
        decoded = decode_statistics(self._packed, self.initial) if self._packed else {}
        self.current = self.initial | decoded


def _largest_bytes(initial: Mapping[str, Float32]) -> int:
    changed = {name: array + np.float32(1) for name, array in initial.items()}
    return len(encode_statistics(changed, initial))


def read_statistics(
    record: ArrayRecord, reference: Mapping[str, Float32], what: str
) -> tuple[dict[str, Float32], int]:
    """Return the arrays of a reply and their encoded bytes.

    Raises :class:`ReplyRefused`, which says ``what`` they are, if they cannot be used.
    """
    try:
        packed = join_upload(record)
        return decode_statistics(packed, reference), len(packed)
    except WireError as error:
        raise ReplyRefused(f"not valid {what}", str(error)) from None


def mean_arrays(
    received: list[tuple[dict[str, Float32], float]],
) -> dict[str, Float32]:
    """Return the weighted mean of every array over those that have it."""
    sums: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = {}
    weights: dict[str, float] = {}
    for arrays, weight in received:
        for name, array in arrays.items():
            sums[name] = sums.get(name, 0.0) + weight * array.astype(np.float64)
            weights[name] = weights.get(name, 0.0) + weight
    return {name: (total / weights[name]).astype(np.float32) for name, total in sums.items()}
