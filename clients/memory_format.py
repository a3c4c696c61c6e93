"""The order of chips and weights in memory: channels last, unless a network cannot take it.

Convolutions are 10 % faster channels last on a CPU, and more on a GPU with bfloat16. A network that
reshapes a map by ``x.view(x.size(0), -1)`` fails on such memory, and keeps the order of dimensions.

So does a network with a strided 1×1 convolution of a few bands, as the stems of RepVGG, MobileOne
and FastViT have it: for its gradient, channels last, oneDNN writes past the end of its memory
(uxlfoundation/oneDNN#6035), and the process dies, hangs, or goes on with wrong weights.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from clients.loader import Chips

_CONTIGUOUS = "_rsdgc_contiguous"
"""An attribute of a model, not a list of models: a copy of the model keeps it."""


ONEDNN_BLOCK = 16
"""Input channels from which oneDNN computes the gradient of a strided 1×1 convolution rightly: one
vector of float32, of AVX-512."""


def keep_contiguous(model: nn.Module) -> None:
    """Leave a model, and the chips that it is given, in the order of their dimensions."""
    setattr(model, _CONTIGUOUS, True)


def memory_format(model: nn.Module) -> torch.memory_format:
    """Return the memory format of a model's kernels and chips."""
    is_contiguous = getattr(model, _CONTIGUOUS, False)
    return torch.contiguous_format if is_contiguous else torch.channels_last


def format_weights(model: nn.Module) -> None:
    """Put a model's kernels into its memory format, in place."""
    if any(map(_fails_channels_last, model.modules())):
        keep_contiguous(model)
    for tensor in (*model.parameters(), *model.buffers()):
        # Module.to would refuse kernels of five dimensions.
        if not is_lazy(tensor) and tensor.dim() == 4:
            tensor.data = tensor.data.to(memory_format=memory_format(model))


def place_model(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model to a device, in its memory format; return it."""
    model.to(device)
    format_weights(model)
    return model


def format_chips(chips: Chips, model: nn.Module) -> Chips:
    """Return chips in a model's memory format; PyTorch would otherwise convert in every layer."""
    kind = memory_format(model)
    return [x if x is None else x.contiguous(memory_format=kind) for x in chips]


def _fails_channels_last(module: nn.Module) -> bool:
    """Return whether a layer is a strided 1×1 convolution of fewer channels than oneDNN's block."""
    return (
        isinstance(module, nn.Conv2d)
        and set(module.kernel_size) == {1}
        and set(module.stride) != {1}
        and module.groups == 1
        and module.in_channels < ONEDNN_BLOCK
    )
