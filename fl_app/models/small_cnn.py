"""small-cnn: three convolutions, for tests, tutorials and very thin links."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

CHANNELS = (32, 64, 128)
GROUPS = 8


def _stage(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
        nn.GroupNorm(GROUPS, channels_out),
        nn.ReLU(inplace=True),
    )


class SmallCNN(nn.Module):
    """Three 3×3 convolutions of 32 (stride 2), 64 and 128 channels, max-pooled between.

    A mean over the chip and a linear layer follow. About 100 thousand parameters.

    Parameters
    ----------
    num_bands : int
        Channels of the input, all modalities together.
    num_classes : int
        Length of the output.
    """

    def __init__(self, num_bands: int, num_classes: int) -> None:
        super().__init__()
        self.stage1 = _stage(num_bands, CHANNELS[0], stride=2)
        self.stage2 = _stage(CHANNELS[0], CHANNELS[1])
        self.stage3 = _stage(CHANNELS[1], CHANNELS[2])
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(CHANNELS[2], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map chips (B, num_bands, H, W) to logits (B, num_classes)."""
        x = self.pool(self.stage1(x))
        x = self.pool(self.stage2(x))
        logits: Tensor = self.head(self.stage3(x).mean(dim=(2, 3)))
        return logits
