"""Augmentation on the device, for any number of bands.

Flips and quarter turns, because an overhead image has no preferred direction; crops, because
objects differ in size and place; jitter of gain and offset, because illumination and atmosphere
differ; dropped bands and modalities, because a sensor or a site may lack them.

All functions map normalized chips, float32 (B, C, H, W) in which 0 is the mean of a band, to new
ones of the same shape, type and device. A batch has one tensor per input of the model, or None for
one that is missing; what is drawn for a chip's geometry holds for all of its tensors. Generators
are on the CPU, so that the same seed yields the same draws whatever the device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  # the name everyone knows it by
from torch import Tensor

from clients.loader import Chips
from clients.transfers import send


def flips_and_quarter_turns(chips: Chips, generator: torch.Generator) -> Chips:
    """Flip and turn every chip independently, into one of its eight orientations at random.

    Chips that are not square get one of the four orientations that keep their shape.
    """
    sizes = [(len(x), x.shape[2] == x.shape[3], x.device) for x in chips if x is not None]
    count, _, device = sizes[0]
    square = all(is_square for _, is_square, _ in sizes)
    draws = torch.rand((3, count, 1, 1, 1), generator=generator) < 0.5
    # Two flips and a transposition, each with probability 1/2, generate all eight orientations.
    vertical, horizontal, transposed = send(draws, device)

    def turn(x: Tensor) -> Tensor:
        x = torch.where(vertical, x.flip(2), x)
        x = torch.where(horizontal, x.flip(3), x)
        return torch.where(transposed, x.transpose(2, 3), x) if square else x

    return [x if x is None else turn(x) for x in chips]


def crop(chips: Chips, smallest: float, generator: torch.Generator, *, centered: bool) -> Chips:
    """Cut a part out of every chip independently, and resize it to the chip's size.

    The part has the chip's aspect ratio, and a share of its area between ``smallest`` and 1, each
    equally probable. It lies anywhere, or about the chip's center if ``centered``, for chips whose
    label is that of the central pixel: the center then keeps its place.

    Resizing is bilinear. Pixels without data count as 0, the mean of the band, as everywhere.
    """
    sizes = [(len(x), x.device) for x in chips if x is not None]
    count, device = sizes[0]
    shares, down, right = torch.rand((3, count), generator=generator)
    side = (smallest + (1 - smallest) * shares).sqrt()
    # From output to input coordinates, which run from −1 to 1 over a chip of any resolution.
    transform = torch.zeros((count, 2, 3))
    transform[:, 0, 0] = transform[:, 1, 1] = side
    if not centered:
        transform[:, 0, 2] = (1 - side) * (2 * right - 1)
        transform[:, 1, 2] = (1 - side) * (2 * down - 1)
    transform = send(transform, device)

    def resample(x: Tensor) -> Tensor:
        grid = F.affine_grid(transform, list(x.shape), align_corners=False)
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)

    return [x if x is None else resample(x) for x in chips]


def jitter(chips: Chips, strength: float, generator: torch.Generator) -> Chips:
    """Change gain and offset of every band of every chip independently.

    ``strength`` is the standard deviation of both, in standard deviations of the band.
    """
    return [x if x is None else _jitter(x, strength, generator) for x in chips]


def _jitter(x: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    draws = torch.randn((2, *x.shape[:2], 1, 1), generator=generator) * strength
    draws = send(draws, x.device).to(x.dtype)
    return x * (1 + draws[0]) + draws[1]


def drop_bands(chips: Chips, share: float, generator: torch.Generator) -> Chips:
    """Set each band of each chip to 0, its mean, with probability ``share``.

    At least one band of each tensor stays.
    """
    return [x if x is None else _drop_bands(x, share, generator) for x in chips]


def _drop_bands(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    draws = torch.rand((len(x), x.shape[1], 1, 1), generator=generator)
    # The band with the largest draw always stays.
    kept: Tensor = (draws >= share) | (draws == draws.amax(dim=1, keepdim=True))
    return x * send(kept, x.device).to(x.dtype)


def drop_modalities(chips: Chips, share: float, generator: torch.Generator) -> Chips:
    """Leave each tensor out, for the whole batch, with probability ``share``; at least one stays.

    A model gets None for it, as at a site that lacks the modality.
    """
    draws = torch.rand(len(chips), generator=generator).tolist()
    largest = max(draw for draw, x in zip(draws, chips, strict=True) if x is not None)
    return [
        x if draw >= share or draw == largest else None
        for draw, x in zip(draws, chips, strict=True)
    ]
