"""Scores of a model from the counts that sites report, which reveal no image.

The counts of all sites are added up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rsdgc.arrays import Int64
from strategies.validation import CONTRADICTORY, ReplyRefused


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """Counts by class of one site's split, int64 [K], and the mean loss over it."""

    reference: Int64  #: samples of each class
    predicted: Int64  #: samples that the model assigned to it
    correct: Int64  #: samples of it that the model assigned correctly
    loss: float | None  #: cross-entropy in nats; None if it was not finite

    @classmethod
    def from_confusion(cls, confusion: Int64, loss: float | None) -> ClassCounts:
        """Return the counts of a confusion matrix, int64 [K, K] with the reference in rows."""
        diagonal = confusion.diagonal().copy()
        return cls(confusion.sum(axis=1), confusion.sum(axis=0), diagonal, loss)

    @property
    def samples(self) -> int:
        """Samples scored."""
        return int(self.reference.sum())

    @property
    def accuracy(self) -> float | None:
        """Share of samples that are classified correctly; None without any."""
        return float(self.correct.sum()) / self.samples if self.samples else None

    def check(self, limit: int) -> None:
        """Refuse counts that no confusion matrix of at most ``limit`` chips has."""
        if self.samples > limit:
            raise ReplyRefused(
                CONTRADICTORY, f"it scores {self.samples} chips, the site has {limit}"
            )
        missed, false = self.reference - self.correct, self.predicted - self.correct
        # What is missed in one class is a false prediction of another.
        errors = missed.sum()
        if (
            min(missed.min(), false.min()) < 0
            or errors != false.sum()
            or (missed + false > errors).any()
        ):
            raise ReplyRefused(CONTRADICTORY, "its counts by class contradict one another")


@dataclass(frozen=True)
class Scores:
    """Scores of one model."""

    accuracy: float  #: share of samples that are classified correctly (overall accuracy, OA)
    balanced_accuracy: float  #: mean recall over the classes that occur (average accuracy, AA)
    kappa: float  #: Cohen's kappa, the agreement beyond chance: (po − pe) / (1 − pe)
    #: mean cross-entropy over the samples of those sites whose loss is finite; None without any
    loss: float | None
    num_examples: int

    @classmethod
    def from_counts(
        cls, reference: Int64, predicted: Int64, correct: Int64, loss: float | None
    ) -> Scores:
        """Compute the scores from counts per class, int64 [K], and the mean loss.

        They are the samples of each class, the samples that the model assigned to it, and the
        samples of it that the model assigned correctly.
        """
        total = int(reference.sum())
        if total == 0:
            return cls(float("nan"), float("nan"), float("nan"), None, 0)
        present = reference > 0
        observed = float(correct.sum()) / total
        chance = float((reference / total) @ (predicted / total))
        kappa = (observed - chance) / (1.0 - chance) if chance < 1.0 else 0.0
        recall = correct[present] / reference[present]
        return cls(observed, float(recall.mean()), kappa, loss, total)

    @classmethod
    def from_confusion(cls, confusion: Int64, loss: float | None) -> Scores:
        """Compute the scores from a confusion matrix, int64 [K, K] with the reference in rows."""
        counts = ClassCounts.from_confusion(confusion, loss)
        return cls.from_counts(counts.reference, counts.predicted, counts.correct, loss)


def sum_counts(counts: Iterable[ClassCounts | None]) -> Scores | None:
    """Score a model by the counts of all sites; None if they scored no sample."""
    scored = [part for part in counts if part is not None and part.samples]
    if not scored:
        return None
    reference, predicted, correct = (
        np.sum([getattr(part, name) for part in scored], axis=0)
        for name in ("reference", "predicted", "correct")
    )
    # A site reports its mean loss: weigh it by the samples that it scored.
    losses = [(part.loss, part.samples) for part in scored if part.loss is not None]
    samples = sum(count for _, count in losses)
    loss = sum(loss * count for loss, count in losses) / samples if samples else None
    return Scores.from_counts(reference, predicted, correct, loss)
