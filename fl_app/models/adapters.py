"""Low-rank adapters: beside a frozen layer, a small one of two factors is trained.

With the frozen weight W (out × in) a layer computes ``W·x + (alpha / rank)·B·(A·x)``, where A is
rank × in and B is out × rank (Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models",
2021, equation 3). For a convolution A is a convolution of W's kernel with ``rank`` channels, and B
is 1×1. B starts at zero, so that the model starts as its backbone. After training
``W + (alpha / rank)·B·A`` is a plain weight again.

Plain layers keep this small: the library peft does the same for many more kinds of layers, and
brings transformers and a client of a model hub with it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812  # the name everyone knows it by
from torch import Tensor, nn

__all__ = ["LoraConv2d", "LoraLinear", "add_adapters", "merged_state"]


class LoraLinear(nn.Linear):
    """A linear layer with an adapter; ``weight`` and ``bias`` are those of ``base``."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        # On the meta device, because the parameters are replaced at once.
        has_bias = base.bias is not None
        super().__init__(base.in_features, base.out_features, has_bias, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, in) to (…, out)."""
        adapter = F.linear(F.linear(x, self.lora_a), self.lora_b)
        return F.linear(x, self.weight, self.bias) + self.scale * adapter

    def merged_weight(self) -> Tensor:
        """Return the weight with which the plain layer computes the same."""
        return self.weight + self.scale * self.lora_b @ self.lora_a


class LoraConv2d(nn.Conv2d):
    """A convolution with an adapter; ``weight`` and ``bias`` are those of ``base``."""

    def __init__(self, base: nn.Conv2d, rank: int, alpha: float) -> None:
        names = (
            *("in_channels", "out_channels", "kernel_size"),
            *("stride", "padding", "dilation", "padding_mode"),
        )
        options: dict[str, Any] = {name: getattr(base, name) for name in names}
        super().__init__(**options, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, *base.weight.shape[1:]))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_channels, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, in, H, W) to (B, out, H', W')."""
        reduced = self._conv_forward(x, self.lora_a, None)
        adapter = F.conv2d(reduced, self.lora_b[:, :, None, None])
        plain: Tensor = self._conv_forward(x, self.weight, self.bias)
        return plain + self.scale * adapter

    def merged_weight(self) -> Tensor:
        """Return the weight with which the plain layer computes the same."""
        step = self.lora_b @ self.lora_a.flatten(1)
        return self.weight + self.scale * step.view_as(self.weight)


def is_adapter(parameter: str) -> bool:
    """Return whether a parameter of this name is a factor of an adapter."""
    return parameter.rpartition(".")[2] in ("lora_a", "lora_b")


def adaptable_layers(model: nn.Module) -> list[str]:
    """Return the names of the layers that an adapter can stand beside.

    Those are linear layers and ungrouped convolutions. Subclasses may compute something else, and
    are left out, as are layers whose weight the module around them reads without calling them
    (``nn.MultiheadAttention``), and those that share it with another layer: merged, the two would
    have different weights.
    """
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return [
        name
        for name, module in model.named_modules()
        if (type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1))
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
            base = model.get_submodule(name)
            assert isinstance(base, (nn.Linear, nn.Conv2d))
            smaller = min(rank, *base.weight.flatten(1).shape)
            kind: Any = LoraLinear if isinstance(base, nn.Linear) else LoraConv2d
            # The scale stays alpha / rank, however small the layer is.
            adapted = kind(base, smaller, alpha * smaller / rank)
            _replace(model, name, adapted.train(base.training))


@torch.no_grad()
def merged_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the ``state_dict`` of the plain model that computes the same as one with adapters."""
    state = dict(model.state_dict())
    for name, module in model.named_modules():
        if isinstance(module, (LoraLinear, LoraConv2d)):
            prefix = f"{name}." if name else ""
            state[f"{prefix}weight"] = module.merged_weight()
            del state[f"{prefix}lora_a"], state[f"{prefix}lora_b"]
    return state


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
