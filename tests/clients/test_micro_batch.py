from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from clients.evaluation import score_model
from clients.micro_batch import MicroBatch
from clients.optimizers import Sgd
from clients.training import train
from rsdgc.errors import RunError
from tests.clients.toys import TinyNet, make_split, train_settings


class Plain(nn.Module):
    """A network without batch normalization, in which chips do not know of each other."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.conv = nn.Conv2d(2, 8, 3)
            self.norm = nn.GroupNorm(2, 8)
            self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean(dim=(2, 3)))


def limit(model: nn.Module, chips: int) -> nn.Module:
    """Let a model run out of memory above so many chips, after its first layer has worked."""

    def check(_: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if len(output) > chips:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    model.head.register_forward_hook(check)
    return model


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("chips", [1, 3, 8])
@pytest.mark.parametrize("changes", [{}, {"clip_norm": 0.1}, {"balanced_loss": True}])
def test_parts_of_a_batch_train_as_the_whole(chips: int, changes: dict[str, Any]) -> None:
    settings = train_settings(batch_size=10, epochs=2, proximal=0.1, **changes)
    whole, parts = Plain(), limit(Plain(), chips)
    expected = train(whole, make_split(), settings, seed=1)
    report = train(parts, make_split(), settings, seed=1)
    torch.testing.assert_close(weights(parts), weights(whole))
    assert report.loss == pytest.approx(expected.loss, rel=1e-5)
    assert (report.samples, report.steps) == (expected.samples, expected.steps)


def test_what_was_learned_is_remembered_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    micro_batch = MicroBatch()
    model = limit(Plain(), 4)
    with caplog.at_level(logging.WARNING):
        for seed in range(3):
            train(model, make_split(), train_settings(batch_size=8), seed, micro_batch)
    assert micro_batch.chips == 4
    assert [record.getMessage() for record in caplog.records] == [
        "cpu has no memory for 8 chips at once: going on with 4 at once"
    ]


def test_whole_batches_are_the_default_and_change_nothing() -> None:
    settings = train_settings(batch_size=10)
    first, second = TinyNet(dropout=0.2), TinyNet(dropout=0.2)
    train(first, make_split(), settings, seed=1)
    train(second, make_split(), settings, 1, MicroBatch(10))
    assert torch.equal(weights(first), weights(second))


def test_batch_normalization_takes_parts_of_one_chip() -> None:
    report = train(limit(TinyNet(), 1), make_split(px=1), train_settings(batch_size=8), seed=0)
    assert report.steps == 3


def test_scores_do_not_depend_on_the_parts() -> None:
    model, split, micro_batch = TinyNet(), make_split(), MicroBatch()
    expected = score_model(model, split, 3)
    score = score_model(limit(model, 5), split, 3, micro_batch=micro_batch)
    np.testing.assert_array_equal(score.confusion, expected.confusion)
    assert score.loss == pytest.approx(expected.loss, rel=1e-6)
    assert micro_batch.chips == 3  # 24, 12, 6, 3


def test_a_missing_modality_stays_missing_in_all_parts() -> None:
    micro_batch = MicroBatch(2)
    seen = micro_batch.run(lambda parts: parts, [torch.zeros(5, 1), None], torch.arange(5))
    assert [(len(chips[0]), chips[1], y.tolist()) for chips, y in seen] == [
        (2, None, [0, 1]),
        (2, None, [2, 3]),
        (1, None, [4]),
    ]


def test_one_chip_that_does_not_fit_ends_in_one_line() -> None:
    micro_batch = MicroBatch(None, "raise gpu-share, ")
    with pytest.raises(RunError, match="for one chip at once: raise gpu-share, choose a smaller"):
        train(limit(Plain(), 0), make_split(), train_settings(), 0, micro_batch)
    with pytest.raises(RunError, match="for one chip at once: choose a smaller"):
        train(limit(Plain(), 0), make_split(), train_settings(), seed=0)


class Forgetful(Sgd):
    """Runs out of memory once, where it makes its state."""

    failed = False

    def _update(self, parameters: list[torch.Tensor]) -> None:
        if not Forgetful.failed:
            Forgetful.failed = True
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        super()._update(parameters)


def test_no_memory_for_the_optimizer_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.training.OPTIMIZERS", {"sgd": Forgetful})
    monkeypatch.setattr(Forgetful, "failed", False)
    model = Plain()
    before = weights(model)
    more = MicroBatch(None, "lower sites-per-gpu, ")
    with pytest.raises(RunError, match="the optimizer: lower sites-per-gpu, lower batch-size, ch"):
        train(model, make_split(), train_settings(), 0, more)
    assert torch.equal(weights(model), before)
    assert train(model, make_split(), train_settings(), seed=0).steps == 1  # the next round's


def test_no_memory_for_a_batch_before_it_is_divided_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")

    monkeypatch.setattr("clients.training.flips_and_quarter_turns", fail)
    # A deployed site has no sites-per-gpu to lower: what helps comes from the caller.
    with pytest.raises(RunError, match=r"memory for a batch .* optimizer: lower batch-size, ch"):
        train(Plain(), make_split(), train_settings(), seed=0)


def test_an_error_of_the_optimizer_is_not_taken_for_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("clients.optimizers.Sgd._update", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(Plain(), make_split(), train_settings(), seed=0)


def test_another_error_is_not_taken_for_memory() -> None:
    def fail(parts: object) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        MicroBatch().run(fail, [torch.zeros(2, 1)], torch.zeros(2))
