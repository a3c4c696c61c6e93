"""The trial of a network on chips of zeros."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from clients.memory_format import memory_format
from clients.model_parts import ModelParts
from clients.training import train
from fl_app.models.adapters import add_adapters
from fl_app.models.network_trial import (
    NetworkError,
    changing_buffers,
    check_gradient,
    try_network,
)
from rsdgc.errors import SettingError
from tests.clients.toys import Viewed, make_split, train_settings

BANDS, CLASSES, PX = 2, 3, 8
SHAPES = [(BANDS, PX, PX)]


def pooled() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(BANDS, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(8, CLASSES),
    )


@pytest.mark.parametrize(
    ("build", "expected"), [(pooled, torch.channels_last), (Viewed, torch.contiguous_format)]
)
def test_a_network_is_left_as_it_was_but_for_its_memory_format(
    build: Callable[[], nn.Module], expected: torch.memory_format
) -> None:
    model = build()
    model[2].eval() if isinstance(model, nn.Sequential) else model.eval()  # modes of its own
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    strides = {name: value.stride() for name, value in model.state_dict().items()}
    try_network("own:network", model, SHAPES, CLASSES)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {name: value.stride() for name, value in after.items()} == strides
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert memory_format(model) == expected


def test_logits_of_another_size_are_refused() -> None:
    with pytest.raises(SettingError, match=r"maps chips \(2, 2, 8, 8\) in evaluation mode to"):
        try_network("own:network", pooled(), SHAPES, CLASSES + 1)


def test_a_network_for_other_bands_is_refused_with_its_reason() -> None:
    with pytest.raises(NetworkError, match=r"fails on chips .*expected input.* to have 2 channels"):
        try_network("own:network", pooled(), [(BANDS + 1, PX, PX)], CLASSES)


class TrainedApart(nn.Module):
    """Normalizes vectors while it is trained, and not afterwards."""

    def __init__(self, *, tracked: bool) -> None:
        super().__init__()
        self.body = nn.Linear(BANDS, 8)
        self.norm = nn.BatchNorm1d(8, track_running_stats=tracked)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        vectors = self.body(x.mean((2, 3)))
        return self.head(self.norm(vectors) if self.training else vectors)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_network_that_cannot_be_trained_on_a_last_batch_of_one_chip_is_refused(
    device: str,
) -> None:
    with torch.device(device):
        try_network("own:network", TrainedApart(tracked=True), SHAPES, CLASSES)
        words = (
            r"fails on chips \(1, 2, 8, 8\) in training mode: .*: the last batch of a split may "
            "have one chip; build 'norm' with track_running_stats=True"
        )
        with pytest.raises(NetworkError, match=words):
            try_network("own:network", TrainedApart(tracked=False), SHAPES, CLASSES)


def test_a_network_that_is_tried_trains_on_a_last_batch_of_one_chip() -> None:
    model = TrainedApart(tracked=True)
    try_network("own:network", model, SHAPES, CLASSES)
    report = train(model, make_split(9), train_settings(batch_size=4), seed=0)
    assert (report.samples, report.steps) == (9, 3)


class Buffers(nn.Module):
    """Buffers of all kinds: constants, and those that a step changes in one way or another."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.norm, self.instance = (
            nn.BatchNorm2d(BANDS),
            nn.InstanceNorm2d(2, track_running_stats=True),
        )
        self.head = nn.Linear(BANDS, CLASSES)
        self.fails = fails
        self.register_buffer("grid", torch.linspace(0, 1, PX))
        self.register_buffer("largest", torch.zeros(()))  # assigned anew
        self.register_buffer("mean", torch.zeros(BANDS))  # written to
        self.register_buffer("average", self.head.weight.detach().clone())  # to the same values

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.fails and self.training:
            raise RuntimeError("no")
        x = self.instance(self.norm(x)) + self.grid
        if self.training:
            self.largest = torch.maximum(self.largest, x.detach().max())
            self.mean.lerp_(x.detach().mean((0, 2, 3)), 0.1)
            self.average.lerp_(self.head.weight.detach(), 0.1)
        return self.head(x.mean((2, 3)) * self.mean.exp())


NORMS = {f"{norm}.running_{kind}" for norm in ("norm", "instance") for kind in ("mean", "var")}


def test_buffers_that_a_step_changes_are_told_from_constants() -> None:
    model = Buffers()
    names = ModelParts(model).running
    assert set(names) == NORMS | {"grid", "largest", "mean", "average"}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    assert changing_buffers(model, SHAPES, names) == set(names) - {"grid"}
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert model.training
    assert torch.equal(torch.get_rng_state(), generator)
    assert changing_buffers(Buffers(fails=True), SHAPES, names) == set(names)
    assert changing_buffers(model, SHAPES, ["norm.running_mean"]) == {"norm.running_mean"}


def test_what_is_trained_must_reach_the_logits() -> None:
    model = pooled()
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith("6.")
    check_gradient(model, SHAPES, "train-only=6")
    unused = nn.Linear(2, 2)
    model.requires_grad_(requires_grad=False).add_module("unused", nn.Identity())
    model.get_submodule("unused").add_module("layer", unused)
    with pytest.raises(SettingError, match="train-only=unused trains nothing that the class"):
        check_gradient(model, SHAPES, "train-only=unused")


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_adapters_must_reach_the_logits(device: str) -> None:
    with torch.device(device):
        model = pooled()
        model[0].register_module("unused", nn.Linear(2, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    add_adapters(model, ["0.unused"], rank=1, alpha=1, seed=0)
    with pytest.raises(SettingError, match=r"^adapters=lora: the class scores depend on no layer"):
        check_gradient(model, SHAPES, "adapters=lora")
    add_adapters(model, ["0"], rank=1, alpha=1, seed=0)
    check_gradient(model, SHAPES, "adapters=lora")
    assert all(parameter.grad is None for parameter in model.parameters())
    if device == "cpu":
        assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
