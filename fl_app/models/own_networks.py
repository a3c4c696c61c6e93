"""Networks that are not built in: called with what they ask for, and tried before they are used.

A builder is a function or a class that returns a :class:`torch.nn.Module`. What it returns is tried
on two chips of zeros, in evaluation and in training mode, so that a mistake is one line before the
run and not a failure at every site in the middle of it.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rsdgc.errors import SettingError, describe_error

if TYPE_CHECKING:  # strategies imports Flower, which takes a second
    from strategies.sites import ModalityInfo

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


def accepts_missing(model: nn.Module, modalities: Sequence[ModalityInfo]) -> bool:
    """Return whether a fusion network works with each modality missing, and with each alone."""
    shapes = [(2, len(m.bands), m.px, m.px) for m in modalities]
    modes = _modes(model)
    model.eval()
    try:
        for index in range(len(shapes)):
            for absent in ({index}, set(range(len(shapes))) - {index}):
                if 0 < len(absent) < len(shapes):
                    _logits(model, shapes, absent)
    except Exception:  # whatever a user's code raises
        return False
    finally:
        _set_modes(modes)
    return True


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
                f"{', '.join(arguments)}: give it a default value"
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
            _try(name, model, _input_shapes(builder, arguments), arguments["num_classes"])
        except _NetworkError as error:
            if not remedy:
                raise
            raise SettingError(f"{error}; {remedy}") from error.__cause__
    _check_layers(name, model)
    return model


class _NetworkError(SettingError):
    """The network raised an exception."""


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
        raise _NetworkError(f"model {name!r} cannot be built: {reason}") from error
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
    if asks_for_modalities(builder):
        return [(2, len(m.bands), m.px, m.px) for m in arguments["modalities"]]
    return [(2, arguments["num_bands"], arguments["chip_px"], arguments["chip_px"])]


def _try(name: str, model: nn.Module, shapes: Sequence[tuple[int, ...]], num_classes: int) -> None:
    """Refuse a network that does not map two chips of zeros to two rows of logits.

    It is left as it was, but for lazy layers, which take their sizes from the first chips.
    """
    chips = " and ".join(map(str, shapes))
    modes = _modes(model)
    buffers: dict[str, Tensor] = {}
    for mode in ("evaluation", "training"):
        model.train(mode == "training")
        try:
            logits = _logits(model, shapes)
        except Exception as error:
            raise _NetworkError(
                f"model {name!r} fails on chips {chips} in {mode} mode: {describe_error(error)}"
            ) from error
        if not isinstance(logits, Tensor) or logits.shape != (2, num_classes):
            raise SettingError(
                f"model {name!r} maps chips {chips} in {mode} mode to {_describe_output(logits)}: "
                f"return logits {(2, num_classes)}"
            )
        if mode == "evaluation":  # only now do the buffers of lazy layers have values
            buffers = {key: buffer.clone() for key, buffer in _buffers(model)}
    with torch.no_grad():
        for key, buffer in _buffers(model):  # normalization must not learn from the zeros
            buffer.copy_(buffers[key])
    _set_modes(modes)


@torch.no_grad()
def _logits(
    model: nn.Module, shapes: Sequence[tuple[int, ...]], absent: Collection[int] = ()
) -> object:
    """Return what a model makes of zeros of these shapes; None stands for those that are absent."""
    chips = [None if i in absent else torch.zeros(shape) for i, shape in enumerate(shapes)]
    logits: object = model(*chips)
    return logits


def _modes(model: nn.Module) -> dict[nn.Module, bool]:
    return {module: module.training for module in model.modules()}


def _set_modes(modes: Mapping[nn.Module, bool]) -> None:
    for module, training in modes.items():
        module.training = training


def _buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return ((key, buffer) for key, buffer in model.named_buffers() if not is_lazy(buffer))


def _describe_output(output: object) -> str:
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    if isinstance(output, Mapping):
        return f"{type(output).__name__} with {', '.join(map(str, output))}"
    return type(output).__name__


def _check_layers(name: str, model: nn.Module) -> None:
    """Refuse a network whose parameters cannot be sent as one float32 vector."""
    parameters = dict(model.named_parameters())
    if not parameters:
        raise SettingError(f"model {name!r} has no parameters: there is nothing to train")
    for layer, parameter in parameters.items():
        if is_lazy(parameter):
            raise SettingError(
                f"model {name!r}: layer {layer!r} has no size after a forward pass: use the layer, "
                "or remove it"
            )
        if parameter.dtype != torch.float32:
            kind = str(parameter.dtype).removeprefix("torch.")
            remedy = (
                "use two real layers for its real and imaginary parts"
                if parameter.is_complex()
                else "return the network's .float()"
            )
            raise SettingError(f"model {name!r}: layer {layer!r} is {kind}: {remedy}")
