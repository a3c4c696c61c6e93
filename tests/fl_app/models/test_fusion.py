from __future__ import annotations

from itertools import product
from urllib.parse import unquote

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fl_app.models import MODELS, accepts_missing, branch_key, build_model, takes_modalities
from fl_app.models.fusion import PATCH_PX, FusionAttention
from fl_app.models.hyper_cnn import SpectralTrunk
from rsdgc.errors import SettingError
from strategies.sites import ModalityInfo

FUSED = tuple(name for name in MODELS if takes_modalities(name))
NAMES = st.text(min_size=1, max_size=6) | st.sampled_from(sorted(set(dir(nn.ModuleDict()))))
CLASSES = 5


def modality(name: str, bands: int, px: int) -> ModalityInfo:
    return ModalityInfo(name, tuple(f"b{number}" for number in range(bands)), px)


SENTINEL = (
    modality("s2.10m", 4, 24),
    modality("s2.20m", 6, 12),
    modality("s2.60m", 2, 4),
    modality("sar", 2, 24),
    modality("elevation", 1, 8),
)
PATCHES = (modality("hyperspectral", 144, 7), modality("lidar", 1, 7))


def build(name: str, modalities: tuple[ModalityInfo, ...], seed: int = 0) -> nn.Module:
    bands = sum(len(m.bands) for m in modalities)
    return build_model(
        name, bands, CLASSES, max(m.px for m in modalities), seed, modalities=modalities
    )


def draw(modalities: tuple[ModalityInfo, ...], present: tuple[bool, ...]) -> list[Tensor | None]:
    return [
        torch.randn(2, len(m.bands), m.px, m.px) if here else None
        for m, here in zip(modalities, present, strict=True)
    ]


@st.composite
def modalities_and_presence(
    draw: st.DrawFn,
) -> tuple[tuple[ModalityInfo, ...], tuple[bool, ...]]:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    # Few large cubes: 220 bands of 64 px take a second.
    px = st.sampled_from([1, 5, 6, 11, 16, 64])
    chosen = tuple(modality(name, draw(st.integers(1, 40)), draw(px)) for name in names)
    if draw(st.booleans()):
        chosen = (modality(names[0], draw(st.integers(41, 220)), 5), *chosen[1:])
    present = draw(st.tuples(*[st.booleans()] * len(names)).filter(any))
    return chosen, present


@pytest.mark.parametrize("name", FUSED)
@settings(max_examples=15, deadline=None)
@given(case=modalities_and_presence())
def test_present_branches_learn_and_absent_ones_have_no_gradient(
    name: str, case: tuple[tuple[ModalityInfo, ...], tuple[bool, ...]]
) -> None:
    modalities, present = case
    model = build(name, modalities)
    logits = model(*draw(modalities, present))
    assert logits.shape == (2, CLASSES)
    assert torch.isfinite(logits).all()
    nn.functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    absent = tuple(
        f"branches.{branch_key(m.name)}."
        for m, here in zip(modalities, present, strict=True)
        if not here
    )
    for path, parameter in model.named_parameters():
        assert (parameter.grad is None) is path.startswith(absent), path


@pytest.mark.parametrize("modalities", [SENTINEL, PATCHES])
@pytest.mark.parametrize("name", FUSED)
def test_every_subset_of_the_modalities_is_scored(
    name: str, modalities: tuple[ModalityInfo, ...]
) -> None:
    model = build(name, modalities).eval()
    chips = draw(modalities, (True,) * len(modalities))
    outcomes = []
    with torch.inference_mode():
        for present in product((True, False), repeat=len(modalities)):
            if any(present):
                some = [x if here else None for x, here in zip(chips, present, strict=True)]
                outcomes.append(model(*some))
                assert torch.equal(model(*some), outcomes[-1])
    different = {tuple(logits.flatten().tolist()) for logits in outcomes}
    assert len(different) == len(outcomes) == 2 ** len(modalities) - 1


@pytest.mark.parametrize("name", FUSED)
def test_a_batch_without_any_modality_is_refused(name: str) -> None:
    model = build(name, PATCHES)
    with pytest.raises(SettingError, match=r"none of the model's modalities \(hypersp.*, lidar\)"):
        model(None, None)
    assert accepts_missing(model, PATCHES)


@pytest.mark.parametrize("name", FUSED)
def test_many_bands_go_along_the_spectrum_and_patches_keep_their_center(name: str) -> None:
    model = build(name, (*PATCHES, modality("optical", 4, 2 * PATCH_PX)))
    hyperspectral, lidar, optical = (branch.trunk for branch in model.branches.values())
    assert isinstance(hyperspectral, SpectralTrunk)
    assert lidar.features(torch.zeros(2, 1, 7, 7)).shape[2:] == (7, 7)
    assert optical.features(torch.zeros(2, 4, 22, 22)).shape[2:] == (2, 2)
    # Every pixel of a patch counts, the center by itself.
    patches = [torch.randn(1, len(m.bands), m.px, m.px) for m in PATCHES]
    for x in patches:
        x.requires_grad_()
    model(*patches, None)[0, 0].backward()
    assert all(x.grad is not None and bool((x.grad != 0).any(1).all()) for x in patches)


@pytest.mark.parametrize("name", FUSED)
def test_the_same_seed_builds_the_same_network(name: str) -> None:
    first, same, other = (build(name, SENTINEL, seed).state_dict() for seed in (5, 5, 6))
    assert all(torch.equal(first[path], same[path]) for path in first)
    assert not all(torch.equal(first[path], other[path]) for path in first)


def test_a_modality_of_more_tokens_does_not_count_more() -> None:
    model = build("fusion-attention", SENTINEL)
    assert isinstance(model, FusionAttention)
    model.blocks = nn.Sequential()  # without attention, the modalities' means are averaged
    fine, coarse = model.branches["sar"], model.branches["elevation"]
    assert fine.count != coarse.count
    chips = draw(SENTINEL, (False, False, False, True, True))
    with torch.no_grad():
        tokens = [branch(x).mean(1) for branch, x in ((fine, chips[3]), (coarse, chips[4]))]
        expected = model.head(model.norm((tokens[0] + tokens[1]) / 2))
        assert torch.allclose(model(*chips), expected, atol=1e-6)


@given(st.lists(NAMES, unique=True, max_size=9))
def test_any_name_of_a_modality_makes_a_branch_and_can_be_read_back(names: list[str]) -> None:
    branches = nn.ModuleDict({branch_key(name): nn.Linear(1, 1) for name in names})
    assert [unquote(key) for key in branches] == names
    assert len({path.split(".")[0] for path in branches.state_dict()}) == len(names)
    for name in names:
        if name.isidentifier() and not hasattr(nn.ModuleDict(), name):
            assert branch_key(name) == unquote(name)


@pytest.mark.parametrize(
    ("names", "words"), [(("", "sar"), "has no name"), (("sar", "sar"), "two modalities")]
)
def test_names_that_tell_no_modality_apart_are_refused(names: tuple[str, str], words: str) -> None:
    with pytest.raises(SettingError, match=f"{words}.*--modality"):
        build("fusion-concat", tuple(modality(name, 1, 5) for name in names))


@pytest.mark.slow
@pytest.mark.parametrize("name", FUSED)
def test_what_only_both_modalities_tell_is_learned(name: str) -> None:
    pair = (modality("optical", 2, 4), modality("elevation", 1, 2))
    model = build(name, pair)
    torch.manual_seed(3)
    signs = torch.randint(0, 2, (2, 32)).float() * 2 - 1
    labels = (signs[0] != signs[1]).long()  # neither sign alone says anything
    chips = [
        torch.randn(32, len(m.bands), m.px, m.px) * 0.3 + sign[:, None, None, None]
        for m, sign in zip(pair, signs, strict=True)
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(150):
        loss = nn.functional.cross_entropy(model(*chips), labels)
        if loss < 0.2:
            return
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    pytest.fail(f"the loss stays at {loss:.2f}")
