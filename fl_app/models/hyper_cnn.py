"""hyper-cnn: a spectral-spatial network for patches of a hyperspectral scene."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SPECTRAL_CHANNELS = 8
SPECTRAL_KERNEL = 7
SPATIAL_CHANNELS = 64
GROUPS = 8
CHUNK_PIXELS = 4096
"""Pixels that go along the spectrum at a time on a CPU. Beyond tens of MB, at 5 kB a pixel, the
system hands out and clears fresh memory in every step, which took a third of the time. A batch of
32 pixel patches of 11 px is one chunk."""


class SpectralTrunk(nn.Module):
    """hyper-cnn without its head: patches to a map of features, one for each pixel.

    Two convolutions over seven bands, with stride two, run along the spectrum of each pixel; a 1×1
    convolution mixes their channels; a residual pair of 3×3 convolutions adds the surroundings.
    """

    channels = SPATIAL_CHANNELS

    def __init__(self, num_bands: int) -> None:
        super().__init__()
        # Shape (bands, pixels) lets a plain 2-D convolution run along the spectrum: much quicker
        # on a CPU than a 3-D one, with the same weights.
        self.spectral = nn.Sequential(
            *self._along_spectrum(1), *self._along_spectrum(SPECTRAL_CHANNELS)
        )
        # Two strides of two leave a quarter of the bands, rounded up.
        mixed = SPECTRAL_CHANNELS * ((num_bands + 3) // 4)
        self.mix = nn.Sequential(
            nn.Conv2d(mixed, SPATIAL_CHANNELS, 1, bias=False),
            nn.GroupNorm(GROUPS, SPATIAL_CHANNELS),
            nn.ReLU(inplace=True),
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(SPATIAL_CHANNELS, SPATIAL_CHANNELS, 3, padding=1, bias=False),
            nn.GroupNorm(GROUPS, SPATIAL_CHANNELS),
            nn.ReLU(inplace=True),
            nn.Conv2d(SPATIAL_CHANNELS, SPATIAL_CHANNELS, 3, padding=1, bias=False),
            nn.GroupNorm(GROUPS, SPATIAL_CHANNELS),
        )

    @staticmethod
    def _along_spectrum(channels_in: int) -> list[nn.Module]:
        kernel, padding = (SPECTRAL_KERNEL, 1), (SPECTRAL_KERNEL // 2, 0)
        return [
            nn.Conv2d(channels_in, SPECTRAL_CHANNELS, kernel, stride=(2, 1), padding=padding),
            nn.ReLU(inplace=True),
        ]

    def features(self, x: Tensor) -> Tensor:
        """Map patches (B, num_bands, P, P) to features (B, channels, P, P)."""
        at_a_time = max(1, CHUNK_PIXELS // (x.shape[2] * x.shape[3]))
        if x.device.type == "cpu" and len(x) > at_a_time:
            x = torch.cat([self._mixed(images) for images in torch.split(x, at_a_time)])
        else:
            x = self._mixed(x)
        x = self.mix[1:](x)
        return torch.relu(x + self.spatial(x))

    def _mixed(self, x: Tensor) -> Tensor:
        batch, bands, height, width = x.shape
        spectra = self.spectral(x.reshape(batch, 1, bands, height * width))
        mixed: Tensor = self.mix[0](spectra.reshape(batch, -1, height, width))
        return mixed


class HyperCNN(SpectralTrunk):
    """First along the spectrum of each pixel, then across the pixels of the patch.

    The classifier takes the mean over the patch and the center pixel, whose class is predicted.
    About 100 thousand parameters at 200 bands; any number of bands from one up will do.
    """

    def __init__(self, num_bands: int, num_classes: int) -> None:
        super().__init__(num_bands)
        self.head = nn.Linear(2 * self.channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map patches (B, num_bands, P, P) to logits (B, num_classes) of their center pixels."""
        x = self.features(x)
        center = x[:, :, x.shape[2] // 2, x.shape[3] // 2]
        logits: Tensor = self.head(torch.cat([x.mean(dim=(2, 3)), center], dim=1))
        return logits
