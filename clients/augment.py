"""Flips and quarter turns: an overhead image has no up."""

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
