"""Scores of a model from the counts that sites report, which reveal no image.

The counts of all sites are added up. A site whose report cannot be used is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from logging import WARNING

import numpy as np
from flwr.app import Message
from flwr.common import log

from rsdgc.arrays import Int64
from strategies import messages
from strategies.sites import SiteManager
from strategies.validation import ReplyRefused, check_counts, check_limit, read_class_counts


@dataclass(frozen=True)
class Scores:
    """Scores of one model."""

    accuracy: float  #: share of samples that are classified correctly (overall accuracy, OA)
    balanced_accuracy: float  #: mean recall over the classes that occur (average accuracy, AA)
    kappa: float  #: Cohen's kappa, the agreement beyond chance: (po − pe) / (1 − pe)
    loss: float  #: mean cross-entropy over ``num_examples`` samples
    num_examples: int

    @classmethod
    def from_counts(cls, reference: Int64, predicted: Int64, correct: Int64, loss: float) -> Scores:
        """Compute the scores from counts per class, int64 [K], and the mean loss.

        They are the samples of each class, the samples that the model assigned to it, and the
        samples of it that the model assigned correctly.
        """
        total = int(reference.sum())
        if total == 0:
            return cls(float("nan"), float("nan"), float("nan"), float("nan"), 0)
        present = reference > 0
        observed = float(correct.sum()) / total
        chance = float((reference / total) @ (predicted / total))
        kappa = (observed - chance) / (1.0 - chance) if chance < 1.0 else 0.0
        recall = correct[present] / reference[present]
        return cls(observed, float(recall.mean()), kappa, loss, total)

    @classmethod
    def from_confusion(cls, confusion: Int64, loss: float) -> Scores:
        """Compute the scores from a confusion matrix, int64 [K, K] with the reference in rows."""
        return cls.from_counts(
            confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal().copy(), loss
        )


def score_received_model(replies: Mapping[str, Message], sites: SiteManager) -> Scores | None:
    """Score the model that sites received on their test splits, by the counts of their replies.

    Returns None if no site scored any sample.
    """
    limits = {name: sites.sites[name].num_test for name in replies}
    keys, loss_key = messages.CLASS_COUNTS, messages.SCORE_LOSS
    return _score(replies, limits, len(sites.data.classes), keys, loss_key)


def validate_received_model(replies: Mapping[str, Message], sites: SiteManager) -> Scores | None:
    """Score the model that sites received on their validation splits; None without any."""
    limits = {name: sites.sites[name].num_val for name in replies}
    keys, loss_key = messages.VAL_CLASS_COUNTS, messages.VAL_LOSS
    return _score(replies, limits, len(sites.data.classes), keys, loss_key)


def _score(
    replies: Mapping[str, Message],
    limits: Mapping[str, int],
    num_classes: int,
    keys: Sequence[str],
    loss_key: str,
) -> Scores | None:
    """Add up the counts ``keys`` of each reply and its loss; ``limits`` are the sites' chips."""
    sums = np.zeros((len(keys), num_classes), dtype=np.int64)
    loss = 0.0
    for name, reply in replies.items():
        if reply.has_error() or keys[0] not in reply.content.metric_records.get(
            messages.METRICS, ()
        ):
            continue  # not scored
        try:
            report = [read_class_counts(reply, key, num_classes, loss_key) for key in keys]
            counts = np.array([count for count, _ in report])
            check_counts(counts, limits[name])
        except ReplyRefused as refusal:
            log(WARNING, "%s not scored: %s", name, refusal)
            continue
        sums += counts
        # A site reports its mean loss: weigh it by the samples that it scored.
        loss += report[0][1] * int(counts[0].sum())
    reference, predicted, correct = sums
    total = int(reference.sum())
    return Scores.from_counts(reference, predicted, correct, loss / total) if total else None


def read_confusions(
    replies: Mapping[str, Message], sites: SiteManager
) -> dict[str, tuple[Int64, float]]:
    """Return each site's confusion matrix, int64 [K, K] with the reference in rows, and loss."""
    confusions = {}
    num_classes = len(sites.data.classes)
    for name, reply in sorted(replies.items()):
        try:
            counts, loss = read_class_counts(reply, messages.CONFUSION, num_classes**2)
            check_limit(int(counts.sum()), sites.sites[name].num_test)
        except ReplyRefused as refusal:
            log(WARNING, "%s not scored: %s", name, refusal)
            continue
        confusions[name] = counts.reshape(num_classes, num_classes), loss
    return confusions


def sum_confusion(confusions: Iterable[tuple[Int64, float]]) -> tuple[Int64, Scores] | None:
    """Add up confusion matrices, and score the sum; None if they count no sample."""
    matrices = list(confusions)
    samples = sum(int(counts.sum()) for counts, _ in matrices)
    if not samples:
        return None
    total = np.sum([counts for counts, _ in matrices], axis=0)
    loss = sum(loss * int(counts.sum()) for counts, loss in matrices)
    return total, Scores.from_confusion(total, loss / samples)
