"""Scenes of several modalities: coarser ones, one that is missing, one too many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from fl_app.delivered_model import load_delivered
from tests.command import rsdgc
from tests.data_prep.archives import noise, write_tif
from tests.federation import run, settings
from tests.modalities import CHIP_PX, make_store

FUSION = "tests.modalities:Branches"


@pytest.fixture(scope="module", params=["small-cnn", FUSION])
def fused(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    root = tmp_path_factory.mktemp("fused")
    make_store(root)
    run(settings(root / "store", root / "run", rounds=1, model=request.param), nodes=1)
    return root / "run"


@pytest.mark.slow
def test_coarser_modalities_are_read_at_their_own_resolution(
    monkeypatch: pytest.MonkeyPatch, fused: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = fused.parent / "archive"
    out = tmp_path / "map.tif"
    words = ["predict", fused, archive, "--out", out, "--stride", "8"]
    assert rsdgc(monkeypatch, *words) == 0
    with rasterio.open(out) as file:
        assert file.shape == (96, 96)
        assert (file.read(1) > 0).all()
    assert rsdgc(monkeypatch, *words, "--stride", "3", "--force") == 2
    assert "choose a multiple of 2" in capsys.readouterr().err


def test_a_modality_that_is_missing_is_named_unless_the_model_works_without(
    monkeypatch: pytest.MonkeyPatch, fused: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optical = write_tif(tmp_path / "scene" / "optical.tif", noise((3, 32, 32)))
    write_tif(tmp_path / "scene" / "radar.tif", noise((2, 32, 32)).astype(np.float32))
    out = tmp_path / "map.tif"
    code = rsdgc(monkeypatch, "predict", fused, optical.parent, "--out", out)
    error = capsys.readouterr().err
    if FUSION in (fused / "config.json").read_text():
        assert code == 0
        assert "without elevation" in error
        assert "radar not used" in error
    else:
        assert code == 2
        assert "lacks modality elevation: it has optical, radar; name its files" in error
        assert not out.exists()


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def write_scene(folder: Path, height: int, width: int, hole: tuple[int, int] | None = None) -> Path:
    """Write a scene whose elevation reaches over its right and lower edge if they are odd."""
    write_tif(folder / "optical.tif", noise((3, 98, 98))[:, :height, :width])
    elevation = noise((49, 49), 1, 0, 40).astype(np.float32)[: -(-height // 2), : -(-width // 2)]
    if hole is not None:
        elevation[hole] = np.nan
    write_tif(folder / "elevation.tif", elevation, pixel=20.0)
    return folder


@pytest.mark.slow
def test_sides_that_cut_a_coarse_pixel(
    monkeypatch: pytest.MonkeyPatch, fused: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["predict", fused, "--out", tmp_path, "--probabilities"]
    even = write_scene(tmp_path / "even", 96, 96, hole=(30, 47))
    odd = write_scene(tmp_path / "odd", 97, 97, hole=(30, 47))
    small = write_scene(tmp_path / "small", 7, 6)
    assert rsdgc(monkeypatch, *words, even, odd, small) == 0
    assert (read(tmp_path / "small.tif") > 0).all()
    chances = [read(tmp_path / f"{name}-probabilities.tif") for name in ("odd", "even")]
    np.testing.assert_allclose(chances[0][:, :96, :96], chances[1], atol=1e-6)
    known = np.isfinite(chances[0]).all(axis=0)
    # the last row and column go with their neighbors, also where these have no data
    hole = np.zeros((97, 97), np.bool_)
    hole[60:62, 94:] = True
    np.testing.assert_array_equal(known, ~hole)
    pixel = write_scene(tmp_path / "pixel", 1, 9)
    assert rsdgc(monkeypatch, *words, pixel) == 2
    assert "scene pixel is 1×9 px: the model needs 2 px and more" in capsys.readouterr().err


def test_a_coarser_modality_alone_is_read_at_its_own_resolution(
    monkeypatch: pytest.MonkeyPatch, fused: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = noise((24, 32), 4, 0, 40).astype(np.float32)
    scene = write_tif(tmp_path / "scene" / "elevation.tif", values, pixel=20.0).parent
    stride = CHIP_PX // 2  # of the scene: as many pixels as a chip of elevation has
    words = ["predict", fused, scene, "--out", tmp_path / "map.tif", "--stride", stride]
    code = rsdgc(monkeypatch, *words, "--probabilities")
    error = capsys.readouterr().err
    if FUSION not in (fused / "config.json").read_text():
        assert code == 2
        return
    assert code == 0
    assert "without optical" in error
    assert "CRS units" not in error
    model = load_delivered(fused)
    mean, std = model.statistics[1].mean, model.statistics[1].std
    chips = values.reshape(6, stride, 8, stride).swapaxes(1, 2).reshape(48, 1, stride, stride)
    with torch.inference_mode():
        logits = model.network(None, torch.from_numpy((chips - mean) / std))
    expected = torch.softmax(logits, 1).numpy().T.reshape(-1, 6, 8)
    shown = read(tmp_path / "map-probabilities.tif")
    np.testing.assert_allclose(shown[:, ::stride, ::stride], expected, atol=1e-5)
