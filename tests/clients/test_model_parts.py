from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from clients.mapped_vectors import create_vector, open_vector
from clients.model_parts import ModelParts, set_training_mode
from rsdgc.errors import RunError, SettingError
from tests.clients.toys import TinyNet

STATISTICS = ("norm.running_mean", "norm.running_var")
AFFINE = ("norm.weight", "norm.bias")


@pytest.mark.parametrize(
    ("batch_norm", "running", "local"),
    [
        ("average", STATISTICS, ()),
        ("group", STATISTICS, ()),
        ("local-statistics", (), STATISTICS),
        ("local", (), AFFINE + STATISTICS),
    ],
)
def test_statistics_never_enter_the_shared_vector(
    batch_norm: str, running: tuple[str, ...], local: tuple[str, ...]
) -> None:
    model = TinyNet()
    parts = ModelParts(model, batch_norm)
    assert parts.running == running
    assert parts.local == local
    assert parts.frozen == ()
    trained = {name for name, _ in model.named_parameters()} - set(local)
    assert {layer.name for layer in parts.spec.layers} == trained


def test_frozen_parameters_and_the_statistics_of_frozen_norms_never_change() -> None:
    model = TinyNet()
    model.norm.requires_grad_(requires_grad=False)
    parts = ModelParts(model, "local")
    assert parts.frozen == AFFINE + STATISTICS
    assert parts.running == parts.local == ()
    set_training_mode(model)
    before = parts.arrays(STATISTICS)
    model(torch.randn(4, 2, 8, 8))
    np.testing.assert_equal(parts.arrays(STATISTICS), before)
    assert model.training
    assert not model.norm.training


class Backbone(nn.Module):
    """A frozen convolution whose normalization has no weights of its own, and a trained head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, affine=False))
        self.head = nn.Linear(2, 2)
        self.body.requires_grad_(requires_grad=False)
        self.register_buffer("table", torch.arange(3.0))


def test_a_norm_without_weights_is_as_the_module_around_it() -> None:
    parts = ModelParts(Backbone())
    assert "body.1.running_var" in parts.frozen
    assert parts.running == ("table",)
    assert [layer.name for layer in parts.spec.layers] == ["head.weight", "head.bias"]


def test_scale_and_shift_stay_at_the_site_without_statistics_too() -> None:
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    model = nn.Sequential(nn.Conv2d(2, 4, 1), norm, nn.Conv2d(4, 3, 1))
    assert ModelParts(model, "local").local == ("1.weight", "1.bias")
    assert ModelParts(model, "local-statistics").local == ()
    norm.requires_grad_(requires_grad=False)
    parts = ModelParts(model, "local")
    assert parts.local == ()
    assert parts.frozen == ("1.weight", "1.bias")


def test_tied_parameters_are_sent_once() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2, bias=False), "b": nn.Linear(2, 2, bias=False)})
    model["b"].weight = model["a"].weight
    parts = ModelParts(model)
    assert [layer.name for layer in parts.spec.layers] == ["a.weight"]
    parts.load_vector(np.ones(4, np.float32))
    assert (model["b"].weight == 1).all()


def test_a_model_with_nothing_to_train_is_refused() -> None:
    model = TinyNet().requires_grad_(requires_grad=False)
    with pytest.raises(SettingError, match="freeze fewer"):
        ModelParts(model)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_vector_and_back_in_place(memory_format: torch.memory_format) -> None:
    model = TinyNet().to(memory_format=memory_format)
    parts = ModelParts(model)
    pointers = [p.data_ptr() for p in model.parameters()]
    flat = np.linspace(0, 1, parts.spec.size, dtype=np.float32)
    flat.flags.writeable = False
    parts.load_vector(flat)
    np.testing.assert_array_equal(parts.vector(), flat)
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert model.conv.weight.flatten()[5] == flat[parts.spec.offsets[0] + 5]


def test_the_vector_shares_no_memory() -> None:
    parts = ModelParts(TinyNet())
    parts.vector()[:] = 7
    assert not (parts.vector() == 7).any()


def test_a_round_does_not_depend_on_the_counters_of_the_one_before() -> None:
    model = TinyNet()
    parts = ModelParts(model)
    flat = parts.vector()
    model(torch.randn(4, 2, 8, 8))
    assert model.norm.num_batches_tracked == 1
    parts.load_vector(flat)
    assert model.norm.num_batches_tracked == 0


def test_wrong_size_is_refused() -> None:
    parts = ModelParts(TinyNet())
    size = parts.spec.size + 1
    with pytest.raises(SettingError, match=f"{size} values"):
        parts.load_vector(np.zeros(size, np.float32))


@pytest.mark.parametrize("arrays", [{"norm.mean": np.ones(1)}, {"norm.running_var": np.ones(99)}])
def test_arrays_of_another_model_are_refused(arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(RunError, match="must build the same model"):
        ModelParts(TinyNet()).load_arrays(arrays)


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(300, 300, bias=False) for _ in range(10)))


@pytest.mark.parametrize(("mode", "copied_layers"), [("c", 0), ("r", 1)])
def test_loading_a_mapped_replica_copies_at_most_a_layer(
    tmp_path: Path, mode: Literal["r", "c"], copied_layers: int
) -> None:
    """Replicas are mapped copy on write; what Flower has received is read-only."""
    parts = ModelParts(Wide())
    written = create_vector(tmp_path / "replica.f32", parts.spec.size)
    written[:] = np.arange(parts.spec.size)
    replica = open_vector(tmp_path / "replica.f32", parts.spec.size, mode)
    parts.load_vector(replica)  # what is allocated once, and only once
    tracemalloc.start()
    parts.load_vector(replica)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < copied_layers * 360_000 + 100_000
    np.testing.assert_array_equal(parts.vector(), replica)


class Constants(nn.Module):
    """Buffers that are not statistics; forward passes change two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 2)
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("filters", torch.ones(2, dtype=torch.complex64))
        self.register_buffer("cache", torch.zeros(2), persistent=False)
        self.register_buffer("mean", torch.zeros(2, dtype=torch.bfloat16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        self.cache += 1
        logits: torch.Tensor = self.head(x)
        return logits


def test_buffers_that_are_not_statistics_start_every_round_as_built() -> None:
    model = Constants()
    parts = ModelParts(model)
    assert parts.running == ("mean",)
    model(torch.zeros(3, 2))
    parts.load_vector(parts.vector())
    assert model.seen == 0
    assert not model.cache.any()
    assert torch.isinf(model.mask).sum() == 1
    assert parts.frozen_part().arrays["mean"].dtype == np.float32
    with torch.device("meta"):
        assert ModelParts(Constants()).spec.size == parts.spec.size
