"""torchvision's classifiers, untrained, for any number of bands and for small chips.

Their stems were designed for photographs of 224 pixels and drop three quarters to fifteen
sixteenths of a chip's resolution at once. Below :data:`SMALL_CHIP_PX` the stems keep more:

=============  =========================  ==============================
model          from 64 px                 below 64 px
=============  =========================  ==============================
ResNet         7×7/2 and max-pool /2      3×3/1, no max-pool
MobileNetV3    3×3/2                      3×3/1
ConvNeXt       4×4/4                      2×2/2
VGG            3×3/1                      3×3/1
=============  =========================  ==============================
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn
from torchvision import models

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL_CHIP_PX = 64
BATCH_NORM_MOMENTUM = 0.1


def _first_conv(bands: int, like: nn.Conv2d, kernel_px: int, stride: int) -> nn.Conv2d:
    """Return a newly initialized convolution from `bands` channels to as many as `like` has."""
    padding = kernel_px // 2 if like.padding != (0, 0) else 0
    bias = like.bias is not None
    conv = nn.Conv2d(bands, like.out_channels, kernel_px, stride, padding, bias=bias)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def resnet(build: Callable[..., nn.Module], bands: int, classes: int, chip_px: int) -> nn.Module:
    """Return `build`'s ResNet for (B, bands, chip_px, chip_px) chips."""
    model: nn.Module = build(weights=None, num_classes=classes)
    small = chip_px < SMALL_CHIP_PX
    kernel_px, stride = (3, 1) if small else (7, 2)
    model.conv1 = _first_conv(bands, _conv(model.conv1), kernel_px, stride)
    if small:
        model.maxpool = nn.Identity()
    return model


def vgg(build: Callable[..., nn.Module], bands: int, classes: int) -> nn.Module:
    """Return `build`'s VGG; its adaptive pooling takes any chip from 32 px up."""
    model: nn.Module = build(weights=None, num_classes=classes)
    features = _sequential(model.features)
    features[0] = _first_conv(bands, _conv(features[0]), 3, 1)
    return model


def mobilenet(bands: int, classes: int, chip_px: int) -> nn.Module:
    """Return MobileNetV3-Small, the variant for thin links and slow machines."""
    model: nn.Module = models.mobilenet_v3_small(weights=None, num_classes=classes)
    stem = _sequential(_sequential(model.features)[0])
    stem[0] = _first_conv(bands, _conv(stem[0]), 3, 1 if chip_px < SMALL_CHIP_PX else 2)
    for module in model.modules():
        # torchvision's 0.01 is for hundreds of thousands of steps: after a few local ones the
        # running statistics would still be those of the initialization.
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = BATCH_NORM_MOMENTUM
    return model


def convnext(bands: int, classes: int, chip_px: int) -> nn.Module:
    """Return ConvNeXt-Tiny for (B, bands, chip_px, chip_px) chips."""
    model: nn.Module = models.convnext_tiny(weights=None, num_classes=classes)
    stem = _sequential(_sequential(model.features)[0])
    patch_px = 2 if chip_px < SMALL_CHIP_PX else 4
    stem[0] = _first_conv(bands, _conv(stem[0]), patch_px, patch_px)
    return model


def _conv(module: object) -> nn.Conv2d:
    assert isinstance(module, nn.Conv2d)
    return module


def _sequential(module: object) -> nn.Sequential:
    assert isinstance(module, nn.Sequential)
    return module
