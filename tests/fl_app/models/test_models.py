from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fl_app.models import (
    LEAST_CHIP_PX,
    MODELS,
    accepts_missing,
    build_model,
    takes_modalities,
)
from fl_app.settings import Settings
from rsdgc.errors import SettingError
from strategies.sites import ModalityInfo

VGG = ("vgg16", "vgg16-bn", "vgg19", "vgg19-bn")
FUSED = tuple(name for name in MODELS if takes_modalities(name))  # in test_fusion.py
LIGHT = tuple(name for name in MODELS if name not in VGG + FUSED)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def check_forward(model: nn.Module, bands: int, px: int, classes: int) -> None:
    logits = model.eval()(torch.randn(2, bands, px, px))
    assert logits.shape == (2, classes)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("px", [32, 64])
@pytest.mark.parametrize("name", LIGHT)
def test_every_light_model_takes_chips_of_any_band_count(name: str, px: int) -> None:
    check_forward(build_model(name, 5, 7, px), 5, px, 7)


@pytest.mark.parametrize("name", LIGHT)
def test_least_chip_is_enough_for_training(name: str) -> None:
    px = LEAST_CHIP_PX[name]
    logits = build_model(name, 3, 4, px).train()(torch.randn(4, 3, px, px))
    logits.sum().backward()
    assert logits.shape == (4, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", VGG)
def test_vgg_takes_small_chips(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # 140 million values need not be drawn to see that the shapes fit.
    for draw in ("kaiming_normal_", "kaiming_uniform_", "normal_"):
        monkeypatch.setattr(nn.init, draw, lambda tensor, *a, **k: nn.init.constant_(tensor, 1e-3))
    model = build_model(name, 4, 45, 32)
    assert count(model) == pytest.approx(134e6 if "16" in name else 140e6, rel=0.01)
    for px in (32, 64):
        check_forward(model, 4, px, 45)


PLAIN_VGG = ("vgg16", "vgg19")


@pytest.fixture
def slim_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torchvision build VGG with an eighth of its channels and a small classifier."""
    from torchvision.models import vgg  # noqa: PLC0415  # no other test file needs it at its start

    for name, letter in zip(PLAIN_VGG, "DE", strict=True):
        widths = [width if width == "M" else width // 8 for width in vgg.cfgs[letter]]

        def build(widths: list[Any] = widths, **options: Any) -> nn.Module:
            model = vgg.VGG(vgg.make_layers(widths), init_weights=options["init_weights"])
            linear = nn.Linear(49 * 64, 128), nn.Linear(128, options["num_classes"])
            model.classifier = nn.Sequential(linear[0], nn.ReLU(), nn.Dropout(), linear[1])
            return model

        monkeypatch.setattr(f"torchvision.models.{name}", build)


@pytest.mark.usefixtures("slim_vgg")
@pytest.mark.parametrize("name", PLAIN_VGG)
def test_a_signal_and_its_gradient_pass_through_vgg(name: str) -> None:
    model = build_model(name, 3, 6, 32).eval()
    chips = torch.randn(16, 3, 32, 32)
    hidden = model.classifier[:2](model.avgpool(model.features(chips)).flatten(1))
    assert 0.1 < hidden.std() < 10
    nn.functional.cross_entropy(model(chips), torch.arange(16) % 6).backward()
    assert model.features[0].weight.grad.norm() > 0.003


@pytest.mark.slow
@pytest.mark.usefixtures("slim_vgg")
@pytest.mark.parametrize("name", PLAIN_VGG)
def test_vgg_starts_at_the_default_settings(name: str) -> None:
    settings = Settings.from_mapping({"model": name})
    model = build_model(name, 3, 4, 32)
    torch.manual_seed(0)
    patterns, labels = torch.randn(4, 3, 4, 4), torch.arange(256) % 4
    chips = nn.functional.interpolate(patterns[labels], size=32) + torch.randn(256, 3, 32, 32)
    momentum = settings.resolved("momentum")
    optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate_at(1), momentum)
    for step in range(120):
        batch = torch.arange(32) + 32 * (step % 8)
        loss = nn.functional.cross_entropy(model(chips[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        if loss < 0.1:
            break
    with torch.no_grad():
        assert (model.eval()(chips).argmax(1) == labels).float().mean() > 0.9


@pytest.mark.parametrize(
    ("name", "bands", "parameters"),
    [("small-resnet", 3, 1.23e6), ("small-cnn", 3, 95e3), ("hyper-cnn", 200, 103e3)],
)
def test_sizes_of_the_small_models(name: str, bands: int, parameters: float) -> None:
    assert count(build_model(name, bands, 10, 16)) == pytest.approx(parameters, rel=0.05)


@pytest.mark.parametrize("px", [8, 9, 17, 100])
def test_small_resnet_takes_any_chip_from_8_px(px: int) -> None:
    check_forward(build_model("small-resnet", 6, 3, px), 6, px, 3)


@pytest.mark.parametrize("bands", [1, 3, 200])
@pytest.mark.parametrize("px", [1, 3, 11])
def test_hyper_cnn_takes_patches(bands: int, px: int) -> None:
    check_forward(build_model("hyper-cnn", bands, 16, px), bands, px, 16)


def test_hyper_cnn_computes_the_same_a_few_patches_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = build_model("hyper-cnn", 37, 4, 9)
    chips = torch.randn(7, 37, 9, 9)
    outcomes = []
    for pixels in (10**9, 2 * 81, 1):
        monkeypatch.setattr("fl_app.models.hyper_cnn.CHUNK_PIXELS", pixels)
        model.zero_grad()
        logits = model(chips)
        logits.square().sum().backward()
        outcomes.append((logits, model.spectral[0].weight.grad))
    for logits, gradient in outcomes[1:]:
        assert torch.allclose(logits, outcomes[0][0], atol=1e-5)
        assert torch.allclose(gradient, outcomes[0][1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", LIGHT)
def test_initialization_is_seeded_and_leaves_the_global_numbers_alone(name: str) -> None:
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first = build_model(name, 3, 4, 32, seed=5)
    assert torch.equal(torch.rand(3), expected)
    same, other = (build_model(name, 3, 4, 32, seed=seed) for seed in (5, 6))
    pairs = list(zip(first.parameters(), same.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    pairs = list(zip(first.parameters(), other.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_small_chips_keep_the_stem_fine() -> None:
    assert build_model("resnet18", 3, 4, 32).conv1.stride == (1, 1)
    assert build_model("resnet18", 3, 4, 64).conv1.stride == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("resnet19", 3, 4, 32), "resnet18"),
        (("vgg19", 3, 4, 31), "32 px"),
        (("convnext-tiny", 3, 4, 8), "16 px"),
        (("small-cnn", 0, 4, 32), "0 bands"),
        (("small-cnn", 3, 1, 32), "1 classes"),
    ],
)
def test_what_cannot_be_built_is_refused_in_one_line(
    arguments: tuple[str, int, int, int], words: str
) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        build_model(*arguments)
    assert "\n" not in str(caught.value)


def test_a_registered_model_is_found_by_its_name() -> None:
    assert "mine" not in MODELS
    MODELS.register("mine")(
        lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
    )
    try:
        check_forward(build_model("mine", 1, 3, 8), 1, 8, 3)
    finally:
        del MODELS._items["mine"]


FUSION = """
import torch
from torch import nn
from fl_app.models import branch_key

class Fusion(nn.Module):
    def __init__(self, modalities, num_classes):
        super().__init__()
        self.branches = nn.ModuleDict(
            {branch_key(m.name): nn.Linear(len(m.bands) * m.px**2, num_classes) for m in modalities}
        )

    def forward(self, *chips):
        pairs = zip(self.branches.values(), chips, strict=True)
        return sum(branch(x.flatten(1)) for branch, x in pairs if x is not None)

class NeedsAll(Fusion):
    def forward(self, *chips):
        return super().forward(*(x + 0 for x in chips))

class NeedsOptical(Fusion):
    def forward(self, optical, *others):
        return super().forward(optical + 0, *others)

class TwoRows(Fusion):
    def forward(self, *chips):
        return super().forward(*chips)[:, :1]
"""
MODALITIES = (
    ModalityInfo("optical", ("blue", "green", "red"), 8),
    ModalityInfo("s2.60m", ("b1", "b9"), 2),
    ModalityInfo("elevation", ("dem",), 4),
)


@pytest.fixture
def fusion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "their_fusion.py").write_text(FUSION)
    monkeypatch.syspath_prepend(tmp_path)
    yield "their_fusion"
    del sys.modules["their_fusion"]


def test_a_model_that_asks_for_modalities_takes_a_tensor_of_each(fusion: str) -> None:
    assert takes_modalities(f"{fusion}:Fusion")
    assert not takes_modalities("small-cnn")
    model = build_model(f"{fusion}:Fusion", 6, 3, 8, modalities=MODALITIES)
    assert list(dict(model.named_parameters()))[2] == "branches.s2%2E60m.weight"
    optical, elevation = torch.randn(5, 3, 8, 8), torch.randn(5, 1, 4, 4)
    assert model(optical, None, elevation).shape == (5, 3)


@pytest.mark.parametrize(
    ("name", "accepted"), [("Fusion", True), ("NeedsAll", False), ("NeedsOptical", False)]
)
def test_whether_a_modality_may_be_missing_is_tried(
    fusion: str, name: str, *, accepted: bool
) -> None:
    model = build_model(f"{fusion}:{name}", 6, 3, 8, modalities=MODALITIES)
    assert accepts_missing(model, MODALITIES) is accepted


def test_a_fusion_model_is_checked_with_a_tensor_of_each_modality(fusion: str) -> None:
    chips = r"\(2, 3, 8, 8\) and \(2, 2, 2, 2\) and \(2, 1, 4, 4\)"
    words = rf"maps chips {chips} in evaluation mode to \(2, 1\): return"
    with pytest.raises(SettingError, match=words):
        build_model(f"{fusion}:TwoRows", 6, 3, 8, modalities=MODALITIES)
    with pytest.raises(SettingError, match="build it with those of the data"):
        build_model(f"{fusion}:Fusion", 6, 3, 8)
