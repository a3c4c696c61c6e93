"""small-cnn and small-resnet: networks that a CPU can train and a thin link can carry.

Both normalize by GroupNorm, which needs no statistics of other chips, so that a site's small or
skewed batches do no harm to the model that all sites share.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F  # noqa: N812  # the name everyone knows it by
from torch import Tensor, nn

GROUPS = 8
CNN_CHANNELS = (32, 64, 128)
STEM_CHANNELS = 32
STAGES = ((32, 1), (64, 2), (128, 2), (256, 2))
"""Channels and stride of each residual block of small-resnet."""


def _conv_norm_relu(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
        nn.GroupNorm(GROUPS, channels_out),
        nn.ReLU(inplace=True),
    )


class SmallCNN(nn.Module):
    """Three 3×3 convolutions of 32 (stride 2), 64 and 128 channels, max-pooled between.

    A mean over the chip and a linear layer follow. About 100 thousand parameters.
    """

    def __init__(self, num_bands: int, num_classes: int) -> None:
        super().__init__()
        self.stage1 = _conv_norm_relu(num_bands, CNN_CHANNELS[0], stride=2)
        self.stage2 = _conv_norm_relu(CNN_CHANNELS[0], CNN_CHANNELS[1])
        self.stage3 = _conv_norm_relu(CNN_CHANNELS[1], CNN_CHANNELS[2])
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(CNN_CHANNELS[2], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map chips (B, num_bands, H, W) to logits (B, num_classes)."""
        x = self.pool(self.stage1(x))
        x = self.pool(self.stage2(x))
        logits: Tensor = self.head(self.stage3(x).mean(dim=(2, 3)))
        return logits


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with GroupNorm, and a shortcut.

    The first convolution has the stride; the shortcut is a 1×1 projection where the shape changes.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(GROUPS, channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(GROUPS, channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.GroupNorm(GROUPS, channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels_in, H, W) to (B, channels_out, ⌈H/stride⌉, ⌈W/stride⌉)."""
        y = F.relu(self.norm1(self.conv1(x)), inplace=True)
        y = self.norm2(self.conv2(y))
        return F.relu(y.add_(self.shortcut(x)), inplace=True)


class ResidualTrunk(nn.Module):
    """A 3×3 stem and residual blocks, without a head: chips to a map of features.

    Parameters
    ----------
    num_bands : int
        Channels of the input.
    stages : sequence of (int, int)
        Channels and stride of each residual block.
    stem_stride : int
        Stride of the stem, which has :data:`STEM_CHANNELS` channels.
    """

    def __init__(
        self, num_bands: int, stages: Sequence[tuple[int, int]] = STAGES, stem_stride: int = 2
    ) -> None:
        super().__init__()
        self.stem = _conv_norm_relu(num_bands, STEM_CHANNELS, stem_stride)
        self.channels = STEM_CHANNELS
        self._num_stages = len(stages)
        for number, (channels_out, stride) in enumerate(stages, start=1):
            block = ResidualBlock(self.channels, channels_out, stride)
            self.add_module(f"stage{number}", block)
            self.channels = channels_out

    def initialize(self) -> None:
        """Draw the weights of the convolutions (He et al. 2015); to be called once, at the end."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """Map chips (B, num_bands, H, W) to features (B, channels, h, w)."""
        x = self.stem(x)
        for number in range(1, self._num_stages + 1):
            x = self.get_submodule(f"stage{number}")(x)
        return x


class SmallResNet(ResidualTrunk):
    """Stem 3×3/2 of 32 channels, residual blocks 32, 64/2, 128/2, 256/2, mean, linear.

    About 1.2 million parameters.
    """

    def __init__(self, num_bands: int, num_classes: int) -> None:
        super().__init__(num_bands)
        self.head = nn.Linear(self.channels, num_classes)
        self.initialize()

    def forward(self, x: Tensor) -> Tensor:
        """Map chips (B, num_bands, H, W) to logits (B, num_classes)."""
        logits: Tensor = self.head(self.features(x).mean(dim=(2, 3)))
        return logits
