"""Small things that several tests of this package train on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from clients.loader import SplitLoader
from clients.normalization import Normalization
from clients.training import TrainSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

CPU = torch.device("cpu")


@dataclass
class Arrays:
    """A chip source in memory that counts its reads."""

    modalities: list[NDArray[Any]]
    reads: int = 0
    validity: list[NDArray[np.uint8] | None] | None = None

    def take(self, positions: NDArray[np.int64]) -> list[NDArray[Any]]:
        self.reads += 1
        return [array[positions] for array in self.modalities]

    def take_validity(self, positions: NDArray[np.int64]) -> list[NDArray[np.uint8] | None]:
        layers = self.validity or [None] * len(self.modalities)
        return [None if layer is None else layer[positions] for layer in layers]


def unit(bands: int, nodata: float | None = None) -> Normalization:
    return Normalization(np.zeros(bands, np.float32), np.ones(bands, np.float32), nodata)


def make_split(
    count: int = 24, px: int = 8, classes: int = 3, seed: int = 0, **settings: Any
) -> SplitLoader:
    """Two-band uint16 chips whose first band is brighter the higher the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    chips = rng.integers(0, 1000, (count, 2, px, px)).astype(np.uint16)
    chips[:, 0] += (labels * 1500).astype(np.uint16)[:, None, None]
    normalization = Normalization(
        np.array([2000, 500], np.float32), np.array([1300, 290], np.float32)
    )
    return SplitLoader(Arrays([chips]), np.arange(count), labels, [normalization], CPU, **settings)


def train_settings(**changes: Any) -> TrainSettings:
    """Return settings of training that suit these chips."""
    values: dict[str, Any] = {
        "optimizer": "sgd",
        "lr": 0.05,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "batch_size": 32,
        "epochs": 1,
        "steps": 0,
        "clip_norm": 5.0,
        "augment": True,
        "crop": 1.0,
        "amp": False,
        "jitter": 0.0,
        "band_dropout": 0.0,
        "modality_dropout": 0.0,
        "label_smoothing": 0.0,
        "balanced_loss": False,
        "balanced_batches": False,
        "proximal": 0.0,
    }
    return TrainSettings(**(values | changes))


class TinyNet(nn.Module):
    """A convolution, batch normalization and a linear layer: every kind of entry there is."""

    def __init__(self, bands: int = 2, classes: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.conv = nn.Conv2d(bands, 6, 3, padding=1)
            self.norm = nn.BatchNorm2d(6)
            self.drop = nn.Dropout(dropout)
            self.head = nn.Linear(6, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(self.drop(x.mean(dim=(2, 3))))


class Viewed(nn.Module):
    """Reshapes a map of 2 bands and 8 px by view(), which channels last does not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(4 * 6 * 6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        logits: torch.Tensor = self.head(x.view(x.size(0), -1))
        return logits
