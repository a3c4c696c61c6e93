"""Networks that are not built in: called with what they ask for, and tried before they are used.

A builder is a function or a class that returns a :class:`torch.nn.Module`. What it returns is tried
(:mod:`fl_app.models.network_trial`), and its entries are checked for what cannot be sent
(:mod:`fl_app.models.network_entries`).
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import nn

from fl_app.models.network_entries import (
    check_layers,
    check_repeatable,
    check_types,
    has_own_buffers,
    own_memory,
)
from fl_app.models.network_trial import NetworkError, try_network
from rsdgc.errors import SettingError, describe_error

Builder = Callable[..., nn.Module]

_built: WeakSet[nn.Module] = WeakSet()
"""The networks that builders have returned, while they are in use."""


def build_own(
    name: str, builder: Builder, arguments: Mapping[str, Any], seed: int, remedy: str = ""
) -> nn.Module:
    """Build a network that is not built in, and try it.

    On the meta device, where a simulation checks its settings, a network that fails is built and
    tried again on the CPU: not every operation works without values.

    Parameters
    ----------
    name : str
        As the user wrote it, for errors.
    builder : callable
        Is called with those of ``arguments`` that it names.
    arguments : mapping
        :data:`fl_app.model_catalog.ARGUMENTS` and their values.
    seed : int
        Of the random numbers of PyTorch, NumPy and Python while the network is built. Those of the
        process stay as they were.
    remedy : str
        What to do if the network fails on its own account, for errors.

    Returns
    -------
    torch.nn.Module
        On the default device.

    Raises
    ------
    SettingError
        The network cannot be built, or does not map chips to logits, or cannot be sent.
    """
    default = torch.get_default_device()
    try:
        return _build_on(default, name, builder, arguments, seed, remedy)
    except SettingError:
        if default.type != "meta":
            raise
    return _build_on(torch.device("cpu"), name, builder, arguments, seed, remedy)


def asks_for_modalities(builder: Builder) -> bool:
    """Return whether a builder makes a fusion network, which takes one tensor per modality."""
    try:
        return "modalities" in inspect.signature(builder).parameters
    except (TypeError, ValueError):
        return False  # refused where it is called


def bind_arguments(
    name: str, builder: Builder, arguments: Mapping[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and the named arguments of a builder's call: those it asks for.

    Raises :class:`SettingError` if it requires others.
    """
    try:
        parameters = inspect.signature(builder).parameters.values()
    except (TypeError, ValueError):  # such as some functions that are written in C
        raise SettingError(
            f"model {name!r} has no signature: name a function that is written in Python"
        ) from None
    positional: list[Any] = []
    by_name: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            # A model that takes all bands as one: a fusion network names its modalities.
            others = {key: value for key, value in arguments.items() if key != "modalities"}
            by_name = {**others, **by_name}
        elif parameter.kind is parameter.VAR_POSITIONAL:
            continue
        elif parameter.name in arguments:
            if parameter.kind is parameter.POSITIONAL_ONLY:
                positional.append(arguments[parameter.name])
            else:
                by_name[parameter.name] = arguments[parameter.name]
        elif parameter.default is parameter.empty:
            raise SettingError(
                f"model {name!r} asks for {parameter.name!r}, which is not among "
                f"{', '.join(arguments)}: give it a default value, or one of these names"
            )
    return positional, by_name


def _build_on(
    device: torch.device,
    name: str,
    builder: Builder,
    arguments: Mapping[str, Any],
    seed: int,
    remedy: str,
) -> nn.Module:
    with device, _seeded(seed):
        try:
            model = _call(name, builder, arguments)
            if device.type == "cpu":
                model = _to_cpu(name, model)
            check_types(name, model)
            own_memory(name, model)
            try_network(name, model, _input_shapes(builder, arguments), arguments["num_classes"])
        except NetworkError as error:
            if not remedy:
                raise
            raise SettingError(f"{error}; {remedy}") from error.__cause__
    check_layers(name, model)
    if device.type == "cpu" and has_own_buffers(model):
        with device, _seeded(seed):
            check_repeatable(name, model, _call(name, builder, arguments))
    return model


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed everything that a builder may draw from, and restore it afterwards."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would touch CUDA's, too
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002  # a builder may use the global generator
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002


def _call(name: str, builder: Builder, arguments: Mapping[str, Any]) -> nn.Module:
    """Call a builder with what it asks for; refuse what is not a builder or returns no module."""
    if isinstance(builder, nn.Module) or not callable(builder):
        kind = "a network" if isinstance(builder, nn.Module) else type(builder).__name__
        raise SettingError(f"model {name!r} is {kind}: name a function or class that builds one")
    positional, by_name = bind_arguments(name, builder, arguments)
    try:
        model: object = builder(*positional, **by_name)
    except (Exception, SystemExit) as error:
        reason = describe_error(error, _source_file(builder))
        raise NetworkError(f"model {name!r} cannot be built: {reason}") from error
    # What torch.compile makes of a network: the setting `compile` does the same at each site.
    model = getattr(model, "_orig_mod", model)
    if isinstance(model, torch.jit.ScriptModule):
        raise SettingError(
            f"model {name!r} is compiled by torch.jit: return the network as it is, and set "
            "compile=true"
        )
    if isinstance(model, nn.Module):
        if model in _built:
            raise SettingError(
                f"model {name!r} returned the same network twice: build a new one in every call"
            )
        _built.add(model)
        return model
    if isinstance(model, type):
        raise SettingError(f"model {name!r} returned the class {model.__name__}: return an object")
    raise SettingError(f"model {name!r} returned {type(model).__name__}: return a torch.nn.Module")


def _to_cpu(name: str, model: nn.Module) -> nn.Module:
    """Move a network to the CPU, from which a builder may have moved it."""
    for layer, parameter in model.named_parameters():
        if parameter.is_meta:
            raise SettingError(
                f"model {name!r}: layer {layer!r} has no values: build it on the CPU"
            )
    return model.to("cpu")


def _source_file(builder: Builder) -> str | None:
    try:
        return inspect.getsourcefile(builder)
    except TypeError:  # such as a functools.partial
        return None


def _input_shapes(builder: Builder, arguments: Mapping[str, Any]) -> list[tuple[int, ...]]:
    """Return the shape (C, H, W) of a chip in each tensor that a network takes."""
    if asks_for_modalities(builder):
        return [modality.shape for modality in arguments["modalities"]]
    return [(arguments["num_bands"], arguments["chip_px"], arguments["chip_px"])]
