"""Tensors as flat float32 layers, in the order of their elements whatever their strides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from rsdgc.arrays import Float32
from rsdgc.errors import SettingError
from rsdgc.spec import ModelSpec


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are trained by their names, tied ones once.

    The names are those of the model itself, also if it is wrapped in DistributedDataParallel.

    Raises
    ------
    SettingError
        No parameter is trained, or one that is has no shape yet or complex numbers.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise SettingError("no parameter of the model is trained: freeze fewer layers")
    for name, parameter in trained.items():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise SettingError(
                f"parameter {name!r} has no shape yet: run a batch through the model"
            )
        if not parameter.is_floating_point():
            raise SettingError(f"parameter {name!r} is {parameter.dtype}: pass real numbers")
    return trained


def spec_of(tensors: Mapping[str, Tensor]) -> ModelSpec:
    """Return the names and shapes of tensors as a model's layers."""
    return ModelSpec.from_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()})


def to_layer(tensor: Tensor) -> Float32:
    """Return a tensor's elements, float32 [n]; they share its memory where that is possible.

    The elements of a sparse tensor are those of the dense one that it stands for.
    """
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    flat: Float32 = tensor.detach().to("cpu", torch.float32).contiguous().reshape(-1).numpy()
    return flat


def write_layer(layer: Float32, tensor: Tensor) -> None:
    """Copy a flat layer, float32 [n], into a tensor, rounded to its dtype."""
    with torch.no_grad():
        tensor.copy_(torch.from_numpy(layer).view(tensor.shape))


def shares_memory(layer: Float32, tensor: Tensor) -> bool:
    """Return whether :func:`to_layer` returned the tensor's own memory."""
    return layer.ctypes.data == tensor.data_ptr()


def joined(tensors: Iterable[Tensor]) -> Float32:
    """Return the elements of tensors as one new vector, float32 [n]."""
    return np.concatenate([to_layer(tensor) for tensor in tensors])
