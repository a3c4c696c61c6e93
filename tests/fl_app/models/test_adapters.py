"""Low-rank adapters: the model starts as its backbone, and ends as a plain one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # the name everyone knows it by
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fl_app.models import build_model
from fl_app.models.adapters import (
    LoraConv2d,
    LoraLinear,
    adaptable_layers,
    add_adapters,
    merged_state,
)


def outputs(model: nn.Module, chips: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(chips)


def move_adapters(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                step = torch.randn(parameter.shape, generator=generator)
                parameter.add_(step, alpha=0.1)


@pytest.mark.parametrize("name", ["small-resnet", "hyper-cnn"])
def test_it_starts_as_the_backbone_and_merges_to_a_plain_model(name: str) -> None:
    px = 9 if name == "hyper-cnn" else 16
    plain, model = build_model(name, 5, 4, px), build_model(name, 5, 4, px)
    chips = torch.randn(2, 5, px, px)
    add_adapters(model, adaptable_layers(model), rank=2, alpha=4, seed=0)
    assert torch.equal(outputs(model, chips), outputs(plain, chips))
    move_adapters(model)
    adapted = outputs(model, chips)
    assert not torch.allclose(adapted, outputs(plain, chips), atol=1e-3)
    plain.load_state_dict(merged_state(model))
    torch.testing.assert_close(outputs(plain, chips), adapted, atol=1e-5, rtol=1e-4)


@given(
    st.integers(1, 3),
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 8)),
    st.sampled_from([(1, 1, 0), (3, 1, 1), (3, 2, 1), (5, 2, 0)]),
    st.sampled_from(["zeros", "reflect", "circular"]),
    st.booleans(),
)
def test_merged_layers_compute_the_same(
    dims: int, sizes: tuple[int, int, int], window: tuple[int, int, int], mode: str, bias: bool
) -> None:
    channels_in, channels_out, rank = sizes
    kernel, stride, padding = window
    if dims == 3 and mode == "reflect":
        mode = "replicate"  # PyTorch has no other for three dimensions
    kind: Callable[..., nn.Module] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
    conv = kind(channels_in, channels_out, kernel, stride, padding, bias=bias, padding_mode=mode)
    model = nn.Sequential(conv, nn.Linear(8, 3, bias=bias))
    plain = copy.deepcopy(model)
    add_adapters(model, ["0", "1"], rank, alpha=3.0, seed=1)
    move_adapters(model)
    chips, vectors = torch.randn(2, channels_in, *[9] * dims), torch.randn(2, 8)
    expected = model[0](chips), model[1](vectors)
    plain.load_state_dict(merged_state(model))
    torch.testing.assert_close((plain[0](chips), plain[1](vectors)), expected, atol=1e-4, rtol=1e-4)


def test_layers_keep_their_names_and_the_seed_decides_the_factors() -> None:
    models = [build_model("small-cnn", 3, 4, 16) for _ in range(3)]
    before = torch.random.get_rng_state()
    for model, seed in zip(models, (0, 0, 1), strict=True):
        add_adapters(model, adaptable_layers(model), rank=4, alpha=8, seed=seed)
    assert torch.equal(torch.random.get_rng_state(), before)
    names = models[0].state_dict().keys()
    assert {"stage1.0.weight", "stage1.0.lora_a", "stage1.0.lora_b", "head.bias"} <= names
    first, same, other = (model.stage2[0].lora_a for model in models)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_an_adapter_is_not_larger_than_its_layer_needs() -> None:
    model = nn.Sequential(nn.Conv2d(1, 32, 1), nn.Flatten(), nn.Linear(32, 2))
    add_adapters(model, ["0", "2"], rank=8, alpha=16, seed=0)
    assert model[0].lora_a.shape == (1, 1, 1, 1)
    assert model[2].lora_a.shape == (2, 32)
    assert model[0].scale == model[2].scale == 2


def test_grouped_convolutions_and_subclasses_are_left_out() -> None:
    class Special(nn.Linear):
        pass

    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1), Special(4, 4))
    assert adaptable_layers(model) == ["1"]
    volumes = nn.Sequential(
        *(nn.Conv1d(4, 4, 3), nn.Conv3d(4, 4, 3), nn.Conv1d(4, 4, 3, groups=2)),
        *(nn.Conv3d(4, 4, 3, groups=4), nn.ConvTranspose1d(4, 4, 3), nn.ConvTranspose3d(4, 4, 3)),
    )
    assert adaptable_layers(volumes) == ["0", "1"]
    assert adaptable_layers(nn.MultiheadAttention(8, 2)) == []


def test_layers_that_share_a_weight_are_left_out() -> None:
    once, twice = nn.Linear(4, 4), nn.Linear(4, 4)
    tied, normed = nn.Linear(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    tied.weight = once.weight
    model = nn.Sequential(once, twice, tied, twice, normed, nn.Linear(4, 2))
    assert adaptable_layers(model) == ["5"]


def test_only_the_adapters_of_frozen_layers_get_gradients() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    add_adapters(model, ["0", "2"], rank=2, alpha=2, seed=0)
    model(torch.randn(2, 3, 3, 3)).sum().backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert with_gradient == {"0.lora_a", "0.lora_b", "2.lora_a", "2.lora_b"}
    assert isinstance(model[0], LoraConv2d)
    assert isinstance(model[2], LoraLinear)


def test_attention_of_timm_gets_adapters() -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, num_classes=4, depth=1, embed_dim=48, num_heads=3
    )
    plain, layers = copy.deepcopy(model), adaptable_layers(model)
    assert {"blocks.0.attn.qkv", "blocks.0.attn.proj", "patch_embed.proj"} <= set(layers)
    chips = torch.randn(2, 3, 32, 32)
    before = outputs(model, chips)
    add_adapters(model, layers, rank=2, alpha=4, seed=0)
    assert torch.equal(outputs(model, chips), before)
    move_adapters(model)
    adapted = outputs(model, chips)
    assert not torch.allclose(adapted, before, atol=1e-3)
    plain.load_state_dict(merged_state(model))
    torch.testing.assert_close(outputs(plain, chips), adapted, atol=1e-5, rtol=1e-4)


class Tokens(nn.Module):
    """PyTorch's encoder, whose fast path in evaluation mode reads the layers' weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        logits: torch.Tensor = self.head(self.encoder(tokens).mean(1))
        return logits


class Readers(nn.Module):
    """Layers that are not called, or not by their name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 8), nn.Linear(8, 4)
        self.listed, self.hooked = nn.Linear(8, 8), nn.Linear(8, 8)
        self.layers = [self.listed]  # not a ModuleList: PyTorch does not see it
        self.hooked.register_forward_hook(lambda _module, _inputs, output: 2 * output)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.conv2d(x, self.conv.weight, self.conv.bias).mean((2, 3))
        x = torch.addmm(self.fc.bias, x, self.fc.weight.t())
        for layer in self.layers:
            x = torch.relu(layer(x))
        weight = F.normalize(self.head.weight) if self.training else self.head.weight
        return F.linear(self.hooked(x), weight, self.head.bias)


def timm_network(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        timm = pytest.importorskip("timm")
        network: nn.Module = timm.create_model(name, num_classes=4, **options)
        return network

    return build


SMALL = {"embed_dim": 24, "num_heads": 2, "depth": 1, "img_size": 16}
READERS = [
    pytest.param(Tokens, id="TransformerEncoder"),
    pytest.param(Readers, id="own"),
    pytest.param(timm_network("beit_base_patch16_224", patch_size=8, **SMALL), id="beit"),
    pytest.param(timm_network("eva02_tiny_patch14_224", patch_size=8, **SMALL), id="eva02"),
    pytest.param(
        timm_network(
            "swinv2_tiny_window8_256",
            embed_dim=12,
            num_heads=(1, 2),
            depths=(1, 1),
            window_size=4,
            img_size=16,
            drop_path_rate=0.0,
        ),
        id="swinv2",
    ),
]


@pytest.mark.parametrize("build", READERS)
def test_adapters_count_wherever_a_weight_is_read(build: Callable[[], nn.Module]) -> None:
    """In each mode the scores are those of the merged model, and each adapter has a gradient."""
    torch.manual_seed(0)
    model = build().double()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)  # swinv2 starts with zeros, behind which nothing counts
    plain = copy.deepcopy(model.requires_grad_(requires_grad=False))
    if isinstance(plain, Readers):
        plain.layers = [plain.listed]
    layers = adaptable_layers(model)
    chips = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    before = outputs(model, chips)
    add_adapters(model, layers, rank=2, alpha=4, seed=0)
    assert torch.equal(outputs(model, chips), before)
    move_adapters(model)
    plain.load_state_dict(merged_state(model))
    for mode in (True, False):
        for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
            with context():
                expected, adapted = plain.train(mode)(chips), model.train(mode)(chips)
            torch.testing.assert_close(adapted, expected)
    assert not torch.allclose(adapted, before, atol=1e-3)
    model.train()(chips).square().sum().backward()
    for name in layers:
        layer = model.get_submodule(name)
        for factor in (layer.lora_a, layer.lora_b):
            assert isinstance(factor.grad, torch.Tensor), name
            assert factor.grad.any(), name


def test_a_model_with_adapters_is_copied_and_loaded_like_any_other() -> None:
    model = Tokens()
    add_adapters(model, adaptable_layers(model), rank=2, alpha=4, seed=0)
    move_adapters(model)
    chips = torch.randn(2, 3, 16, 16)
    copied, state = copy.deepcopy(model), model.state_dict()
    assert torch.equal(outputs(copied, chips), outputs(model, chips))
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    copied.load_state_dict(state, assign=True)
    assert torch.equal(outputs(copied, chips), outputs(model, chips))
    assert isinstance(copied.head, LoraLinear)
    assert torch.equal(copied.head.frozen_weight, state["head.weight"])
    compiled: Callable[..., torch.Tensor] = torch.compile(model, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(chips), outputs(copied, chips))


def test_adapters_count_with_half_precision() -> None:
    model = Readers().eval()
    add_adapters(model, adaptable_layers(model), rank=2, alpha=4, seed=0)
    chips = torch.randn(2, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        model(chips).float().sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "lora" in name)
