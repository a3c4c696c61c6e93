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


class Shared(nn.Module):
    """A normalization under two names of one module, and under a third in another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 8, 1)
        self.first = self.second = nn.BatchNorm2d(8)
        self.tail = nn.Sequential(nn.ReLU(), self.first, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.unused = None
        self.register_module("absent", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.tail(self.second(self.first(self.conv(x))))


def test_a_layer_of_several_names_stays_one_layer() -> None:
    model = Shared()
    weight = model.first.weight
    replace_batch_norm(model)
    assert isinstance(model.first, nn.GroupNorm)
    assert model.second is model.first
    assert model.tail[1] is model.first
    assert model.first.weight is weight
    assert model(torch.randn(1, 2, 4, 4)).shape == (1, 8)
    assert ModelParts(model, "group").running == ()


def test_a_shared_activation_after_a_norm_is_replaced_once() -> None:
    timm = pytest.importorskip("timm")
    norm = timm.layers.BatchNormAct2d(8)
    model = replace_batch_norm(nn.ModuleDict({"a": norm, "b": nn.Sequential(norm)}))
    assert model["a"] is model["b"][0]


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm])
def test_a_layer_without_running_statistics_is_replaced(norm: type[nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(4, 8), norm(8, track_running_stats=False))
    assert isinstance(replace_batch_norm(model)[1], nn.GroupNorm)


@pytest.mark.parametrize("tracked", [False, True])
def test_instance_normalization_stays(tracked: bool) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.InstanceNorm2d(4, track_running_stats=tracked))
    parts = ModelParts(replace_batch_norm(model), "group")
    assert isinstance(model[1], nn.InstanceNorm2d)
    assert parts.running == (("1.running_mean", "1.running_var") if tracked else ())
