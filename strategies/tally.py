"""Add up what sites report of a model's score; a site whose report is unusable is left out."""

from __future__ import annotations

from collections.abc import Mapping
from logging import WARNING

import numpy as np
from flwr.app import Message
from flwr.common import log
from numpy.typing import NDArray

from rsdgc import protocol
from strategies.checks import Refused, class_counts
from strategies.scores import Scores

COUNTS = (protocol.REFERENCE, protocol.PREDICTED, protocol.CORRECT)


def received_model(replies: Mapping[str, Message], num_classes: int) -> Scores | None:
    """Score the model that a round's sites received, from their counts per class.

    Parameters
    ----------
    replies : mapping of str to Message
        Replies to train messages, by site.
    num_classes : int
        K.

    Returns
    -------
    Scores or None
        None if no site scored a sample.
    """
    sums = {key: np.zeros(num_classes, dtype=np.int64) for key in COUNTS}
    loss = 0.0
    for reply in replies.values():
        try:
            found = {key: class_counts(reply, key, num_classes) for key in COUNTS}
        except Refused:  # counted and logged where the upload itself is refused
            continue
        for key, (counts, _) in found.items():
            sums[key] += counts
        counts, site_loss = found[protocol.REFERENCE]
        loss += site_loss * int(counts.sum())
    reference, predicted, correct = (sums[key] for key in COUNTS)
    total = int(reference.sum())
    return Scores.from_counts(reference, predicted, correct, loss / total) if total else None


def confusion(
    replies: Mapping[str, Message], num_classes: int
) -> tuple[NDArray[np.int64], Scores | None]:
    """Add up confusion matrices, int64[K, K] with the reference in rows, and score them."""
    total = np.zeros((num_classes, num_classes), dtype=np.int64)
    loss = 0.0
    for name, reply in sorted(replies.items()):
        try:
            counts, site_loss = class_counts(reply, protocol.CONFUSION, num_classes**2)
        except Refused as refusal:
            log(WARNING, "%s not scored: %s", name, refusal)
            continue
        total += counts.reshape(num_classes, num_classes)
        loss += site_loss * int(counts.sum())
    samples = int(total.sum())
    return total, Scores.from_confusion(total, loss / samples) if samples else None
