"""Compilation, and float16 with its scale on the CPU: the arithmetic is the GPU's, slower."""

from __future__ import annotations

import math
import shutil
from itertools import pairwise

import pytest
import torch

from clients import training
from clients.acceleration import compile_model, half_type
from clients.training import train
from rsdgc.errors import RunError, SettingError
from tests.clients.toys import CPU, TinyNet, make_split, train_settings


@pytest.fixture
def _half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "half_type", lambda device: torch.float16)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_cpu_has_no_mixed_precision() -> None:
    assert half_type(CPU) is None


@pytest.mark.usefixtures("_half")
@pytest.mark.parametrize("optimizer", ["sgd", "sgd-nesterov", "adamw"])
def test_float16_trains_as_float32_does(optimizer: str) -> None:
    half, full = TinyNet(), TinyNet()
    changes = {"optimizer": optimizer, "lr": 0.01, "batch_size": 8, "epochs": 2, "augment": False}
    report = train(half, make_split(), train_settings(amp=True, **changes), seed=1)
    expected = train(full, make_split(), train_settings(amp=False, **changes), seed=1)
    assert report.loss == pytest.approx(expected.loss, rel=0.01)
    start = weights(TinyNet())
    moved, difference = weights(full) - start, weights(half) - weights(full)
    # AdamW makes whole steps of the noise in a bias before batch normalization.
    assert difference.norm() < (0.2 if optimizer == "adamw" else 0.02) * moved.norm()


@pytest.mark.usefixtures("_half")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("overflowing", [0, 2])
def test_a_step_that_overflows_is_skipped(optimizer: str, overflowing: int) -> None:
    """The first step is the hard case: its optimizer has no state yet."""
    model, steps = TinyNet(), []

    def overflow(_: torch.nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        steps.append(weights(model))
        return output * (math.inf if len(steps) == overflowing + 1 else 1.0)

    model.head.register_forward_hook(overflow)
    settings = train_settings(optimizer=optimizer, amp=True, batch_size=6, epochs=1)
    report = train(model, make_split(), settings, seed=1)
    steps.append(weights(model))
    moved = [not torch.equal(before, after) for before, after in pairwise(steps)]
    assert moved == [index != overflowing for index in range(4)]
    assert math.isfinite(report.loss)
    assert torch.isfinite(weights(model)).all()


@pytest.mark.usefixtures("_half")
def test_steps_that_all_overflow_are_divergence() -> None:
    model = TinyNet()
    model.head.register_forward_hook(lambda _, __, output: output * math.inf)
    with pytest.raises(RunError, match="training loss became nan"):
        train(model, make_split(), train_settings(amp=True), seed=1)


def fail(*_: object, **__: object) -> None:
    raise RuntimeError("Failed to find C compiler.\nPlease specify one.")


def test_a_missing_compiler_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(SettingError, match=r"Failed to find C compiler\.\): .*compile to false$"):
        compile_model(TinyNet(), CPU)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="PyTorch compiles with g++ on a CPU")
def test_a_compiled_model_keeps_its_names_and_trains_alike() -> None:
    plain, compiled = TinyNet(), TinyNet()
    compile_model(compiled, CPU)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    settings = train_settings(batch_size=12, lr=0.01)
    expected = train(plain, make_split(), settings, seed=1)
    report = train(compiled, make_split(), settings, seed=1)
    assert report.loss == pytest.approx(expected.loss, rel=1e-4)
    torch.testing.assert_close(weights(compiled), weights(plain), rtol=1e-3, atol=1e-5)
