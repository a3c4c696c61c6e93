"""Entries of a network that is not built in: whether they can be trained, sent and saved.

Sites and server exchange the parameters as one float32 vector, by the names of PyTorch's
``state_dict``, and write received values into the network's own memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from clients.model_parts import has_statistics
from rsdgc.errors import SettingError, describe_error

PLAIN_STATE = "remove its own state_dict and the hooks that change it"
"""What to do with a network whose state_dict is not that of PyTorch."""


def check_types(name: str, model: nn.Module) -> None:
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


def own_memory(name: str, model: nn.Module) -> None:
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


def check_layers(name: str, model: nn.Module) -> None:
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
                f"model {name!r}: its state_dict has {entry!r}, which is not the name of a "
                f"parameter or buffer: {PLAIN_STATE}"
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


def has_own_buffers(model: nn.Module) -> bool:
    """Return whether a network has buffers that are not those of a normalization."""
    return any(
        any(True for _ in module.buffers(recurse=False)) and not has_statistics(module)
        for module in model.modules()
    )


def check_repeatable(name: str, model: nn.Module, again: nn.Module) -> None:
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
