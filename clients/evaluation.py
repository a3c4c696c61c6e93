"""Score a model on the splits that it is not trained on."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  # the name everyone knows it by
from torch import Tensor, nn

from clients.loader import SplitLoader
from clients.memory_format import format_chips
from clients.micro_batch import MicroBatch, Part
from clients.scores import Score

BATCH_SIZE = 64
"""Larger batches leave a CPU's caches: 32 to 64 chips were 2.5 times faster than 280."""


def score_model(
    model: nn.Module,
    split: SplitLoader | None,
    num_classes: int,
    batch_size: int = BATCH_SIZE,
    micro_batch: MicroBatch | None = None,
) -> Score:
    """Score the model on a split, in order, without augmentation, in float32.

    The model is on the split's device, and is left in evaluation mode. The score of a site without
    a split counts no chips. ``micro_batch`` says how many chips go through the model at once, and
    learns it if memory runs out.
    """
    if split is None:
        return Score(np.zeros((num_classes, num_classes), np.int64), 0.0)
    model.eval()
    micro_batch = micro_batch or MicroBatch()

    def logits_of(parts: list[Part]) -> Tensor:
        logits = [model(*format_chips(chips, model)) for chips, _ in parts]
        return logits[0] if len(logits) == 1 else torch.cat(logits)

    # One count per (reference, predicted) pair, flat.
    pairs = torch.zeros(num_classes**2, dtype=torch.int64, device=split.device)
    # float64: a float32 sum over a large split would lose digits.
    loss_sum = torch.zeros((), dtype=torch.float64, device=split.device)
    with torch.inference_mode():
        for chips, y in split.batches(batch_size, None):
            logits = micro_batch.run(logits_of, chips, y)
            loss_sum += F.cross_entropy(logits, y, reduction="sum")
            # Not bincount, which reads its largest value, and so makes the host wait for a GPU.
            pairs.index_add_(0, y * num_classes + logits.argmax(1), torch.ones_like(y))
    confusion = np.zeros((num_classes, num_classes), np.int64)
    torch.from_numpy(confusion).view(-1).copy_(pairs)
    return Score(confusion, float(loss_sum) / len(split))
