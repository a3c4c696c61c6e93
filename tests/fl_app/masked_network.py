"""A network with an attention mask of infinite values, beside a buffer that training changes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Masked(nn.Module):
    """Attends from each of four parts of a chip to those before it."""

    def __init__(self, num_bands: int, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(num_bands, 8, 3, 2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, num_classes)
        self.register_buffer("mask", torch.full((4, 4), float("-inf")).triu(1))

    def forward(self, chips: Tensor) -> Tensor:
        parts = self.norm(self.conv(chips)).relu()
        parts = nn.functional.adaptive_avg_pool2d(parts, 2).flatten(2).mT
        weights = (parts @ parts.mT + self.mask).softmax(-1)
        logits: Tensor = self.head((weights @ parts).mean(1))
        return logits
