"""Group normalization in place of batch normalization, in any network."""

from __future__ import annotations

from torch import nn

LARGEST_GROUPS = 32
"""Groups of a layer with many channels, as in Wu and He, "Group Normalization", 2018."""
LEAST_CHANNELS = 4
"""Channels of a group. With fewer, a last map of 2×2 pixels would leave a handful of values."""


class InsteadOfBatchNorm(nn.GroupNorm):
    """Group normalization in the place of batch normalization, and not the network's own."""


def replace_batch_norm(model: nn.Module) -> nn.Module:
    """Replace every batch normalization by group normalization, in place where it is a submodule.

    Scale and shift stay what they are, and a layer of several names stays one layer. A layer has up
    to 32 groups of at least four channels, and fewer where the channels cannot be divided. What a
    subclass of batch normalization does after it, such as the activation in timm's, is kept.

    Layers that keep no running statistics are replaced, too. Other normalizations stay as they are,
    such as instance normalization, whose groups are single channels already.

    Returns
    -------
    torch.nn.Module
        The model; a new module only if the model itself is a batch normalization.
    """
    return _replaced(model, {})


def _replaced(module: nn.Module, known: dict[nn.Module, nn.Module]) -> nn.Module:
    """Return what takes a module's place; ``known`` has it for the modules before."""
    if module not in known:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001
            known[module] = _group_norm(module)
            return known[module]
        known[module] = module
        # Not named_children(), which yields a module that has two names only once.
        for name, child in list(module._modules.items()):  # noqa: SLF001
            if child is not None and _replaced(child, known) is not child:
                setattr(module, name, known[child])
    return known[module]


def _group_norm(norm: nn.modules.batchnorm._BatchNorm) -> nn.Module:
    channels = norm.num_features
    most = max(1, min(LARGEST_GROUPS, channels // LEAST_CHANNELS))
    groups = next(number for number in range(most, 0, -1) if channels % number == 0)
    device = next((p.device for p in norm.parameters()), None)
    group = InsteadOfBatchNorm(groups, channels, eps=norm.eps, affine=norm.affine, device=device)
    if norm.affine:
        group.weight, group.bias = norm.weight, norm.bias
    # timm's classes normalize, drop out and activate in one module.
    rest = [child for child in norm.children() if not isinstance(child, nn.Identity)]
    return nn.Sequential(group, *rest) if rest else group
