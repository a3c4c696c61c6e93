"""Checkpoints that hold other objects beside tensors: read without running their code.

Training programs save hyperparameters, paths, times, scores of NumPy, or a whole network beside the
weights. ``torch.load(weights_only=True)`` refuses them, although a conversion has no use for them.
So each of their classes and functions is replaced, by its name, by one that does nothing: what the
file names is neither imported nor called. An object is then a dictionary whose attributes are what
the file says of it, which is enough to find the tensors of a network that was saved whole.

Not replaced are Python's own functions that run code, for which a file of weights has no honest
use, and PyTorch's distributed tensors: without them, a part of the weights would be left out.
"""

from __future__ import annotations

import argparse
import builtins
import pickle
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class _Value:
    """What a call in the file yields: nothing, whatever the file then says of it."""

    def __setstate__(self, state: object) -> None:
        """Take no state."""


class _List(list[object]):
    """What a call in the file yields that the file then appends to."""


CONTAINERS: Mapping[str, type] = {
    "collections.defaultdict": OrderedDict,
    "collections.deque": _List,
}
"""What calls yield that the file fills afterwards, by the name of the function."""


class _Calls(type):
    """The type of stand-ins: a call of one."""

    def __call__(cls, *_arguments: object, **_named: object) -> object:
        return CONTAINERS.get(f"{cls.__module__}.{cls.__qualname__}", _Value)()


class _StandIn(metaclass=_Calls):
    """A class or a function that the file names."""

    def __new__(cls, *_arguments: object) -> OrderedDict[str, object]:  # type: ignore[misc]
        # The only type besides dict whose items PyTorch lets a file set, and the attributes, too.
        return OrderedDict()


def load_tensors(source: Path) -> object:
    """Return the content of a checkpoint, with stand-ins for objects that are not PyTorch's.

    Raises what :func:`torch.load` does; :class:`pickle.UnpicklingError` if the file would run code.
    """
    try:
        # Many checkpoints keep their command's options beside the weights; a Namespace is inert.
        return _load(source, [argparse.Namespace])
    except pickle.UnpicklingError:
        stand_ins = _stand_ins(source)
        if not stand_ins:
            raise
    return _load(source, [argparse.Namespace, _Value, _List, *stand_ins])


def _load(source: Path, inert: list[Any]) -> object:
    with torch.serialization.safe_globals(inert):
        content: object = torch.load(source, map_location="cpu", weights_only=True)
    return content


def module_tensors(content: object) -> dict[str, Tensor]:
    """Return the parameters and buffers of a network that was saved whole; none of others.

    Those of a module that the network has under several names are under the first alone.
    """
    tensors: dict[str, Tensor] = {}
    modules, seen = [("", content)], set()
    while modules:
        prefix, module = modules.pop()
        if id(module) in seen:  # a file may hold a network that contains itself
            continue
        seen.add(id(module))
        state = getattr(module, "__dict__", {})
        for kind in ("_parameters", "_buffers"):
            entries = _items(state.get(kind))
            tensors |= {f"{prefix}{name}": t for name, t in entries if isinstance(t, Tensor)}
        children = [(f"{prefix}{name}.", child) for name, child in _items(state.get("_modules"))]
        modules += reversed(children)
    return tensors


def _items(entries: object) -> list[tuple[object, object]]:
    return list(entries.items()) if isinstance(entries, Mapping) else []


def _stand_ins(source: Path) -> list[Any]:
    """Return a stand-in for each name in a checkpoint that PyTorch does not let it use."""
    try:
        paths = torch.serialization.get_unsafe_globals_in_checkpoint(str(source))
    except Exception:  # of a file in PyTorch's format before 1.6, or a damaged one
        return []
    return [_stand_in(path) for path in paths if not _is_refused(path)]


def _stand_in(path: str) -> type:
    module, _, name = path.rpartition(".")
    return _Calls(name, (_StandIn,), {"__module__": module, "__qualname__": name})


def _is_refused(path: str) -> bool:
    """Return whether a file that has this name is refused, rather than read without it."""
    module, _, name = path.rpartition(".")
    if module == "builtins":  # getattr names the members of enumerations
        return name != "getattr" and not isinstance(getattr(builtins, name, None), type)
    return module.startswith("torch.distributed")
