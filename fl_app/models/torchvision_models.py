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

VGG without batch normalization is initialized as He et al. 2015 ("Delving Deep into Rectifiers")
derive for layers with ReLU: variance 2 / inputs of a unit. torchvision divides by the outputs, and
draws its linear layers with a standard deviation of 0.01: the signal shrinks a thousandfold on its
way, so do the gradients, and training does not start.
"""

from __future__ import annotations

from torch import nn
from torchvision import models

SMALL_CHIP_PX = 64
BATCH_NORM_MOMENTUM = 0.1
HEAD_STD = 0.01


def build(name: str, num_bands: int, num_classes: int, chip_px: int) -> nn.Module:
    """Build a model of :data:`fl_app.models.MODELS` for (B, num_bands, chip_px, chip_px) chips."""
    variants = {"mobilenet-v3": "mobilenet_v3_small", "convnext-tiny": "convnext_tiny"}
    constructor = getattr(models, variants.get(name) or name.replace("-", "_"))
    plain_vgg = {"init_weights": False} if name in ("vgg16", "vgg19") else {}
    model: nn.Module = constructor(weights=None, num_classes=num_classes, **plain_vgg)
    small = chip_px < SMALL_CHIP_PX
    if name.startswith("resnet"):
        kernel_px, stride = (3, 1) if small else (7, 2)
        _replace_stem(model, "conv1", num_bands, kernel_px, stride)
        if small:
            model.maxpool = nn.Identity()
    elif name.startswith("vgg"):  # its adaptive pooling takes any chip from 32 px up
        _replace_stem(model, "features.0", num_bands, 3, 1)
        if plain_vgg:
            _keep_signal(model)
    elif name == "mobilenet-v3":
        _replace_stem(model, "features.0.0", num_bands, 3, 1 if small else 2)
        for module in model.modules():
            # torchvision's 0.01 is for hundreds of thousands of steps: after a few local ones the
            # running statistics would still be those of the initialization.
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = BATCH_NORM_MOMENTUM
    else:
        patch_px = 2 if small else 4
        _replace_stem(model, "features.0.0", num_bands, patch_px, patch_px)
    return model


def _keep_signal(model: nn.Module) -> None:
    """Draw weights with which a signal keeps its variance through layers with ReLU."""
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
    nn.init.normal_(layers[-1].weight, 0.0, HEAD_STD)  # logits near zero: no class is preferred


def _replace_stem(model: nn.Module, path: str, num_bands: int, kernel_px: int, stride: int) -> None:
    """Replace the first convolution by a new one that takes `num_bands` channels."""
    stem = model.get_submodule(path)
    assert isinstance(stem, nn.Conv2d)
    padding = kernel_px // 2 if stem.padding != (0, 0) else 0
    bias = stem.bias is not None
    conv = nn.Conv2d(num_bands, stem.out_channels, kernel_px, stride, padding, bias=bias)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    parent, _, child = path.rpartition(".")
    setattr(model.get_submodule(parent), child, conv)
