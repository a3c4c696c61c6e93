"""The model of a run: what loading it refuses, and what it must not refuse."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fl_app.delivered_model import load_delivered
from rsdgc.errors import RunFolderError
from tests.command import rsdgc
from tests.federation import run, settings, write_image

pytestmark = pytest.mark.slow

MODEL = "tests.fl_app.masked_network:Masked"


@pytest.fixture(scope="module")
def masked(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("masked") / "run"
    run(settings(data, folder, model=MODEL, rounds=1, method="fedavg"))
    return folder


@pytest.fixture
def copy(masked: Path, tmp_path: Path) -> Path:
    return shutil.copytree(masked, tmp_path / "run")


def test_a_mask_of_infinite_values_is_no_sign_of_divergence(
    masked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = load_delivered(masked).network.get_buffer("mask")
    assert torch.isinf(mask).sum() == 6
    write_image(tmp_path / "scene.tif", np.random.default_rng(0).integers(1, 255, (3, 32, 32)))
    words = ("predict", masked, tmp_path / "scene.tif", "--out", tmp_path / "map.tif")
    assert rsdgc(monkeypatch, *words) == 0
    assert rsdgc(monkeypatch, "export", masked, "--out", tmp_path / "model") == 0
    program = torch.export.load(tmp_path / "model" / "model.pt2").module()
    assert torch.isfinite(program(torch.rand(3, 3, 16, 16) * 255)).all()


@pytest.mark.parametrize("entry", ["conv.weight", "norm.bias", "norm.running_var"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_diverged_is_refused(copy: Path, entry: str, value: float) -> None:
    weights = load_file(copy / "model.safetensors")
    weights[entry].view(-1)[1] = value
    save_file(weights, copy / "model.safetensors")
    with pytest.raises(RunFolderError, match=f"layer {entry} of .* the run diverged"):
        load_delivered(copy)
