from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from fl_app.models import build_model
from rsdgc.errors import SettingError

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "px"),
    [
        ("resnet18", 8),
        ("resnet18", 64),
        ("convnext_atto", 32),
        ("vit_tiny_patch16_224", 64),
        ("swin_tiny_patch4_window7_224", 32),
        ("mobilenetv3_small_050", 64),
    ],
)
def test_a_network_of_timm_takes_any_bands_classes_and_chips(name: str, px: int) -> None:
    model = build_model(f"timm:{name}", 12, 7, px, seed=3)
    same = build_model(f"timm:{name}", 12, 7, px, seed=3)
    assert all(map(torch.equal, model.state_dict().values(), same.state_dict().values()))
    assert model.training
    logits = model(torch.randn(2, 12, px, px))
    assert logits.shape == (2, 7)
    logits.square().sum().backward()
    with torch.device("meta"):
        checked = build_model(f"timm:{name}", 12, 7, px)
    assert next(checked.parameters()).is_meta
    assert checked.state_dict().keys() == model.state_dict().keys()


def test_running_statistics_follow_within_a_short_round() -> None:
    # torchvision's MobileNetV3 has a momentum of 0.01, which the built-in model corrects.
    model = build_model("timm:mobilenetv3_small_050", 3, 4, 32)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 20
    assert all(norm.momentum is not None and norm.momentum >= 0.1 for norm in norms)


@pytest.mark.parametrize(
    ("name", "px", "words"),
    [
        ("timm:", 32, "unknown to timm .*: its documentation lists the names, such as timm:resn"),
        ("timm:resnet19", 32, "did you mean timm:resnet18"),
        ("timm:ResNet18", 32, "did you mean timm:resnet18"),
        (
            "timm:resnet18.a1_in1k",
            32,
            "weights 'a1_in1k'.* write timm:resnet18, and .*init-weights",
        ),
        ("timm:hf-hub:timm/resnet18", 32, "unknown to timm"),
        ("timm:local-dir:/tmp/x", 32, "unknown to timm"),
        ("timm:resnet18 ", 32, "did you mean timm:resnet18"),
        ("timm:convnext_atto", 16, r"fails on chips \(2, 3, 16, 16\).*cut larger chips$"),
        ("timm:vit_tiny_patch16_224", 8, r"fails on chips \(2, 3, 8, 8\).*cut larger chips$"),
        ("timm:maxvit_tiny_rw_224", 16, r"fails on chips .*ZeroDivisionError.*larger chips$"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_timm_cannot_build_is_refused_in_one_line(
    name: str, px: int, words: str, device: str
) -> None:
    with torch.device(device), pytest.raises(SettingError, match=words) as caught:
        build_model(name, 3, 4, px)
    assert "\n" not in str(caught.value)


def test_without_timm_the_command_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SettingError, match=r'needs the package timm .*pip install "rsdgc\[timm\]"'):
        build_model("timm:resnet18", 3, 4, 32)


def test_other_models_do_not_import_timm() -> None:
    code = (
        "import sys; from fl_app.models import build_model; build_model('small-cnn', 3, 4, 16);"
        "import fl_app.server_app, fl_app.client_app; sys.exit('timm' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
