"""Augmentation on the device, for any number of bands.

Flips and quarter turns, for an overhead image has no up; jitter of gain and offset, for the sun and
the air differ; and whole bands left out, for a sensor may lack them. All take normalised chips, of
which 0 is the mean of a band, and draw on the CPU, so that the draws are the same on every device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def flips_and_quarter_turns(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn and mirror every chip on its own, each of the eight ways as likely as the others.

    Chips that are not square get the four ways that keep their shape.

    Parameters
    ----------
    x : torch.Tensor (B, C, H, W)
        On any device; left as it is.
    generator : torch.Generator
        On the CPU, so that the draws are the same on every device.

    Returns
    -------
    torch.Tensor
        (B, C, H, W), same type and device.
    """
    draws = torch.rand((3, len(x), 1, 1, 1), generator=generator) < 0.5
    down, across, transposed = draws.to(x.device)
    x = torch.where(down, x.flip(2), x)
    x = torch.where(across, x.flip(3), x)
    if x.shape[2] == x.shape[3]:
        x = torch.where(transposed, x.transpose(2, 3), x)
    return x


def jitter(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Change gain and offset of every chip's bands, each on its own.

    Parameters
    ----------
    x : torch.Tensor (B, C, H, W)
        Normalised chips; left as they are.
    strength : float
        Standard deviation of gain and offset, in standard deviations of the band.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    torch.Tensor
        (B, C, H, W), same type and device.
    """
    draws = torch.randn((2, *x.shape[:2], 1, 1), generator=generator) * strength
    draws = draws.to(x.device, x.dtype)
    return x * (1 + draws[0]) + draws[1]


def drop_bands(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Set whole bands of chips to 0, their mean; at least one band of a chip stays.

    Parameters
    ----------
    x : torch.Tensor (B, C, H, W)
        Normalised chips; left as they are.
    share : float
        Probability that a band of a chip is left out.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    torch.Tensor
        (B, C, H, W), same type and device.
    """
    draws = torch.rand((len(x), x.shape[1], 1, 1), generator=generator)
    kept: Tensor = (draws >= share) | (draws == draws.amax(dim=1, keepdim=True))
    return x * kept.to(x.device, x.dtype)
