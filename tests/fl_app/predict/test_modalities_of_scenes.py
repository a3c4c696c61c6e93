"""Scenes of several modalities: coarser ones, one that is missing, one too many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.command import rsdgc
from tests.data_prep.archives import noise, write_tif
from tests.federation import run, settings
from tests.modalities import make_store

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
