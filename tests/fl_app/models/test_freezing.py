"""Which parameters are trained: by name, by module, by pattern, by role."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from fl_app.models import build_model
from fl_app.models.freezing import find_head, freeze, select
from rsdgc.errors import SettingError
from strategies.sites import ModalityInfo


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


def test_a_layer_with_as_many_outputs_is_not_taken_for_the_head() -> None:
    optical = ModalityInfo("optical", ("red", "nir"), 16)
    model = build_model("fusion-attention", 2, 128, 16, modalities=[optical])
    assert find_head(model, 128) == "head"
    wrapped = nn.ModuleDict({"classifier": nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))})
    wrapped["auxiliary"] = nn.Linear(4, 3)
    assert find_head(wrapped, 3) == "classifier.1"


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_a_convolution_may_be_the_head(kind: Callable[..., nn.Module]) -> None:
    model = nn.Sequential(kind(3, 5, 3), nn.ReLU(), kind(5, 2, 1))
    assert (find_head(model, 2), find_head(model, 9)) == ("2", "")


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [("freeze", "freeze"), ("train-only", "train-only"), ("adapters=lora", "train-only")],
)
def test_a_model_without_a_head_is_refused_with_a_remedy(setting: str, remedy: str) -> None:
    words = f"^{setting}: no linear layer or convolution .* 9 outputs.*: set {remedy}=<layer>; its"
    with pytest.raises(SettingError, match=words):
        select(nn.Sequential(nn.Conv3d(3, 5, 3)), 9, "0,head", setting)


def test_shared_parameters_are_matched_under_each_of_their_names() -> None:
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "c": nn.Linear(4, 2)})
    model["b"].weight = model["a"].weight
    assert select(model, 2, "b.weight", "freeze") == {"a.weight"}
    assert select(model, 2, "b", "freeze") == {"a.weight", "b.bias"}
    model["c"] = model["a"]
    assert select(model, 2, "c", "train-only") == {"a.weight", "a.bias"}
    with pytest.raises(SettingError, match=r"did you mean b\.weight"):
        select(model, 2, "b.weihgt", "freeze")


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


def test_what_the_network_freezes_stays_frozen() -> None:
    model = build_model("small-cnn", 3, 4, 16)
    model.stage2.requires_grad_(requires_grad=False)
    freeze(model, select(model, 4, "stage1", "freeze"), "freeze")
    trained = {name.partition(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"stage3", "head"}
    chosen = select(model, 4, "stage2*,stage3,head", "freeze")
    with pytest.raises(SettingError, match="freeze freezes every parameter that the model trains"):
        freeze(model, chosen, "freeze")
    assert select(model, 4, "stage?", "train-only", to_train=True) == select(
        model, 4, "stage3", "train-only"
    )
    with pytest.raises(SettingError, match="own code freezes all that 'stage2' matches"):
        select(model, 4, "head,stage2", "train-only", to_train=True)
