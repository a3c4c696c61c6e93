"""Weights of one model start another: of other bands, classes, stem, and names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fl_app.models import build_model
from fl_app.models.initial_weights import load_weights, match_weights
from fl_app.models.weight_file import WeightFile, bands_metadata, write_tensors
from rsdgc.errors import SettingError
from strategies.sites import ModalityInfo


def save(model: nn.Module, path: Path, prefix: str = "", bands: str = "") -> WeightFile:
    state = {prefix + name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, path, {"bands": bands})
    return WeightFile(path)


def differing(model: nn.Module, other: nn.Module) -> set[str]:
    state = other.state_dict()
    return {
        name
        for name, tensor in model.state_dict().items()
        if tensor.is_floating_point() and not torch.equal(tensor, state[name])
    }


@pytest.mark.parametrize("name", ["small-resnet", "resnet18"])
def test_the_same_model_gets_every_value(tmp_path: Path, name: str) -> None:
    source, target = (build_model(name, 3, 4, 64, seed=seed) for seed in (1, 2))
    match = load_weights(target, save(source, tmp_path / "w"))
    assert match.share == 1
    assert match.new == match.unused == ()
    assert differing(target, source) == set()


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module.backbone.", "encoder_q.", "teacher.encoder."]
)
def test_prefixes_of_wrappers_are_taken_off(tmp_path: Path, prefix: str) -> None:
    source, target = (build_model("small-cnn", 3, 4, 16, seed=seed) for seed in (1, 2))
    match = load_weights(target, save(source, tmp_path / "w", prefix))
    assert (match.share, match.unused) == (1, ())


@pytest.mark.parametrize(
    "wrapper", ["_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."]
)
def test_wrappers_of_parts_are_taken_off(tmp_path: Path, wrapper: str) -> None:
    """A part of a network that was compiled, or sharded, or not kept for the way back."""
    source, target = (build_model("small-cnn", 3, 4, 16, seed=seed) for seed in (1, 2))
    state = {name.replace(".0.", f".0.{wrapper}"): t for name, t in source.state_dict().items()}
    assert any(wrapper in name for name in state)
    save_file(state, tmp_path / "w")
    match = load_weights(target, WeightFile(tmp_path / "w"))
    assert (match.share, match.new, match.unused) == (1, (), ())
    assert differing(target, source) == set()


def test_wrappers_in_the_model_are_taken_off(tmp_path: Path) -> None:
    source, plain = (build_model("small-cnn", 3, 4, 16, seed=seed) for seed in (1, 2))
    target = nn.ModuleDict({name: torch.compile(part) for name, part in plain.named_children()})
    assert "head._orig_mod.weight" in target.state_dict()
    match = load_weights(target, save(source, tmp_path / "w"))
    assert (match.share, match.new) == (1, ())
    assert differing(plain, source) == set()


class Wrapper(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(4, 2)


def test_a_model_that_wraps_the_network_of_the_file_gets_it(tmp_path: Path) -> None:
    source = build_model("small-cnn", 3, 4, 16, seed=1)
    target = Wrapper(build_model("small-cnn", 3, 4, 16, seed=2))
    match = load_weights(target, save(source, tmp_path / "w", "backbone."))
    assert set(match.new) == {"head.weight", "head.bias"}
    assert differing(target.encoder, source) == set()


def test_the_network_of_a_self_supervised_method_is_found_among_others(tmp_path: Path) -> None:
    source, target = (build_model("small-cnn", 3, 4, 16, seed=seed) for seed in (1, 2))
    state = {f"module.encoder_q.{n}": t for n, t in source.state_dict().items()}
    state |= {f"module.encoder_k.{n}": t + 1 for n, t in source.state_dict().items()}
    save_file(state | {"module.queue": torch.randn(128, 999)}, tmp_path / "w")
    match = load_weights(target, WeightFile(tmp_path / "w"))
    assert match.share == 1
    assert differing(target, source) == set()
    assert "module.queue" in match.unused


def test_every_branch_of_a_fusion_model_is_matched_for_itself(tmp_path: Path) -> None:
    source = build_model("small-cnn", 3, 4, 16, seed=1)
    target = nn.Module()
    target.branches = nn.ModuleDict(
        {name: build_model("small-cnn", bands, 4, 16) for name, bands in (("a", 3), ("b", 1))}
    )
    match = load_weights(target, save(source, tmp_path / "w"))
    assert match.new == ()
    assert list(match.adapted) == ["branches.b.stage1.0.weight"]
    fewer = save(target, tmp_path / "fusion")
    target.branches["a"] = build_model("small-cnn", 5, 4, 16)
    assert set(match_weights(target, fewer).adapted) == {"branches.a.stage1.0.weight"}
    # A branch of that name gets a file's branch.
    other = nn.Module()
    other.branches = nn.ModuleDict({"a": build_model("small-cnn", 3, 4, 16, seed=5)})
    match = match_weights(target, save(other, tmp_path / "w2"))
    assert all(name.startswith("branches.a.") for name in match.matched)
    assert all(name.startswith("branches.b.") for name in match.new)


def test_another_head_and_other_bands(tmp_path: Path) -> None:
    source = build_model("small-resnet", 3, 4, 32, seed=1)
    target = build_model("small-resnet", 5, 9, 32, seed=2)
    match = load_weights(target, save(source, tmp_path / "w"))
    assert match.adapted == {"stem.0.weight": "stem.0.weight"}
    assert set(match.new) == {"head.weight", "head.bias"}
    assert match.reasons["head.bias"] == "4 in the file, 9 here"
    untouched = build_model("small-resnet", 5, 9, 32, seed=2)
    assert torch.equal(target.head.weight, untouched.head.weight)
    gray = torch.randn(2, 1, 32, 32)
    outputs = [
        model.stem[0](gray.expand(-1, bands, -1, -1)) for model, bands in ((source, 3), (target, 5))
    ]
    torch.testing.assert_close(*outputs, atol=1e-5, rtol=1e-4)


def test_a_stem_of_another_kernel_is_new(tmp_path: Path) -> None:
    source, target = build_model("resnet18", 3, 4, 64), build_model("resnet18", 3, 4, 32)
    match = match_weights(target, save(source, tmp_path / "w"))
    assert match.new == ("conv1.weight",)
    assert match.reasons["conv1.weight"] == "64×3×7×7 in the file, 64×3×3×3 here"


def test_the_bands_of_the_file_are_read_from_it(tmp_path: Path) -> None:
    source, target = build_model("small-cnn", 2, 4, 16), build_model("small-cnn", 2, 4, 16)
    optical = ModalityInfo("optical", ("nir", "red"), 16)
    load_weights(target, save(source, tmp_path / "w", bands='["red", "nir"]'), [optical])
    assert torch.equal(target.stage1[0].weight, source.stage1[0].weight.flip(1))


def fusion(*modalities: ModalityInfo, seed: int = 0) -> nn.Module:
    bands = sum(len(modality.bands) for modality in modalities)
    return build_model("fusion-concat", bands, 3, 16, seed, modalities=modalities)


OPTICAL = ModalityInfo("s2.10m", ("blue", "green", "red", "nir"), 16)
TERRAIN = ModalityInfo("terrain", ("elevation", "slope"), 8)


def write(model: nn.Module, path: Path, *modalities: ModalityInfo) -> WeightFile:
    """Write weights as a run does."""
    write_tensors(path, model.state_dict(), bands_metadata({m.name: m.bands for m in modalities}))
    return WeightFile(path)


def test_the_bands_of_every_modality_are_matched_by_name(tmp_path: Path) -> None:
    source = fusion(OPTICAL, TERRAIN, seed=1)
    file = write(source, tmp_path / "w", OPTICAL, TERRAIN)
    assert file.bands == {OPTICAL.name: OPTICAL.bands, TERRAIN.name: TERRAIN.bands}
    optical = ModalityInfo(OPTICAL.name, ("red", "green", "blue", "nir"), 16)
    terrain = ModalityInfo("terrain", ("slope", "aspect"), 8)
    target = fusion(terrain, optical, seed=2)
    match = load_weights(target, file, [terrain, optical])
    assert set(match.reasons.values()) == {"4 to 4 bands, 4 by name", "2 to 2 bands, 1 by name"}
    first = "branches.{}.trunk.stem.0.weight"
    old, new = source.state_dict(), target.state_dict()
    colors = first.format("s2%2E10m")
    torch.testing.assert_close(new[colors], old[colors][:, [2, 1, 0, 3]])
    terrain_filters = old[first.format("terrain")]
    expected = torch.stack([terrain_filters[:, 1], terrain_filters.mean(1)], dim=1)
    torch.testing.assert_close(new[first.format("terrain")], expected)


def test_a_plain_network_takes_the_bands_of_all_modalities_by_name(tmp_path: Path) -> None:
    passes = [ModalityInfo(name, ("vv", "vh"), 16) for name in ("ascending", "descending")]
    source, target = (build_model("small-cnn", 4, 3, 16, seed) for seed in (1, 2))
    load_weights(target, write(source, tmp_path / "w", *passes), passes[::-1])
    expected = source.stage1[0].weight[:, [2, 3, 0, 1]]
    assert torch.equal(target.stage1[0].weight, expected)


def test_a_fusion_file_without_modalities_is_read_as_before(tmp_path: Path) -> None:
    source, target = fusion(OPTICAL, TERRAIN, seed=1), fusion(OPTICAL, TERRAIN, seed=2)
    names = json.dumps([*OPTICAL.bands, *TERRAIN.bands])
    match = load_weights(target, save(source, tmp_path / "w", bands=names), [OPTICAL, TERRAIN])
    assert match.share == 1
    assert not match.adapted


def test_what_joins_the_modalities_has_no_bands(tmp_path: Path) -> None:
    def joined(modalities: int) -> nn.Module:
        model = nn.Module()
        model.branches = nn.ModuleDict(
            {f"m{i}": build_model("small-cnn", 3, 4, 16) for i in range(modalities)}
        )
        model.join = nn.Conv2d(8 * modalities, 4, 1)
        return model

    optical = [ModalityInfo(f"m{i}", ("red", "green", "blue"), 16) for i in range(2)]
    match = match_weights(joined(2), write(joined(3), tmp_path / "w", *optical), optical)
    assert match.new == ("join.weight",)


@pytest.mark.parametrize("class_tokens", [0, 1, 2, 5])
def test_position_embeddings_are_resampled(tmp_path: Path, class_tokens: int) -> None:
    def make(side: int) -> nn.Module:
        model = nn.Module()
        model.pos_embed = nn.Parameter(torch.zeros(1, side * side + class_tokens, 4))
        model.head = nn.Linear(4, 4)
        return model

    source, target = make(14), make(4)
    nn.init.constant_(source.pos_embed[:, class_tokens:], 3.0)
    match = load_weights(target, save(source, tmp_path / "w"))
    assert match.reasons["pos_embed"] == "14×14 to 4×4 positions"
    grid = target.pos_embed[:, class_tokens:]
    torch.testing.assert_close(grid, torch.full_like(grid, 3.0))
    assert not target.pos_embed[:, :class_tokens].any()


@pytest.mark.parametrize("more", [0, 3])
def test_tables_of_relative_positions_are_resampled(tmp_path: Path, more: int) -> None:
    """Of Swin, and of BEiT, whose table ends with three rows of the class token."""

    def make(window: int) -> nn.Module:
        model = nn.Module()
        side = 2 * window - 1
        model.relative_position_bias_table = nn.Parameter(torch.zeros(side * side + more, 4))
        model.head = nn.Linear(4, 4)
        return model

    source, target = make(7), make(4)
    columns = torch.linspace(-1, 1, 13).repeat(13)  # a slope along the rows of the grid
    with torch.no_grad():
        source.relative_position_bias_table[: 13 * 13] = columns[:, None]
        source.relative_position_bias_table[13 * 13 :] = 5.0
    match = load_weights(target, save(source, tmp_path / "w"))
    assert match.reasons["relative_position_bias_table"] == "13×13 to 7×7 positions"
    table = target.relative_position_bias_table.detach()
    grid = table[:49].view(7, 7, 4)
    torch.testing.assert_close(grid, grid[:1, :, :1].expand(7, 7, 4))
    assert bool((grid[0, :, 0].diff() > 0.2).all())
    assert bool((table[49:] == 5).all())


@pytest.mark.parametrize("rows", [47, 50])
def test_relative_positions_that_are_not_a_grid_are_new(tmp_path: Path, rows: int) -> None:
    def make(rows: int) -> nn.Module:
        model = nn.Module()
        model.relative_position_bias_table = nn.Parameter(torch.zeros(rows, 4))
        model.head = nn.Linear(64, 4)
        return model

    match = match_weights(make(49), save(make(rows), tmp_path / "w"))
    assert match.new == ("relative_position_bias_table",)


def test_positions_that_are_not_a_grid_are_new(tmp_path: Path) -> None:
    def make(tokens: int) -> nn.Module:
        model = nn.Module()
        model.pos_embed = nn.Parameter(torch.zeros(1, tokens, 4))
        model.head = nn.Linear(4, 4)
        return model

    assert match_weights(make(7), save(make(16), tmp_path / "w")).new == ("pos_embed",)
    state = {"pos_embed": torch.tensor(3.0), "head.weight": torch.ones(4, 4)}
    save_file(state, tmp_path / "w")
    match = match_weights(make(16), WeightFile(tmp_path / "w"))
    assert match.reasons["pos_embed"] == "a number in the file, 1×16×4 here"


def test_weights_of_another_architecture_are_refused_with_names_of_both(tmp_path: Path) -> None:
    file = save(build_model("small-cnn", 3, 4, 16), tmp_path / "w")
    with pytest.raises(SettingError, match=r"fit 0 of .*'stage1.0.weight'.*'conv1.weight'") as e:
        load_weights(build_model("resnet18", 3, 4, 64), file)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("names", [("resnet18", "resnet50"), ("resnet50", "resnet18")])
def test_weights_of_a_relative_with_other_shapes_are_refused(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    with torch.device("meta"):
        source, target = (build_model(name, 3, 4, 64) for name in names)
    state = {name: torch.zeros(t.shape, dtype=t.dtype) for name, t in source.state_dict().items()}
    save_file(state, tmp_path / "w")
    with pytest.raises(
        SettingError, match=r"have another shape or type, as 'layer1\.0\.conv1\.weight'"
    ):
        match_weights(target, WeightFile(tmp_path / "w"))


def test_entries_of_integers_are_not_weights(tmp_path: Path) -> None:
    model = build_model("small-cnn", 3, 4, 16)
    state = model.state_dict()
    save_file(state | {"head.weight": state["head.weight"].to(torch.int8)}, tmp_path / "w")
    match = match_weights(model, WeightFile(tmp_path / "w"))
    assert match.new == ("head.weight",)
    assert match.reasons["head.weight"] == "I8 in the file"
    assert match.unused == ()
    save_file({name: tensor.to(torch.int8) for name, tensor in state.items()}, tmp_path / "w")
    with pytest.raises(SettingError, match=r"'stage1\.0\.weight': I8 in the file"):
        match_weights(model, WeightFile(tmp_path / "w"))


def test_a_model_without_memory_is_matched(tmp_path: Path) -> None:
    file = save(build_model("small-cnn", 3, 4, 16), tmp_path / "w")
    with torch.device("meta"):
        model = build_model("small-cnn", 4, 5, 16)
    assert len(match_weights(model, file).adapted) == 1
