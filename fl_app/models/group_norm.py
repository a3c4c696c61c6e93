"""Group normalization in place of batch normalization, in any network."""

from __future__ import annotations

from torch import nn

from clients.model_parts import has_statistics

LARGEST_GROUPS = 32
"""Groups of a layer with many channels, as in Wu and He, "Group Normalization", 2018."""
LEAST_CHANNELS = 4
"""Channels of a group. With fewer, a last map of 2×2 pixels would leave a handful of values."""


def replace_batch_norm(model: nn.Module) -> nn.Module:
    """Replace every batch normalization by group normalization, in place where it is a submodule.

    Scale and shift stay what they are. A layer has up to 32 groups of at least four channels, and
    fewer where the channels cannot be divided. What a subclass of batch normalization does after
    it, such as the activation in timm's, is kept.

    Returns
    -------
    torch.nn.Module
        The model; a new module only if the model itself is a batch normalization.
    """
    if has_statistics(model) and isinstance(model, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001
        return _group_norm(model)
    for name, child in list(model.named_children()):
        replaced = replace_batch_norm(child)
        if replaced is not child:
            setattr(model, name, replaced)
    return model


def _group_norm(norm: nn.modules.batchnorm._BatchNorm) -> nn.Module:
    channels = norm.num_features
    most = max(1, min(LARGEST_GROUPS, channels // LEAST_CHANNELS))
    groups = next(number for number in range(most, 0, -1) if channels % number == 0)
    device = next((p.device for p in norm.parameters()), None)
    group = nn.GroupNorm(groups, channels, eps=norm.eps, affine=norm.affine, device=device)
    if norm.affine:
        group.weight, group.bias = norm.weight, norm.bias
    # timm's classes normalize, drop out and activate in one module.
    rest = [child for child in norm.children() if not isinstance(child, nn.Identity)]
    return nn.Sequential(group, *rest) if rest else group
