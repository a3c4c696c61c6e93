"""A small network with batch normalization, as somebody would bring it."""

from torch import nn


def build(num_bands: int, num_classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(num_bands, 16, 3, 2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, num_classes),
    )
