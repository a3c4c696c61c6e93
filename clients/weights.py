"""A model as one flat float32 vector, and back.

The vector holds every floating-point entry of the model's ``state_dict`` in its order: parameters,
and buffers such as the running statistics of batch normalization. Integer buffers (its count of
batches) stay at the site: their average means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from rsdgc.arrays import Float32
from rsdgc.errors import SettingError
from rsdgc.spec import ModelSpec


def _float_entries(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            yield name, tensor


def model_spec(model: nn.Module) -> ModelSpec:
    """Return the names and shapes of all floating-point entries of the model."""
    return ModelSpec.from_shapes(
        {name: tuple(tensor.shape) for name, tensor in _float_entries(model)}
    )


def model_to_vector(model: nn.Module, spec: ModelSpec, out: Float32 | None = None) -> Float32:
    """Copy a model on any device into a vector, float32 [spec.size]: into ``out``, or a new one."""
    flat = np.empty(spec.size, np.float32) if out is None else out
    _check_size(flat.size, spec, "the vector")
    _check_size(sum(tensor.numel() for _, tensor in _float_entries(model)), spec, "the model")
    target = torch.from_numpy(flat)
    with torch.no_grad():
        for index, (_, tensor) in enumerate(_float_entries(model)):
            start, stop = int(spec.offsets[index]), int(spec.offsets[index + 1])
            target[start:stop].view(tensor.shape).copy_(tensor)
    return flat


def load_vector(model: nn.Module, spec: ModelSpec, flat: Float32) -> None:
    """Copy a vector, float32 [spec.size], into the model, whose tensors stay where they are.

    A running variance below zero becomes zero: sums of lossy updates can push it there, and its
    square root would be NaN.

    The vector may be read-only. :class:`SettingError` is raised if its size is not the model's.
    """
    _check_size(flat.size, spec, "the received model")
    # "W" copies a read-only vector: PyTorch warns of memory that it must not write to.
    source = torch.from_numpy(np.require(flat, np.float32, ["C", "W"]))
    entries = list(_float_entries(model))
    source = source.to(entries[0][1].device)  # one transfer instead of one per layer
    with torch.no_grad():
        for index, (name, tensor) in enumerate(entries):
            start, stop = int(spec.offsets[index]), int(spec.offsets[index + 1])
            tensor.copy_(source[start:stop].view(tensor.shape))
            if name.rpartition(".")[2] == "running_var":
                tensor.clamp_(min=0)


def _check_size(size: int, spec: ModelSpec, what: str) -> None:
    if size != spec.size:
        raise SettingError(
            f"{what} has {size} values, and {spec.size} are expected: the server and all sites "
            "must build the same model, for the same bands and classes"
        )
