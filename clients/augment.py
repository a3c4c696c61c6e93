"""Augmentation on the device, for any number of bands.

Flips and quarter turns, because an overhead image has no preferred direction; jitter of gain and
offset, because illumination and atmosphere differ; dropped bands, because a sensor may lack them.

All functions map normalized chips, float32 (B, C, H, W) in which 0 is the mean of a band, to new
ones of the same shape, type and device. Their generators are on the CPU, so that the same seed
yields the same draws whatever the device.
"""

from __future__ import annotations

import torch
from torch import Tensor


def flips_and_quarter_turns(x: Tensor, generator: torch.Generator) -> Tensor:
    """Flip and turn every chip independently, into one of its eight orientations at random.

    Chips that are not square get one of the four orientations that keep their shape.
    """
    draws = torch.rand((3, len(x), 1, 1, 1), generator=generator) < 0.5
    # Two flips and a transposition, each with probability 1/2, generate all eight orientations.
    vertical, horizontal, transposed = draws.to(x.device)
    x = torch.where(vertical, x.flip(2), x)
    x = torch.where(horizontal, x.flip(3), x)
    if x.shape[2] == x.shape[3]:
        x = torch.where(transposed, x.transpose(2, 3), x)
    return x


def jitter(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Change gain and offset of every band of every chip independently.

    ``strength`` is the standard deviation of both, in standard deviations of the band.
    """
    draws = torch.randn((2, *x.shape[:2], 1, 1), generator=generator) * strength
    draws = draws.to(x.device, x.dtype)
    return x * (1 + draws[0]) + draws[1]


def drop_bands(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Set each band of each chip to 0, its mean, with probability ``share``; keep at least one."""
    draws = torch.rand((len(x), x.shape[1], 1, 1), generator=generator)
    # The band with the largest draw always stays.
    kept: Tensor = (draws >= share) | (draws == draws.amax(dim=1, keepdim=True))
    return x * kept.to(x.device, x.dtype)
