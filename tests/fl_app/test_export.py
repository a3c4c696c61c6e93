"""An exported model gives what the run's network gives, and its card says what it is."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from fl_app.delivered_model import load_delivered
from fl_app.export import PhysicalModel, export_model
from fl_app.model_card import write_card
from tests.command import rsdgc
from tests.fl_app.predict.conftest import BANDS, CODES, trained  # noqa: F401  # a fixture
from tests.fl_app.predict.test_modalities_of_scenes import fused  # noqa: F401
from tests.fl_app.predict.test_predict import by_hand


@pytest.fixture(scope="module")
def exported(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    out = tmp_path_factory.mktemp("exported") / "model"
    return export_model(load_delivered(trained), out)


@pytest.mark.slow
def test_the_program_gives_what_the_network_gives(trained: Path, exported: Path) -> None:  # noqa: F811
    program = torch.export.load(exported / "model.pt2").module()
    image = np.random.default_rng(1).integers(0, 900, (3, 32, 32)).astype(np.float32)
    image[:, :4] = 0  # nodata of the training data
    corners = [(0, 0), (3, 9), (24, 24), (10, 2), (8, 8)]
    chips = np.stack([image[:, r : r + 8, c : c + 8] for r, c in corners])
    chips[chips == 0] = np.nan
    for count in (1, 5):
        result = program(torch.from_numpy(chips[:count])).detach().numpy()
        expected = by_hand(trained, image, corners[:count], 8)
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_what_is_not_finite_is_the_mean_as_in_training(trained: Path) -> None:  # noqa: F811
    """A ratio of bands is infinite where the second is 0."""
    physical = PhysicalModel(load_delivered(trained)).eval()
    chips = torch.from_numpy(np.random.default_rng(1).uniform(300, 600, (2, 3, 8, 8)))
    chips = chips.to(torch.float32)
    holes = [chips.clone() for _ in range(3)]
    for values, fill in zip(holes, (np.nan, np.inf, -np.inf), strict=True):
        values[:, :, 2:5, 3] = fill
    with torch.inference_mode():
        expected, *others = [physical(values) for values in holes]
    assert torch.isfinite(expected).all()
    for result in others:
        torch.testing.assert_close(result, expected)


def test_the_record_and_the_card_say_what_it_takes(trained: Path, exported: Path) -> None:  # noqa: F811
    record = json.loads((exported / "model.json").read_text())
    (modality,) = record["modalities"]
    assert modality["bands"] == list(BANDS)
    assert modality["pixel_m"] == load_delivered(trained).pixel_m > 0
    assert [each["code"] for each in record["classes"]] == list(CODES)
    assert (
        load_file(exported / "model.safetensors").keys()
        == load_file(trained / "model.safetensors").keys()
    )
    card = (exported / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["pipeline_tag"] == "image-classification"
    summary = json.loads((trained / "summary.json").read_text())
    (metric, *_) = metadata["model-index"][0]["results"][0]["metrics"]
    assert metric == {"type": "accuracy", "name": "accuracy", "value": summary["accuracy"]}
    assert f"on the ground: {modality['pixel_m']:.3g} m ({modality['name']})." in body
    for words in ("blue, green, red", "class 42", "## Limits", "sent by the sites", "SHA-256"):
        assert words in body


def test_headings_and_tables_of_the_card_stand_apart(exported: Path) -> None:
    lines = (exported / "README.md").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        is_row = line.startswith("|")
        if line.startswith("## ") or (is_row != before.startswith("|")):
            assert "" in (before, line)
        assert (before, line) != ("", "")


def test_the_card_says_what_the_run_started_from(
    trained: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    shutil.copytree(trained, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config |= {"init-weights": "/srv/ours/dino.safetensors", "adapters": "lora"}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    export_model(load_delivered(tmp_path / "run"), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| started from | `dino.safetensors` |" in card
    assert "| trained part | `adapters=lora` |" in card
    assert "/srv" not in card


def test_the_snippet_of_the_card_works(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = (exported / "README.md").read_text()
    code = card.split("```python\n", 1)[1].split("```", 1)[0]
    monkeypatch.chdir(exported)
    names: dict[str, torch.Tensor] = {}
    exec(code, names)
    assert names["probabilities"].shape == (8, len(CODES))
    assert names["probabilities"].sum(1).allclose(torch.ones(8))


@pytest.mark.slow
def test_the_program_in_onnx_gives_what_the_network_gives(
    fused: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = load_delivered(fused)
    out = export_model(model, tmp_path / "model", program="onnx")
    assert sorted(path.name for path in out.iterdir()) == [
        *("README.md", "model.json", "model.onnx", "model.safetensors")
    ]
    session = onnxruntime.InferenceSession(out / "model.onnx")
    for count in (1, 5):
        chips = [torch.rand(count, len(m.bands), m.px, m.px) * 900 for m in model.modalities]
        chips[0][:, :, :2] = torch.nan
        named = {m.name: c.numpy() for m, c in zip(model.modalities, chips, strict=True)}
        (result,) = session.run(None, named)
        expected = PhysicalModel(model).eval()(*chips).detach().numpy()
        np.testing.assert_allclose(result, expected, atol=1e-5)
    code = (out / "README.md").read_text().split("```python\n", 1)[1].split("```", 1)[0]
    monkeypatch.chdir(out)
    names: dict[str, np.ndarray] = {}
    exec(code, names)
    assert names["probabilities"].shape == (8, len(model.classes))


def test_formats_that_cannot_be_written(
    trained: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("export", trained, "--out", tmp_path / "model", "--format")
    assert rsdgc(monkeypatch, *words, "tflite") == 2
    assert "--format is 'tflite': choose torch or onnx" in capsys.readouterr().err
    monkeypatch.setattr("fl_app.export.find_spec", lambda name: None)
    assert rsdgc(monkeypatch, *words, "onnx") == 2
    assert "pip install 'rsdgc[onnx]'" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_several_modalities(fused: Path, tmp_path: Path) -> None:  # noqa: F811
    out = export_model(load_delivered(fused), tmp_path / "model")
    program = torch.export.load(out / "model.pt2").module()
    result = program(torch.rand(3, 3, 8, 8) * 900, torch.rand(3, 1, 4, 4))
    assert result.shape == (3, 3)


@pytest.mark.slow
@pytest.mark.parametrize("names", [("S1-asc", "S1_asc"), ("torch", "class"), ("modality_2", "in")])
def test_the_snippet_works_whatever_the_modalities_are_called(
    fused: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, str],
) -> None:
    model = load_delivered(fused)
    out = export_model(model, tmp_path / "model")
    renamed = [replace(m, name=name) for m, name in zip(model.modalities, names, strict=True)]
    write_card(out / "README.md", replace(model, modalities=tuple(renamed)), "")
    code = (out / "README.md").read_text().split("```python\n", 1)[1].split("```", 1)[0]
    monkeypatch.chdir(out)
    results: dict[str, torch.Tensor] = {}
    exec(code, results)
    assert results["probabilities"].shape == (8, len(model.classes))


@pytest.mark.slow
def test_only_exports_are_replaced(
    monkeypatch: pytest.MonkeyPatch,
    trained: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "model"
    assert rsdgc(monkeypatch, "export", trained, "--out", out) == 0
    assert rsdgc(monkeypatch, "export", trained, "--out", out) == 2
    assert "replace the exported model with --force" in capsys.readouterr().err
    assert rsdgc(monkeypatch, "export", trained, "--out", out, "--force") == 0
    (out / "notes.md").write_text("mine")
    assert rsdgc(monkeypatch, "export", trained, "--out", out, "--force") == 2
    assert (out / "notes.md").read_text() == "mine"
    assert rsdgc(monkeypatch, "export", trained, "--out", trained, "--force") == 2
    assert (trained / "summary.json").exists()
    assert rsdgc(monkeypatch, "export", tmp_path / "nowhere", "--out", tmp_path / "x") == 2
