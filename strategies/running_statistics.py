"""Running statistics at the server: the mean over the sites, apart from the compressed model.

They travel whole in float16 with every task and every upload, and count in the budgets. Each
array is the mean over those sites that sent it, weighted as their uploads. Neither error feedback
nor momentum applies: a running statistic relaxes toward a target, and both would make it overshoot.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from logging import WARNING

import numpy as np
from flwr.app import ArrayRecord
from flwr.common import log

from rsdgc.arrays import Float32, Float64
from rsdgc.errors import WireError
from rsdgc.statistics_codec import decode_statistics, encode_statistics
from strategies.checkpoints import State
from strategies.transport import chunk_upload, join_upload
from strategies.validation import ReplyRefused

GROUP = "running statistics"
"""Group of their bytes in the ledger."""

LARGEST_MOVE = 5.0
"""By how many times the median distance of the sites' arrays one site may move their mean."""

ReceivedArrays = tuple[str, Mapping[str, Float32], float]
"""A site's name, the arrays that it sent, and its weight."""


class RunningStatistics:
    """The running statistics of the global model.

    Parameters
    ----------
    initial : mapping of str to float32 array
        Those of the model before training, which sites build themselves; empty for a model
        without any.
    changing : collection of str, optional
        Names of those that training is known to change; all by default. Others are constants, which
        are never sent, and count in no budget. If one changes nevertheless, it is sent.
    remedy : str
        How else a user can do without them, for a warning that they take most of a message.
    """

    def __init__(
        self,
        initial: Mapping[str, Float32] | None = None,
        changing: Collection[str] | None = None,
        remedy: str = "",
    ) -> None:
        self.initial = dict(initial or {})
        #: the present ones, as all sites have them
        self.current = dict(self.initial)
        self.remedy = remedy
        self.changing = frozenset(self.initial if changing is None else changing)
        #: largest_bytes, expected_bytes: of the arrays if all of them are sent, and if those that
        #: training changes are
        self.largest_bytes = _encoded_bytes(self.initial, self.initial)
        self.expected_bytes = _encoded_bytes(self.initial, self.changing)
        self._packed = b""
        # One record for all sites of a round, as with patches: it is cut once.
        self._record: ArrayRecord | None = None
        self._received: list[ReceivedArrays] = []

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

    def add(self, site: str, arrays: Mapping[str, Float32], weight: float) -> None:
        """Keep the arrays of an accepted reply until the round is complete."""
        self._received.append((site, arrays, weight))

    def aggregate(self) -> None:
        """Take the weighted mean of the arrays of this round."""
        self._replace(self.current | mean_arrays(self._received, self.current))
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


def _encoded_bytes(initial: Mapping[str, Float32], sent: Collection[str]) -> int:
    arrays = {name: array + np.float32(name in sent) for name, array in initial.items()}
    return len(encode_statistics(arrays, initial))


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
    received: Sequence[ReceivedArrays], reference: Mapping[str, Float32]
) -> dict[str, Float32]:
    """Return the weighted mean of every array over the sites that have it.

    No site may move a mean far. What it moves an array by is the distance of its own from the
    ``reference``, times its share of the weight. If that is more than :data:`LARGEST_MOVE` times
    the median distance of the sites, its distance counts as less, and as the less the longer it is.
    Where honest sites differ for good, the reference is near their mean: a site moves it by no more
    than the median distance then, so nothing changes, not a bit.
    """
    means: dict[str, Float32] = {}
    moved: dict[str, float] = {}
    for name in {name: None for _, arrays, _ in received for name in arrays}:
        senders = [(site, arrays[name], w) for site, arrays, w in received if name in arrays]
        total_weight = sum(weight for _, _, weight in senders)
        start = reference[name].astype(np.float64)
        distances = [float(np.linalg.norm(np.ravel(a - start))) for _, a, _ in senders]
        positive = sorted(distance for distance in distances if distance)
        usual = positive[len(positive) // 2] if positive else 0.0
        total: float | Float64 = 0.0
        for (site, array, weight), distance in zip(senders, distances, strict=True):
            values = array.astype(np.float64)
            move = weight / total_weight * distance
            if move > LARGEST_MOVE * usual:
                ratio = move / (LARGEST_MOVE * usual)
                moved[site] = max(ratio, moved.get(site, 0.0))
                values = start + (values - start) / ratio**3
            total = total + weight * values
        means[name] = np.asarray(total / total_weight).astype(np.float32)
    for site, ratio in moved.items():
        text = (
            "the statistics of %s would move the model's by %.3g times the limit: they count less"
        )
        log(WARNING, text, site, ratio)
    return means
