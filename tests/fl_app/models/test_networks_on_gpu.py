"""Every built-in network on a device, as a site trains it; without a GPU, and without memory."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from clients.device_memory import estimate_training
from fl_app.models import LEAST_CHIP_PX, MODELS
from fl_app.prepared_model import input_shapes, prepare_model
from fl_app.settings import Settings
from strategies.sites import ModalityInfo
from tests.clients.fake_cuda import GPU, fake_cuda

CASES: list[dict[str, Any]] = [
    *({"model": name} for name in MODELS),
    {"model": "resnet18", "adapters": "lora"},
    {"model": "resnet18", "batch-norm": "group"},
    {"model": "fusion-attention", "freeze": "branches.radar.*"},
]
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case.values()))


def prepared(case: dict[str, Any]) -> tuple[torch.nn.Module, list[tuple[int, int, int]]]:
    """Return a model and the shapes of its inputs."""
    px = max(16, LEAST_CHIP_PX.get(case["model"], 16))
    modalities = [
        ModalityInfo("optical", ("red", "green", "blue"), px),
        ModalityInfo("radar", ("vv", "vh"), px // 2),
    ]
    settings = Settings.from_mapping(case)
    model, _ = prepare_model(settings, modalities, 5, None)
    return model, input_shapes(settings.model, modalities)


@pytest.mark.slow
@cases
def test_no_network_mixes_devices(case: dict[str, Any]) -> None:
    with fake_cuda(), torch.device(GPU):
        model, shapes = prepared(case)
        chips = [torch.zeros(2, *shape) for shape in shapes]
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(*chips)
        torch.autograd.backward(logits.float().sum())
        for parameter in model.parameters():
            assert parameter.device == GPU
            assert (parameter.grad is not None) == parameter.requires_grad
        if len(chips) > 1:
            assert model(None, *chips[1:]).device == GPU


@pytest.mark.slow
@cases
def test_every_network_has_a_trial_step(
    case: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with torch.device("meta"):
        model, shapes = prepared(case)
    with caplog.at_level(logging.WARNING):
        memory = estimate_training(model, shapes, 4, states=1)
    assert not caplog.records
    pixels = 4 * sum(bands * height * width for bands, height, width in shapes)
    assert memory.activations > 3 * pixels  # more than the chips themselves
