"""Accuracy figures from counts that sites can add up without sharing an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Scores:
    """Overall accuracy, balanced accuracy and Cohen's kappa of one model.

    Attributes
    ----------
    accuracy : float
        Share of samples classified right (OA).
    balanced_accuracy : float
        Mean recall over the classes that occur (AA).
    kappa : float
        Agreement beyond chance, (po − pe) / (1 − pe).
    loss : float
        Mean cross-entropy.
    num_examples : int
        Samples scored.
    """

    accuracy: float
    balanced_accuracy: float
    kappa: float
    loss: float
    num_examples: int

    @classmethod
    def from_counts(
        cls, reference: Counts, predicted: Counts, correct: Counts, loss: float
    ) -> Scores:
        """Work out the figures from counts per class, each int64[num_classes].

        ``reference`` counts the samples of each class, ``predicted`` those a model put into it,
        ``correct`` those it was right to. ``loss`` is the mean over all samples.
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
    def from_confusion(cls, confusion: Counts, loss: float) -> Scores:
        """Work out the figures from a confusion matrix int64[K, K] with the reference in rows."""
        return cls.from_counts(
            confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal().copy(), loss
        )
