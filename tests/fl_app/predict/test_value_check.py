"""Values that are far from those of training are noted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from data_prep.schema import ModalityMeta
from fl_app.predict.value_check import ValueCheck
from tests.command import rsdgc
from tests.fl_app.predict.conftest import imagery, write_named


def modality(*bands: str) -> ModalityMeta:
    return ModalityMeta(name="optical", bands=list(bands), dtype="uint16", nodata=0, resolution=10)


@pytest.mark.parametrize("shift", [-40.0, 25.0])
def test_the_bands_that_are_far_are_named(shift: float) -> None:
    check = ValueCheck([modality("red", "nir")])
    chips = torch.randn(5, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    chips[:, 1] += shift
    check.add(0, chips)
    (note,) = check.notes()
    assert "the values of nir are on average up to" in note
    assert f"{abs(shift):.0f} standard deviations" in note


def test_unusual_but_possible_values_and_missing_ones_are_not_noted() -> None:
    check = ValueCheck([modality("red")])
    chips = torch.full((2, 1, 16, 16), 4.0)  # snow, say
    chips[1] = 0  # no data
    check.add(0, chips)
    assert not list(check.notes())
    assert not list(ValueCheck([modality("red")]).notes())  # a scene without any window


def test_a_mean_is_that_of_pixels_with_a_value() -> None:
    check = ValueCheck([modality("red")])
    chips = torch.zeros(1, 1, 16, 16)
    chips[..., :4, :] = 12.0
    check.add(0, chips)
    assert list(check.notes())


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1, 40])
def test_a_scene_in_another_unit_is_noted_and_mapped(
    factor: int,
    monkeypatch: pytest.MonkeyPatch,
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scene = write_named(tmp_path / "field.tif", imagery(48, seed=5)[0] * factor, nodata=0)
    assert rsdgc(monkeypatch, "predict", trained, scene, "--out", tmp_path / "map.tif") == 0
    assert ("from those of training" in capsys.readouterr().err) == (factor > 1)
    assert (tmp_path / "map.tif").exists()
