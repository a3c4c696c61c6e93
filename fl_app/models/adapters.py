"""Low-rank adapters: beside a frozen layer, a small one of two factors is trained.

With the frozen weight W (out × in) a layer computes ``W·x + (alpha / rank)·B·(A·x)``, where A is
rank × in and B is out × rank (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models",
2021, equation 3). For a convolution A is a convolution of W's kernel with ``rank`` channels, and B
has a kernel of one element. B starts at zero, so that the model starts as its backbone. After
training ``W + (alpha / rank)·B·A`` is a plain weight again.

Not all code calls a layer: some reads its ``weight``. PyTorch's fast path of
:class:`torch.nn.TransformerEncoderLayer` does, in evaluation mode alone, and so does the attention
of several networks of timm. Therefore ``weight`` of a layer with an adapter is the sum, whatever
reads it, and the layer stays the same object, which hooks and lists of the network may hold.

Plain layers keep this small: the library peft does the same for many more kinds of layers, and
brings transformers and a client of a model hub with it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the name everyone knows it by
from torch import Tensor, nn

__all__ = [
    "LoraConv1d",
    "LoraConv2d",
    "LoraConv3d",
    "LoraLinear",
    "adaptable_layers",
    "add_adapters",
    "is_adapter",
    "merged_state",
]


class _LoraLayer(nn.Module):
    """A layer with an adapter: :func:`add_adapters` makes it of a plain one, in place.

    Attributes
    ----------
    lora_a : Parameter [rank, in, …]
        The factor A, of the kernel of the weight.
    lora_b : Parameter [out, rank]
        The factor B.
    scale : float
        What their product is multiplied by.
    """

    lora_a: nn.Parameter
    lora_b: nn.Parameter
    scale: float

    @property
    def frozen_weight(self) -> Tensor:
        """The parameter ``weight``, without the adapter."""
        weight = self._parameters["weight"]
        assert weight is not None
        return weight

    @property
    def weight(self) -> Tensor:
        """The weight with which the plain layer computes the same."""
        step = self.lora_b @ self.lora_a.flatten(1)
        return self.frozen_weight + self.scale * step.view(self.frozen_weight.shape)


class LoraLinear(_LoraLayer, nn.Linear):  # type: ignore[override]  # weight is computed
    """A linear layer with an adapter."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, in) to (…, out)."""
        adapter = F.linear(F.linear(x, self.lora_a), self.lora_b)
        return F.linear(x, self.frozen_weight, self.bias) + self.scale * adapter


class _LoraConv(_LoraLayer):
    """A convolution with an adapter."""

    _convolve: Callable[..., Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, …) to (B, out, …), or either without B, as the plain layer does."""
        window: Any = self._conv_forward  # stride, padding and dilation of the plain layer
        one_element = self.lora_b.view(*self.lora_b.shape, *[1] * (self.lora_a.dim() - 2))
        adapter = self._convolve(window(x, self.lora_a, None), one_element)
        plain: Tensor = window(x, self.frozen_weight, self.bias)
        return plain + self.scale * adapter


class LoraConv1d(_LoraConv, nn.Conv1d):  # type: ignore[override]  # weight is computed
    """A convolution over (B, in, L) with an adapter."""

    _convolve = staticmethod(F.conv1d)


class LoraConv2d(_LoraConv, nn.Conv2d):  # type: ignore[override]  # weight is computed
    """A convolution over (B, in, H, W) with an adapter."""

    _convolve = staticmethod(F.conv2d)


class LoraConv3d(_LoraConv, nn.Conv3d):  # type: ignore[override]  # weight is computed
    """A convolution over (B, in, D, H, W) with an adapter."""

    _convolve = staticmethod(F.conv3d)


_WITH_ADAPTER: Mapping[type[nn.Module], type[_LoraLayer]] = {
    nn.Linear: LoraLinear,
    nn.Conv1d: LoraConv1d,
    nn.Conv2d: LoraConv2d,
    nn.Conv3d: LoraConv3d,
}
"""What a layer becomes, by its exact type: a subclass may compute something else."""


def is_adapter(parameter: str) -> bool:
    """Return whether a parameter of this name is a factor of an adapter."""
    return parameter.rpartition(".")[2] in ("lora_a", "lora_b")


def adaptable_layers(model: nn.Module) -> list[str]:
    """Return the names of the layers that an adapter can stand beside.

    Those are linear layers and ungrouped convolutions. Left out are their subclasses, which may
    compute something else (the ``out_proj`` of ``nn.MultiheadAttention`` is one), and layers that
    share their weight with another: merged, the two would have different weights.
    """
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return [
        name
        for name, module in model.named_modules()
        if type(module) in _WITH_ADAPTER
        and getattr(module, "groups", 1) == 1
        and uses[id(module.weight)] == 1
    ]


def add_adapters(
    model: nn.Module, layers: Collection[str], rank: int, alpha: float, seed: int
) -> None:
    """Put an adapter beside each of these layers, in place.

    Parameters
    ----------
    layers : collection of str
        Names among :func:`adaptable_layers`.
    rank : int
        Inner size; for a layer whose weight has a smaller side, that side.
    alpha : float
        Adapters are multiplied by alpha / rank.
    seed : int
        Of the factors A.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for name in layers:
            layer: Any = model.get_submodule(name)
            weight: Tensor = layer.weight
            smaller = min(rank, *weight.flatten(1).shape)
            lora_a = nn.Parameter(weight.new_empty(smaller, *weight.shape[1:]))
            nn.init.kaiming_uniform_(lora_a, a=math.sqrt(5))
            # The same object: what the network's code holds of it, hooks included, stays valid.
            layer.__class__ = _WITH_ADAPTER[type(layer)]
            layer.lora_a = lora_a
            layer.lora_b = nn.Parameter(weight.new_zeros(weight.shape[0], smaller))
            layer.scale = alpha / rank  # however small the layer is


@torch.no_grad()
def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the ``state_dict`` of the plain model that computes the same as one with adapters."""
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, _LoraLayer):
            prefix = f"{name}." if name else ""
            state[f"{prefix}weight"] = module.weight
            del state[f"{prefix}lora_a"], state[f"{prefix}lora_b"]
    return state
