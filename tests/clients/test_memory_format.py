from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from clients.evaluation import score_model
from clients.memory_format import keep_contiguous, memory_format, place_model
from clients.training import train
from tests.clients.toys import CPU, Viewed, make_split, train_settings


def test_kernels_of_any_dimensions_are_placed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(1, 2, 3), nn.Linear(3, 4))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert place_model(model, CPU) is model
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(map(torch.equal, model.state_dict().values(), before.values()))


def test_a_network_that_takes_contiguous_chips_gets_them() -> None:
    model, split = Viewed(), make_split()
    keep_contiguous(model)
    place_model(model, CPU)
    assert model.conv.weight.is_contiguous()
    assert train(model, split, train_settings(), 0).samples == 24
    assert score_model(model, split, 3).samples == 24
    copied = copy.deepcopy(model)
    assert train(place_model(copied, CPU), split, train_settings(), 0).samples == 24


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(2, 8, 1, stride=2), torch.contiguous_format),
        (nn.Conv2d(2, 8, 1, stride=(1, 3), bias=False), torch.contiguous_format),
        (nn.Conv2d(2, 8, 1), torch.channels_last),
        (nn.Conv2d(2, 8, 3, stride=2), torch.channels_last),
        (nn.Conv2d(2, 2, 1, stride=2, groups=2), torch.channels_last),
        (nn.Sequential(nn.Conv2d(2, 32, 3), nn.Conv2d(32, 8, 1, stride=2)), torch.channels_last),
    ],
)
def test_a_strided_convolution_of_few_bands_does_not_end_the_process(
    layer: nn.Module, expected: torch.memory_format
) -> None:
    model = nn.Sequential(layer, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(3))
    model(torch.zeros(1, 2, 8, 8))
    assert memory_format(place_model(model, CPU)) == expected
    for _ in range(8):  # each one may be what oneDNN writes past the end of
        assert train(model, make_split(px=32), train_settings(), 0).samples == 24
