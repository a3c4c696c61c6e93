"""The models that a run can train, by name.

==============  =================  =========  ====================================================
name            parameters         least px   for
==============  =================  =========  ====================================================
small-resnet    1.2 M              8          chips on a CPU; the default
small-cnn       0.1 M              8          tests, tutorials
hyper-cnn       0.1 M              1          patches of hyperspectral scenes, 1 to 11 px
resnet18        11 M               8          chips on a GPU
resnet50        24 M               8          chips on a GPU
vgg16           134 M              32         the paper's comparison; six in seven are fully
vgg16-bn        134 M              32         connected
vgg19           140 M              32
vgg19-bn        140 M              32
mobilenet-v3    1.5 M              8          slow machines (MobileNetV3-Small)
convnext-tiny   28 M               16         chips on a GPU
==============  =================  =========  ====================================================

Parameters are for few bands and tens of classes. All take any number of bands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from fl_app.models.hyper_cnn import HyperCNN
from fl_app.models.small_cnn import SmallCNN
from fl_app.models.small_resnet import SmallResNet
from rsdgc.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

__all__ = ["MODEL_NAMES", "build_model", "least_chip_px"]


@dataclass(frozen=True)
class _Entry:
    least_px: int
    build: Callable[[int, int, int], nn.Module]
    """From bands, classes and chip size in pixels."""


def _from_torchvision(name: str) -> Callable[[int, int, int], nn.Module]:
    def build(bands: int, classes: int, chip_px: int) -> nn.Module:
        # Imported late: torchvision takes a second, and the small models do without.
        from torchvision import models  # noqa: PLC0415

        from fl_app.models import torchvision_models  # noqa: PLC0415

        if name == "mobilenet-v3":
            return torchvision_models.mobilenet(bands, classes, chip_px)
        if name == "convnext-tiny":
            return torchvision_models.convnext(bands, classes, chip_px)
        constructor = getattr(models, name.replace("-", "_"))
        if name.startswith("vgg"):
            return torchvision_models.vgg(constructor, bands, classes)
        return torchvision_models.resnet(constructor, bands, classes, chip_px)

    return build


_MODELS = {
    "small-resnet": _Entry(8, lambda bands, classes, _: SmallResNet(bands, classes)),
    "small-cnn": _Entry(8, lambda bands, classes, _: SmallCNN(bands, classes)),
    "hyper-cnn": _Entry(1, lambda bands, classes, _: HyperCNN(bands, classes)),
    "resnet18": _Entry(8, _from_torchvision("resnet18")),
    "resnet50": _Entry(8, _from_torchvision("resnet50")),
    "vgg16": _Entry(32, _from_torchvision("vgg16")),
    "vgg16-bn": _Entry(32, _from_torchvision("vgg16-bn")),
    "vgg19": _Entry(32, _from_torchvision("vgg19")),
    "vgg19-bn": _Entry(32, _from_torchvision("vgg19-bn")),
    "mobilenet-v3": _Entry(8, _from_torchvision("mobilenet-v3")),
    "convnext-tiny": _Entry(16, _from_torchvision("convnext-tiny")),
}

MODEL_NAMES = tuple(_MODELS)
"""All names that :func:`build_model` knows."""


def least_chip_px(name: str) -> int:
    """Return the side, in pixels, of the smallest chip that the model takes.

    Raises
    ------
    SettingError
        The name is unknown.
    """
    if name not in _MODELS:
        raise SettingError(f"model {name!r} is unknown: choose one of {', '.join(MODEL_NAMES)}")
    return _MODELS[name].least_px


def build_model(
    name: str, num_bands: int, num_classes: int, chip_px: int, seed: int = 0
) -> nn.Module:
    """Build an untrained model, the same for the same arguments wherever it is built.

    Parameters
    ----------
    name : str
        One of :data:`MODEL_NAMES`.
    num_bands : int
        Channels of the input, all modalities together.
    num_classes : int
        Length of the output.
    chip_px : int
        Side of the square chips, in pixels.
    seed : int
        Of the initialisation. The process's own random numbers are left as they were.

    Returns
    -------
    torch.nn.Module
        On the CPU, float32: (B, num_bands, chip_px, chip_px) to logits (B, num_classes).

    Raises
    ------
    SettingError
        The name is unknown, the chip too small for the model, or a count below 1 (2 for classes).
    """
    least_px = least_chip_px(name)
    if chip_px < least_px:
        raise SettingError(
            f"chips of {chip_px} px are too small for {name}, which takes {least_px} px and more: "
            "choose another model or cut larger chips"
        )
    if num_bands < 1 or num_classes < 2:
        raise SettingError(
            f"a model of {num_bands} bands and {num_classes} classes cannot be trained: "
            "it takes at least one band and two classes"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch CUDA's, too
        return _MODELS[name].build(num_bands, num_classes, chip_px)
