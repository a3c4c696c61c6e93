"""Which parameters are trained: by name, by module, by pattern, by role."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fl_app.models import build_model
from fl_app.models.freezing import find_head, freeze, select
from rsdgc.errors import SettingError


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("small-resnet", "head"),
        ("mobilenet-v3", "classifier.3"),
        ("resnet18", "fc"),
        ("vgg16", "classifier.6"),
        ("convnext-tiny", "classifier.2"),
        ("hyper-cnn", "head"),
    ],
)
def test_the_head_is_found_by_its_outputs(name: str, head: str) -> None:
    with torch.device("meta"):
        assert find_head(build_model(name, 3, 7, 32), 7) == head


def test_a_convolution_may_be_the_head() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 1))
    assert (find_head(model, 2), find_head(model, 9)) == ("2", "")


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("head", {"head.weight", "head.bias"}),
        ("stage1, stage2 ,stage3", {"stage1", "stage2", "stage3"}),
        ("stage?", {"stage1", "stage2", "stage3"}),
        ("stage1.0.weight,head.bias", {"stage1.0.weight", "head.bias"}),
        ("*.bias", {"stage1.1.bias", "stage2.1.bias", "stage3.1.bias", "head.bias"}),
        ("*", {"stage1", "stage2", "stage3", "head"}),
    ],
)
def test_patterns_choose_parameters_and_modules(patterns: str, expected: set[str]) -> None:
    model = build_model("small-cnn", 3, 4, 16)
    names = [name for name, _ in model.named_parameters()]
    chosen = {n for n in names if n in expected or n.partition(".")[0] in expected}
    assert select(model, 4, patterns, "freeze") == chosen


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("stge1", "freeze: 'stge1' matches no parameter of the model; did you mean stage1"),
        ("zzz", "its modules are stage1, stage2, stage3, head$"),
        ("stage1.0.wieght", "did you mean stage1.0.weight"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(SettingError, match=words):
        select(build_model("small-cnn", 3, 4, 16), 4, f"head,{pattern}", "freeze")


def test_freezing_leaves_something_to_train() -> None:
    model = build_model("small-cnn", 3, 4, 16)
    freeze(model, select(model, 4, "stage1,head", "freeze"), "freeze")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.partition(".")[0] for name in trained} == {"stage2", "stage3"}
    with pytest.raises(SettingError, match="freeze freezes every parameter"):
        freeze(model, select(model, 4, "*", "freeze"), "freeze")
