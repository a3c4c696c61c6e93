from __future__ import annotations

import pytest
import torch
from torch import nn

from clients.model_parts import ModelParts
from fl_app.models import build_model
from fl_app.models.group_norm import replace_batch_norm


@pytest.mark.parametrize("name", ["resnet18", "mobilenet-v3", "timm:mobilenetv3_small_050"])
def test_no_network_has_statistics_afterwards(name: str) -> None:
    model = build_model(name, 3, 4, 32)
    before = {name: p.clone() for name, p in model.named_parameters()}
    parts = ModelParts(replace_batch_norm(model), "group")
    assert parts.running == parts.local == ()
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in before.values())
    model.eval()
    x = torch.randn(3, 3, 32, 32)
    torch.testing.assert_close(model(x)[:1], model(x[:1]), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(1, 1), (3, 1), (8, 2), (16, 4), (24, 6), (40, 10), (64, 16), (512, 32)],
)
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    norm = replace_batch_norm(nn.BatchNorm2d(channels))
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups


def test_the_activation_after_a_norm_is_kept() -> None:
    timm = pytest.importorskip("timm")
    model = nn.Sequential(timm.layers.BatchNormAct2d(8))
    replaced = replace_batch_norm(model)
    out = replaced(torch.randn(2, 8, 4, 4))
    assert (out >= 0).all()
    assert (out == 0).any()
