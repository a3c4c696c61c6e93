from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import nn

from clients.optimizers import OPTIMIZERS

RATES = {"lr": 0.01, "momentum": 0.8, "weight_decay": 0.05}


class Branches(nn.Module):
    """Three branches, of which a step may use any, and a layer that all share."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.branches = nn.ModuleList([nn.Linear(3, 4) for _ in range(3)])
            self.norm = nn.LayerNorm(4)
            self.frozen = nn.Parameter(torch.ones(4), requires_grad=False)

    def forward(self, x: torch.Tensor, used: set[int]) -> torch.Tensor:
        features = [branch(x) for i, branch in enumerate(self.branches) if i in used]
        return self.norm(sum(features, torch.zeros(4))) * self.frozen


def torch_optimizer(name: str, model: nn.Module) -> torch.optim.Optimizer:
    lr, momentum, decay = RATES["lr"], RATES["momentum"], RATES["weight_decay"]
    trained = [p for p in model.parameters() if p.requires_grad]
    if name != "adamw":
        nesterov = name == "sgd-nesterov"
        return torch.optim.SGD(
            trained, lr, momentum=momentum, weight_decay=decay, nesterov=nesterov
        )
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr, betas=(momentum, 0.999))


@pytest.mark.parametrize("name", OPTIMIZERS)
@given(steps=st.lists(st.sets(st.integers(0, 2)), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_steps_are_those_of_pytorch_s_optimizer_whatever_is_used(
    name: str, steps: list[set[int]]
) -> None:
    model, twin = Branches(), Branches()
    optimizer = OPTIMIZERS[name](model, **RATES)
    expected = torch_optimizer(name, twin)
    x = torch.randn((7, 3), generator=torch.Generator().manual_seed(1))
    for used in steps:
        for network in (model, twin):
            torch.autograd.backward(network(x, used).pow(3).sum())
        optimizer.step()
        expected.step()
        expected.zero_grad()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        assert one.grad is None


def test_a_step_without_momentum_or_gradients_changes_nothing() -> None:
    model = Branches()
    OPTIMIZERS["sgd"](model, lr=0.1, momentum=0.0, weight_decay=0.5).step()
    for one, other in zip(model.parameters(), Branches().parameters(), strict=True):
        assert torch.equal(one, other)
