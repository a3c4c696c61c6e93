from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import nn

from clients.loader import SplitLoader
from clients.model_parts import ModelParts
from clients.training import TrainSettings, choose_device, train
from rsdgc.errors import RunError, SettingError
from tests.clients.toys import CPU, Arrays, TinyNet, make_split, train_settings, unit


@pytest.mark.parametrize(("present", "expected"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_cuda_where_there_is_one(
    present: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: present)
    assert choose_device("auto").type == expected
    assert choose_device("cpu").type == "cpu"


def test_absent_cuda_and_unknown_names_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingError, match="'auto'"):
        choose_device("cuda")
    with pytest.raises(SettingError, match=r"'tpu'.*auto, cpu, cuda"):
        choose_device("tpu")


def trained(settings: TrainSettings, seed: int = 0, **split: int) -> torch.Tensor:
    model = TinyNet(dropout=0.2)
    train(model, make_split(**split), settings, seed)
    return torch.from_numpy(ModelParts(model).vector())


def test_training_learns() -> None:
    model, split = TinyNet(), make_split(count=48)
    first = train(model, split, train_settings(lr=0.05, batch_size=8), seed=0)
    last = train(model, split, train_settings(lr=0.05, batch_size=8, epochs=8), seed=1)
    assert last.loss < 0.7 * first.loss
    assert (first.samples, first.steps) == (48, 6)


def test_same_seed_same_weights_and_global_numbers_untouched() -> None:
    settings = train_settings(lr=0.05, batch_size=5, epochs=2)
    first = trained(settings, seed=4)
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(trained(settings, seed=4), first)
    assert torch.equal(torch.rand(2), expected)
    assert not torch.equal(trained(settings, seed=5), first)


def test_streamed_training_equals_cached() -> None:
    settings = train_settings(lr=0.05, batch_size=5)
    assert torch.equal(trained(settings), trained(settings, cache_bytes=0))


@pytest.mark.parametrize(("steps", "samples"), [(1, 10), (3, 24), (7, 58)])
def test_steps_count_batches_across_epochs(steps: int, samples: int) -> None:
    report = train(TinyNet(), make_split(), train_settings(lr=0.01, batch_size=10, steps=steps), 0)
    assert (report.steps, report.samples) == (steps, samples)


def test_epochs_differ_in_order() -> None:
    twice = trained(train_settings(lr=0.05, epochs=2, augment=False))
    again = trained(train_settings(lr=0.05, epochs=2, augment=True))
    assert not torch.equal(twice, again)


def test_clipping_bounds_the_first_step() -> None:
    plain = TinyNet()
    before = torch.cat([p.detach().flatten() for p in plain.parameters()])
    settings = train_settings(lr=1.0, weight_decay=0.0, steps=1, clip_norm=0.01)
    train(plain, make_split(), settings, 0)
    after = torch.cat([p.detach().flatten() for p in plain.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_a_last_batch_of_one_chip_passes_batch_normalization() -> None:
    model = TinyNet()
    report = train(model, make_split(count=9, px=1), train_settings(lr=0.01, batch_size=4), 0)
    assert report.steps == 3
    assert model.norm.training
    assert int(model.norm.num_batches_tracked) == 2


class Checkpointed(nn.Module):
    """Keeps no activations of a normalization of vectors: computes it again on the way back."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(2), nn.Linear(2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        vectors = x.mean((2, 3))
        normalized = torch.utils.checkpoint.checkpoint(self.norm, vectors, use_reentrant=False)
        logits: torch.Tensor = self.head(normalized)
        return logits


def test_a_last_batch_of_one_chip_passes_activation_checkpoints() -> None:
    report = train(Checkpointed(), make_split(9), train_settings(batch_size=4), seed=0)
    assert (report.samples, report.steps) == (9, 3)


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"lr": 1e30, "clip_norm": 0}, "1e+30 without clip-norm: lower it, or set clip-norm=5"),
        ({"lr": 1e18, "clip_norm": 0}, "1e+18 without clip-norm: lower it, or set clip-norm=5"),
        ({"lr": 1e30}, "1e+30 and clip-norm=5: lower one of them"),
        ({"weight_decay": 1e20}, "0.05 with weight-decay=1e+20: lower weight-decay below 40"),
        (
            {"proximal": 1e20, "clip_norm": 0},
            "0.05 with proximal=1e+20: lower proximal below 40, or the rate",
        ),
        ({"jitter": 1e38}, "0.05 with jitter=1e+38, in standard deviations: lower jitter below 1"),
    ],
)
def test_divergence_names_what_to_lower(changes: dict[str, Any], remedy: str) -> None:
    settings = train_settings(epochs=20, **changes)
    with pytest.raises(RunError, match=re.escape(f"at a learning rate of {remedy}")):
        train(TinyNet(), make_split(), settings, 0)


def one_step(model: TinyNet, split: SplitLoader, **changes: Any) -> list[torch.Tensor]:
    """Take one plain step of SGD with the whole split; return the gradients that it followed."""
    before = [p.detach().clone() for p in model.parameters()]
    plain: dict[str, Any] = {"augment": False, "clip_norm": 0.0, "momentum": 0.0}
    plain |= {"weight_decay": 0.0, "lr": 0.1, "batch_size": len(split), "steps": 1}
    train(model, split, train_settings(**(plain | changes)), 0)
    after = [p.detach() for p in model.parameters()]
    return [(old - new) / 0.1 for old, new in zip(before, after, strict=True)]


def uneven_split() -> SplitLoader:
    """Twelve chips of class 0, three of class 1, none of class 2."""
    rng = np.random.default_rng(3)
    chips = rng.normal(size=(15, 2, 4, 4)).astype(np.float32)
    labels = np.repeat([0, 1], [12, 3])
    return SplitLoader(Arrays([chips]), np.arange(15), labels, [unit(2)], CPU)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("balanced", [False, True])
def test_the_loss_is_pytorch_s_with_smoothed_labels_and_class_weights(
    smoothing: float, balanced: bool
) -> None:
    gradients = one_step(
        TinyNet(), uneven_split(), label_smoothing=smoothing, balanced_loss=balanced
    )
    twin = TinyNet()
    ((chips, y),) = uneven_split().batches(15, None)
    losses = torch.nn.functional.cross_entropy(
        twin(*chips), y, reduction="none", label_smoothing=smoothing
    )
    # Half of the loss comes from each of the two classes that there are.
    loss = (losses[:12].mean() + losses[12:].mean()) / 2 if balanced else losses.mean()
    torch.autograd.backward(loss)
    for gradient, parameter in zip(gradients, twin.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-5)


def test_balanced_batches_change_what_is_drawn_and_not_how_much() -> None:
    plain, balanced = (
        train(TinyNet(), uneven_split(), train_settings(batch_size=4, balanced_batches=b), 0)
        for b in (False, True)
    )
    assert (plain.samples, plain.steps) == (balanced.samples, balanced.steps)
    assert plain.loss != balanced.loss


def test_the_proximal_term_pulls_towards_the_received_model() -> None:
    """The first step has no distance to pull back from; the second one has the first's."""
    plain, pulled = TinyNet(), TinyNet()
    received = [p.detach().clone() for p in plain.parameters()]
    one_step(plain, uneven_split(), steps=1)
    moved = [p.detach() - r for p, r in zip(plain.parameters(), received, strict=True)]
    for model, proximal in ((plain := TinyNet(), 0.0), (pulled, 0.5)):
        one_step(model, uneven_split(), steps=2, proximal=proximal)
    for one, other, step in zip(plain.parameters(), pulled.parameters(), moved, strict=True):
        torch.testing.assert_close(one - other, 0.1 * 0.5 * step, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_a_process_that_trains_does_not_import_the_compiler() -> None:
    """It takes longer than a small site's round, and every message has a process of its own."""
    program = """
import sys
from clients.optimizers import OPTIMIZERS
from clients.training import train
from tests.clients.toys import TinyNet, make_split, train_settings
for optimizer in OPTIMIZERS:
    train(TinyNet(), make_split(), train_settings(lr=0.01, optimizer=optimizer), 0)
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_augmentation_is_repeatable_and_changes_what_is_seen() -> None:
    plain = train_settings(lr=0.05, batch_size=5, augment=False)
    for more in ({"jitter": 0.2}, {"band_dropout": 0.5}, {"crop": 0.5}):
        settings = train_settings(lr=0.05, batch_size=5, augment=False, **more)
        assert torch.equal(trained(settings, seed=4), trained(settings, seed=4))
        assert not torch.equal(trained(settings, seed=4), trained(plain, seed=4))
