"""Train a part of a model: the other parameters are frozen, and never sent.

Patterns are shell patterns (``*``, ``?``, ``[…]``) over the names of parameters and modules. The
name of a module stands for all parameters below it. ``head`` stands for the model's head, whatever
the model calls it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from rsdgc.errors import SettingError

HEAD = "head"
"""Pattern that stands for the layer that yields the class scores."""


def find_head(model: nn.Module, num_classes: int) -> str:
    """Return the name of the model's head: its last linear or convolution with an output a class.

    The name is empty if there is none.
    """
    heads = [
        name
        for name, module in model.named_modules()
        if getattr(module, "out_features", getattr(module, "out_channels", None)) == num_classes
        and isinstance(module, (nn.Linear, nn.Conv2d))
    ]
    return heads[-1] if heads else ""


def select(model: nn.Module, num_classes: int, patterns: str, setting: str) -> set[str]:
    """Return the names of the parameters that patterns choose.

    Parameters
    ----------
    num_classes : int
        Outputs of the head.
    patterns : str
        Separated by commas.
    setting : str
        Name of the setting that the patterns come from, for the message.

    Raises
    ------
    SettingError
        A pattern matches nothing.
    """
    names = [name for name, _ in model.named_parameters()]
    selected: set[str] = set()
    for pattern in filter(None, (word.strip() for word in patterns.split(","))):
        matches = {name for name in names if any(fnmatchcase(p, pattern) for p in _paths(name))}
        if pattern == HEAD:
            head = find_head(model, num_classes)
            matches |= {name for name in names if head and head in _paths(name)}
        if not matches:
            raise SettingError(
                f"{setting}: '{pattern}' matches no parameter of the model; "
                f"{_nearest(pattern, names)}"
            )
        selected |= matches
    return selected


def freeze(model: nn.Module, frozen: Iterable[str], setting: str) -> None:
    """Freeze parameters by name, and train the others.

    Raises
    ------
    SettingError
        Nothing would be left to train; ``setting`` is named in the message.
    """
    frozen = set(frozen)
    parameters = dict(model.named_parameters())
    if frozen >= parameters.keys():
        raise SettingError(f"{setting} freezes every parameter: leave some to train")
    for name, parameter in parameters.items():
        parameter.requires_grad_(name not in frozen)


def _paths(name: str) -> list[str]:
    """Return a parameter's name and those of all modules that it is in."""
    parts = name.split(".")
    return [".".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _nearest(pattern: str, names: Sequence[str]) -> str:
    """Return the names nearest to a pattern, or the first of all, for a message."""
    paths = list(dict.fromkeys(path for name in names for path in _paths(name)))
    near = difflib.get_close_matches(pattern, paths, n=3)
    if near:
        return f"did you mean {', '.join(near)}?"
    top = list(dict.fromkeys(name.partition(".")[0] for name in names))
    return f"its modules are {', '.join(top[:8])}{', …' if len(top) > 8 else ''}"
