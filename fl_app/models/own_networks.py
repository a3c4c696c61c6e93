"""Networks that are not built in: called with what they ask for, and tried before they are used.

A builder is a function or a class that returns a :class:`torch.nn.Module`. What it returns is tried
(:mod:`fl_app.models.network_trial`), and its entries are checked for what cannot be sent.
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
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from clients.model_parts import has_statistics
from fl_app.models.network_trial import NetworkError, try_network
from rsdgc.errors import SettingError, describe_error

Builder = Callable[..., nn.Module]

PLAIN_STATE = "remove its own state_dict and the hooks that change it"
"""What to do with a network whose state_dict is not that of PyTorch."""

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
            _check_types(name, model)
            _own_memory(name, model)
            try_network(name, model, _input_shapes(builder, arguments), arguments["num_classes"])
        except NetworkError as error:
            if not remedy:
                raise
            raise SettingError(f"{error}; {remedy}") from error.__cause__
    _check_layers(name, model)
    if device.type == "cpu" and _has_own_buffers(model):
        with device, _seeded(seed):
            _check_repeatable(name, model, _call(name, builder, arguments))
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


def _check_types(name: str, model: nn.Module) -> None:
    """Refuse a network whose parameters cannot be sent as one float32 vector."""
    for entry, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            continue
        if tensor.is_inference():
            raise SettingError(
                f"model {name!r}: {entry!r} cannot be trained or changed: build it outside "
                "torch.inference_mode()"
            )
        if tensor.is_floating_point() and tensor.element_size() == 1:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise SettingError(
                f"model {name!r}: {entry!r} is {kind}, which is neither sent nor saved: use float16"
            )
    for layer, parameter in model.named_parameters():
        if parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            remedy = "return the network's .float()"
            if parameter.is_complex():
                remedy = "use two real layers for its real and imaginary parts"
            elif not parameter.is_floating_point():  # .float() leaves those of integers as they are
                remedy = "it cannot be trained: register it as a buffer, with register_buffer"
            raise SettingError(f"model {name!r}: layer {layer!r} is {kind}: {remedy}")


def _own_memory(name: str, model: nn.Module) -> None:
    """Give each buffer memory for all of its values; refuse parameters that share some.

    Constants are often one value, expanded to the shape of a chip. Such memory cannot be written.
    """
    for buffer in model.buffers():
        if not is_lazy(buffer) and _overlaps(buffer):
            buffer.data = buffer.clone(memory_format=torch.contiguous_format)
    memory: dict[int, list[tuple[str, nn.Parameter]]] = {}
    for layer, parameter in model.named_parameters():
        if is_lazy(parameter) or parameter.is_meta:
            continue
        if _overlaps(parameter):
            raise SettingError(
                f"model {name!r}: several values of layer {layer!r} are one in memory: leave out "
                "expand() there, or do it in forward"
            )
        alike = memory.setdefault(parameter.untyped_storage().data_ptr(), [])
        for other, known in alike:
            if bool(torch.isin(_places(parameter), _places(known)).any()):
                raise SettingError(
                    f"model {name!r}: layers {other!r} and {layer!r} are two parameters with the "
                    "same memory, which a GPU would train apart: use one parameter for both, or "
                    "make the second of the first in forward"
                )
        alike.append((layer, parameter))


def _overlaps(tensor: Tensor) -> bool:
    """Return whether several values of a tensor are one in memory, as :meth:`expand` has them."""
    if tensor.layout != torch.strided or tensor.numel() < 2:
        return False
    return any(
        step == 0 and size > 1 for size, step in zip(tensor.shape, tensor.stride(), strict=True)
    )


def _places(tensor: Tensor) -> Tensor:
    """Return the places of a tensor's values in its storage."""
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    places = torch.arange(size).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    return places.flatten()


def _check_layers(name: str, model: nn.Module) -> None:
    """Refuse a network with entries that cannot be sent, now that lazy layers have a size."""
    parameters = dict(model.named_parameters())
    if not parameters:
        raise SettingError(f"model {name!r} has no parameters: there is nothing to train")
    for layer, parameter in parameters.items():
        if is_lazy(parameter):
            raise SettingError(
                f"model {name!r}: layer {layer!r} has no size after a forward pass: use the layer, "
                "or remove it"
            )
        if parameter.numel() == 0:
            raise SettingError(
                f"model {name!r}: layer {layer!r} of shape {tuple(parameter.shape)} is empty: "
                "remove it"
            )
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    state = _state(name, model)
    for entry, value in state.items():
        if not isinstance(value, Tensor):
            raise SettingError(
                f"model {name!r}: {entry!r} is {type(value).__name__}, which is not sent: remove "
                "get_extra_state, or register a buffer in its place"
            )
        if entry not in tensors:
            raise SettingError(
                f"model {name!r}: its state_dict has {entry!r}, which is no name of a parameter or "
                f"buffer: {PLAIN_STATE}"
            )
        if not _is_same_memory(value, tensors[entry]):
            raise SettingError(
                f"model {name!r}: its state_dict has a copy of {entry!r}: {PLAIN_STATE}"
            )
    if absent := [layer for layer in parameters if layer not in state]:
        raise SettingError(
            f"model {name!r}: its state_dict lacks layer {absent[0]!r}, which could not be sent: "
            f"{PLAIN_STATE}"
        )


def _state(name: str, model: nn.Module) -> Mapping[str, object]:
    try:
        return model.state_dict()
    except Exception as error:  # whatever a user's code raises
        raise SettingError(
            f"model {name!r}: its state_dict() fails: {describe_error(error)}: {PLAIN_STATE}"
        ) from error


def _is_same_memory(value: Tensor, tensor: Tensor) -> bool:
    """Return whether writing to one of two tensors changes the other."""
    if value.layout != torch.strided or value.is_meta:
        return True
    return value.dtype == tensor.dtype and value.data_ptr() == tensor.data_ptr()


def _has_own_buffers(model: nn.Module) -> bool:
    """Return whether a network has buffers that are not those of a normalization."""
    return any(
        any(True for _ in module.buffers(recurse=False)) and not has_statistics(module)
        for module in model.modules()
    )


def _check_repeatable(name: str, model: nn.Module, again: nn.Module) -> None:
    """Refuse a network whose buffers are others each time: those of two sites would differ."""
    buffers = dict(again.named_buffers())
    for key, buffer in model.named_buffers():
        other = buffers.get(key)
        if other is None or is_lazy(other):  # it is made by the first chips
            continue
        if not _equal_bits(buffer, other.to(buffer.device)):
            raise SettingError(
                f"model {name!r} builds buffer {key!r} with other values each time: draw them from "
                "PyTorch's, NumPy's or Python's global generator, which is seeded, or set a seed"
            )


def _equal_bits(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors of any type are the same; NaN equals NaN."""
    if one.layout != torch.strided or one.is_quantized:
        return torch.equal(one, other)
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    bits = [t.detach().contiguous().unsqueeze(-1).view(torch.uint8) for t in (one, other)]
    return torch.equal(*bits)
