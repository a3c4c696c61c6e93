"""Train a part of a model: the other parameters are frozen, and never sent.

Patterns are shell patterns (``*``, ``?``, ``[…]``) over the names of parameters and modules. The
name of a module stands for all parameters below it, and a parameter that two modules share is
matched under the names of both. ``head`` stands for the model's head, whatever the model calls it.

What the network's own code freezes stays frozen: the settings never turn a gradient on.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from torch import nn

from rsdgc.errors import SettingError

HEAD = "head"
"""Pattern that stands for the layer that yields the class scores."""

HEAD_NAMES = frozenset({"head", "heads", "fc", "classifier"})
"""What networks call the head, or the module that it is in."""


def find_head(model: nn.Module, num_classes: int) -> str:
    """Return the name of the model's head: its last linear or convolution with an output a class.

    Of several, those that are called by one of :data:`HEAD_NAMES` come first. The name is empty if
    there is none.
    """
    heads = [
        name
        for name, module in model.named_modules()
        if getattr(module, "out_features", getattr(module, "out_channels", None)) == num_classes
        and isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    ]
    called = [name for name in heads if HEAD_NAMES & set(name.split("."))]
    head: str = (called or heads or [""])[-1]
    return head


def select(
    model: nn.Module, num_classes: int, patterns: str, setting: str, *, to_train: bool = False
) -> set[str]:
    """Return the names of the parameters that patterns choose, as ``named_parameters`` has them.

    Parameters
    ----------
    num_classes : int
        Outputs of the head.
    patterns : str
        Separated by commas.
    setting : str
        Name of the setting that the patterns come from, for the message.
    to_train : bool
        Leave out parameters that are frozen already.

    Raises
    ------
    SettingError
        A pattern matches nothing, or only what is left out.
    """
    parameters = dict(model.named_parameters())
    names_of = {id(parameter): name for name, parameter in parameters.items()}
    # With all names of tied parameters.
    aliases = {
        alias: names_of[id(parameter)]
        for alias, parameter in model.named_parameters(remove_duplicate=False)
    }
    selected: set[str] = set()
    for pattern in filter(None, (word.strip() for word in patterns.split(","))):
        head = find_head(model, num_classes) if pattern == HEAD else ""
        matches = {
            name
            for alias, name in aliases.items()
            if any(fnmatchcase(path, pattern) or path == head for path in _paths(alias))
        }
        if not matches:
            raise SettingError(_no_match(pattern, list(aliases), num_classes, setting))
        if to_train:
            matches = {name for name in matches if parameters[name].requires_grad}
            if not matches:
                raise SettingError(
                    f"{setting}: the network's own code freezes all that '{pattern}' matches: name "
                    "other layers, or remove requires_grad_(False) there"
                )
        selected |= matches
    return selected


def freeze(model: nn.Module, frozen: Iterable[str], setting: str) -> None:
    """Freeze parameters by name; the others stay as they are.

    Raises
    ------
    SettingError
        Nothing would be left to train; ``setting`` is named in the message.
    """
    frozen = set(frozen)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if frozen >= trained.keys():
        raise SettingError(
            f"{setting} freezes every parameter that the model trains: leave some to train"
        )
    for name in frozen & trained.keys():
        trained[name].requires_grad_(False)


def _no_match(pattern: str, names: Sequence[str], num_classes: int, setting: str) -> str:
    """Return what is wrong with a pattern that matches none of the names."""
    if pattern == HEAD:
        kind, is_list, _ = setting.partition("=")
        remedy = "train-only" if is_list else kind
        return (
            f"{setting}: no linear layer or convolution of the model has {num_classes} outputs, a "
            f"class each, so 'head' is not known: set {remedy}=<layer>; {_nearest(pattern, names)}"
        )
    return f"{setting}: '{pattern}' matches no parameter of the model; {_nearest(pattern, names)}"


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
