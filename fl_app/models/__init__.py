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

A model of your own needs no change here: ``model=package.module:function`` names a function (or a
class) that is called with the arguments it asks for by name, among ``num_bands``, ``num_classes``
and ``chip_px``, and returns a module that maps chips (n, num_bands, chip_px, chip_px) to logits
(n, num_classes). Server and sites import it, so its package must be installed on all of them.

A *fusion* model keeps the modalities apart. Its function (or class) asks for ``modalities``, a
sequence of :class:`strategies.sites.ModalityInfo`, and its ``forward`` takes one tensor
(n, bands, px, px) per modality in that order. Where a site lacks a modality it gets None instead;
if it fails then, sites that lack a modality cannot take part. Parameters that serve one modality
alone belong into ``branches.<name>`` (an ``nn.ModuleDict``, see :func:`branch_key`): a site without
that modality does not change them, and does not count in their mean.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fl_app.models.hyper_cnn import HyperCNN
from fl_app.models.small_networks import SmallCNN, SmallResNet
from rsdgc.errors import SettingError
from rsdgc.registry import Registry
from rsdgc.spec import branch_key

if TYPE_CHECKING:  # strategies imports Flower, which takes a second
    from strategies.sites import ModalityInfo

__all__ = [
    "LEAST_CHIP_PX",
    "MODELS",
    "accepts_missing",
    "branch_key",
    "build_model",
    "takes_modalities",
]

ARGUMENTS = ("num_bands", "num_classes", "chip_px", "modalities")
MODELS: Registry[Callable[..., nn.Module]] = Registry("model")
"""Functions of those of :data:`ARGUMENTS` that they name."""

_TORCHVISION_CHIP_PX = {
    "resnet18": 8,
    "resnet50": 8,
    "vgg16": 32,
    "vgg16-bn": 32,
    "vgg19": 32,
    "vgg19-bn": 32,
    "mobilenet-v3": 8,
    "convnext-tiny": 16,
}
LEAST_CHIP_PX = {"small-resnet": 8, "small-cnn": 8, "hyper-cnn": 1, **_TORCHVISION_CHIP_PX}
"""Side, in pixels, of the smallest chip that a built-in model takes."""


def _build_from_torchvision(name: str, **arguments: int) -> nn.Module:
    # Imported late: torchvision takes a second, and the small models do without.
    from fl_app.models.torchvision_models import build  # noqa: PLC0415

    return build(name, **arguments)


MODELS.register("small-resnet")(SmallResNet)
MODELS.register("small-cnn")(SmallCNN)
MODELS.register("hyper-cnn")(HyperCNN)
for _name in _TORCHVISION_CHIP_PX:
    MODELS.register(_name)(partial(_build_from_torchvision, _name))


def takes_modalities(name: str) -> bool:
    """Return whether a model is a fusion model: takes one tensor per modality, not one in all."""
    return "modalities" in inspect.signature(MODELS[name]).parameters


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
        A name in :data:`MODELS`, or ``package.module:function``.
    num_bands : int
        Channels of the input, all modalities together.
    num_classes : int
        Length of the output.
    chip_px : int
        Side of the square chips, in pixels.
    seed : int
        Of PyTorch's random numbers while the model is built. Those of the process stay as they
        were.
    modalities : sequence of ModalityInfo
        What a fusion model takes, in order; other models do without.

    Returns
    -------
    torch.nn.Module
        On the default device, float32: (n, num_bands, chip_px, chip_px) to logits
        (n, num_classes). A fusion model takes one tensor (n, bands, px, px) or None per modality.

    Raises
    ------
    SettingError
        The name is unknown, the chip too small for the model, a count below 1 (2 for classes), a
        fusion model has no modalities, or what a function from outside returns is not such a
        module.
    """
    build = MODELS[name]
    least_px = LEAST_CHIP_PX.get(name, 1)  # the output of a model from outside is checked below
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
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch CUDA's, too
        values = (num_bands, num_classes, chip_px, tuple(modalities))
        arguments = dict(zip(ARGUMENTS, values, strict=True))
        if name in LEAST_CHIP_PX:
            return _call(build, arguments)
        try:
            model = _call(build, arguments)
        except Exception as error:
            raise SettingError(
                f"model {name!r} cannot be built ({_one_line(error)}): it is called with those of "
                f"{', '.join(ARGUMENTS)} that it asks for by name"
            ) from error
        if takes_modalities(name):
            shapes = [(2, len(m.bands), m.px, m.px) for m in modalities]
        else:
            shapes = [(2, num_bands, chip_px, chip_px)]
        _check_output(name, model, num_classes, shapes)
    return model


def accepts_missing(model: nn.Module, modalities: Sequence[ModalityInfo]) -> bool:
    """Return whether a fusion model works with each modality missing, and with each alone."""
    shapes = [(2, len(m.bands), m.px, m.px) for m in modalities]
    for index in range(len(shapes)):
        for absent in ({index}, set(range(len(shapes))) - {index}):
            if 0 < len(absent) < len(shapes):
                try:
                    _logits(model, shapes, absent)
                except Exception:  # whatever a user's code raises
                    return False
    return True


def _call(build: Callable[..., nn.Module], arguments: dict[str, Any]) -> nn.Module:
    """Call with those arguments that the function or class asks for."""
    parameters = inspect.signature(build).parameters.values()
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    names = {parameter.name for parameter in parameters}
    if takes_all:  # of a model that takes all bands as one: a fusion model names its modalities
        names |= set(arguments) - {"modalities"}
    return build(**{key: value for key, value in arguments.items() if key in names})


def _check_output(
    name: str, model: object, num_classes: int, shapes: Sequence[tuple[int, ...]]
) -> None:
    """Refuse what is not a module, or does not map two chips of zeros to two rows of logits.

    On the meta device, where a simulation checks its settings, a failing model is let through:
    not every operation works there, and the sites check it again.
    """
    if not isinstance(model, nn.Module):
        raise SettingError(
            f"model {name!r} returned {type(model).__name__}: return a torch.nn.Module"
        )
    chips = " and ".join(map(str, shapes))
    try:
        logits = _logits(model, shapes)
    except Exception as error:
        if torch.get_default_device().type == "meta":
            return
        raise SettingError(f"model {name!r} fails on chips {chips}: {_one_line(error)}") from error
    shape = tuple(getattr(logits, "shape", ()))
    if shape != (2, num_classes):
        raise SettingError(
            f"model {name!r} maps chips {chips} to {shape or type(logits).__name__}: "
            f"return logits {(2, num_classes)}"
        )


@torch.no_grad()
def _logits(
    model: nn.Module, shapes: Sequence[tuple[int, ...]], absent: Collection[int] = ()
) -> Tensor:
    """Return what a model makes of zeros of these shapes; None stands for those that are absent."""
    chips = [None if i in absent else torch.zeros(shape) for i, shape in enumerate(shapes)]
    was_training = model.training
    model.eval()  # normalization layers must not learn from the zeros
    try:
        logits: Tensor = model(*chips)
    finally:
        model.train(was_training)
    return logits


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
