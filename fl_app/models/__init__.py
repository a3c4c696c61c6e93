"""The models that a run can train, by name.

:data:`fl_app.model_catalog.MODEL_TABLE` lists those that are built in, as ``rsdgc models`` does.
All take any number of bands.

``timm:NAME`` is a network of timm (:mod:`fl_app.models.timm_models`).

A model of your own needs no change here: ``model=package.module:function`` names a function (or a
class) that is called with the arguments it asks for by name, among ``num_bands``, ``num_classes``
and ``chip_px``, and returns a module that maps chips (n, num_bands, chip_px, chip_px) to logits
(n, num_classes). Server and sites import it from an installed package or from a folder
(docs/own-network.md), and its code must be the same on all of them.

A *fusion* model keeps the modalities apart. Its function (or class) asks for ``modalities``, a
sequence of :class:`strategies.sites.ModalityInfo`, and its ``forward`` takes one tensor
(n, bands, px, px) per modality in that order. Where a site lacks a modality it gets None instead;
if it fails then, sites that lack a modality cannot take part. Parameters that serve one modality
alone belong into ``branches.<name>`` (an ``nn.ModuleDict``, see :func:`branch_key`): a site without
that modality does not change them, and does not count in their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from fl_app.model_catalog import ARGUMENTS, LEAST_CHIP_PX
from fl_app.models import timm_models
from fl_app.models.fusion import FusionAttention, FusionConcat
from fl_app.models.hyper_cnn import HyperCNN
from fl_app.models.network_trial import accepts_missing
from fl_app.models.own_networks import asks_for_modalities, bind_arguments, build_own
from fl_app.models.small_networks import SmallCNN, SmallResNet
from rsdgc.errors import SettingError
from rsdgc.registry import Registry
from rsdgc.spec import branch_key

if TYPE_CHECKING:  # strategies imports Flower, which takes a second
    from strategies.sites import ModalityInfo

__all__ = [
    "ARGUMENTS",
    "LEAST_CHIP_PX",
    "MODELS",
    "accepts_missing",
    "branch_key",
    "build_model",
    "find_builder",
    "takes_modalities",
]

MODELS: Registry[Callable[..., nn.Module]] = Registry("model")
"""Functions of those of :data:`ARGUMENTS` that they name."""

_OWN = {
    "small-resnet": SmallResNet,
    "small-cnn": SmallCNN,
    "hyper-cnn": HyperCNN,
    "fusion-concat": FusionConcat,
    "fusion-attention": FusionAttention,
}


def _build_from_torchvision(name: str, **arguments: int) -> nn.Module:
    # Imported late: torchvision takes a second, and the small models do without.
    from fl_app.models.torchvision_models import build  # noqa: PLC0415

    return build(name, **arguments)


for _name in LEAST_CHIP_PX:
    MODELS.register(_name)(_OWN.get(_name) or partial(_build_from_torchvision, _name))


def takes_modalities(name: str) -> bool:
    """Return whether a model is a fusion network: takes one tensor per modality, not one in all."""
    return asks_for_modalities(find_builder(name))


def build_model(
    name: str,
    num_bands: int,
    num_classes: int,
    chip_px: int,
    seed: int = 0,
    *,
    modalities: Sequence[ModalityInfo] = (),
) -> nn.Module:
    """Build an untrained model, the same for the same arguments wherever it is built.

    Parameters
    ----------
    name : str
        A name in :data:`MODELS`, ``timm:NAME``, or ``package.module:function``.
    num_bands : int
        Channels of the input, all modalities together.
    num_classes : int
        Length of the output.
    chip_px : int
        Side of the square chips, in pixels.
    seed : int
        Of random numbers while the model is built. Those of the process stay as they were.
    modalities : sequence of ModalityInfo
        What a fusion network takes, in order; other models do without.

    Returns
    -------
    torch.nn.Module
        On the default device, float32: (n, num_bands, chip_px, chip_px) to logits
        (n, num_classes). A fusion network takes one tensor (n, bands, px, px) or None per modality.

    Raises
    ------
    SettingError
        The name is unknown, the chip too small for the model, a count below 1 (2 for classes), a
        fusion network has no modalities, or what a function from outside returns is not such a
        module.
    """
    builder = find_builder(name)
    least_px = LEAST_CHIP_PX.get(name, 1)  # a model that is not built in is tried instead
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
    if takes_modalities(name) and not modalities:
        raise SettingError(f"model {name!r} fuses modalities: build it with those of the data")
    values = (num_bands, num_classes, chip_px, tuple(modalities))
    arguments = dict(zip(ARGUMENTS, values, strict=True))
    if name not in LEAST_CHIP_PX:
        remedy = "choose another model or cut larger chips" if _is_timm(name) else ""
        return build_own(name, builder, arguments, seed, remedy)
    _, by_name = bind_arguments(name, builder, arguments)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch CUDA's, too
        return builder(**by_name)


def _is_timm(name: str) -> bool:
    return name.startswith(timm_models.PREFIX)


def find_builder(name: str) -> Callable[..., nn.Module]:
    """Return what builds a model; raise :class:`SettingError` if the name is of none."""
    return timm_models.builder(name) if _is_timm(name) else MODELS[name]
