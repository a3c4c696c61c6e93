"""timm's networks, ``model=timm:NAME``, untrained, for any number of bands and classes.

They are as timm has them, with its stems for photographs: of a chip below 32 px, most convolutional
networks leave one pixel before the end, and some refuse it. Nothing is downloaded; weights come
from a file (``init-weights``).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from types import ModuleType

from torch import nn

from rsdgc.errors import SettingError

PREFIX = "timm:"
"""What the names of timm's networks begin with, as the setting ``model`` takes them."""


def builder(name: str) -> Callable[..., nn.Module]:
    """Return the function that builds ``timm:NAME`` for bands, classes and chip size.

    Raises
    ------
    SettingError
        timm is not installed or does not have the network, or the name asks for weights.
    """
    timm = _import(name)
    network, _, tag = name.removeprefix(PREFIX).partition(".")
    if not timm.is_model(network):
        raise SettingError(f"model {name!r} is unknown to timm {version('timm')}: {_remedy(name)}")
    if tag:
        raise SettingError(
            f"model {name!r} asks for the weights {tag!r}, and rsdgc downloads none: write "
            f"{PREFIX}{network}, and give a file of weights with init-weights"
        )
    return partial(_build, network)


def _build(network: str, num_bands: int, num_classes: int, chip_px: int) -> nn.Module:
    timm = _import(PREFIX + network)
    shape = {"in_chans": num_bands, "num_classes": num_classes}
    try:
        # Transformers are built for one size of chips. No list says which networks take it.
        model: nn.Module = timm.create_model(network, pretrained=False, img_size=chip_px, **shape)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        model = timm.create_model(network, pretrained=False, **shape)
    return model


def _import(name: str) -> ModuleType:
    try:
        import timm  # noqa: PLC0415  # an extra, which takes seconds to import
    except ImportError as error:
        raise SettingError(
            f'model {name!r} needs the package timm ({error}): run pip install "rsdgc[timm]" on '
            "the server and at every site"
        ) from None
    module: ModuleType = timm
    return module


def _remedy(name: str) -> str:
    names = _import(name).list_models()
    network = name.removeprefix(PREFIX).lower()
    similar = difflib.get_close_matches(network, names, n=3)
    if network and not similar:
        similar = [each for each in names if each.startswith(network)][:3]
    if not similar:
        return "its documentation lists the names, such as timm:resnet18"
    return f"did you mean {' or '.join(PREFIX + each for each in similar)}?"
