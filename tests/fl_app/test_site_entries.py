"""The model of a run that kept batch normalization at its sites: their mean, and that of a site."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from clients.evaluation import score_model
from clients.state import STATE_FILE
from data_prep.dataset import open_data
from fl_app import client_app
from fl_app.data_loaders import load_split
from fl_app.delivered_model import DeliveredModel, load_delivered
from fl_app.statistics_round import run_statistics
from rsdgc.errors import RunFolderError, SettingError
from tests.command import rsdgc
from tests.federation import run, settings, write_image

pytestmark = pytest.mark.slow

MODEL = "tests.fl_app.batch_norm_network:build"
SITE = "site-01"


def start(data: Path, folder: Path, **changes: Any) -> Path:
    client_app.opened_sites.clear()
    run(settings(data, folder, **{"model": MODEL, "batch_norm": "local", **changes}))
    return folder


@pytest.fixture(scope="module")
def local(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return start(data, tmp_path_factory.mktemp("local") / "run")


@pytest.fixture
def copy(local: Path, tmp_path: Path) -> Path:
    return shutil.copytree(local, tmp_path / "run")


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).integers(1, 255, (3, 48, 48))
    write_image(tmp_path / "scene.tif", image)
    return tmp_path / "scene.tif"


def state_folder(folder: Path, site: str = SITE) -> Path:
    (found,) = (folder / "state").glob(f"*/{site}")
    return found


def accuracy(model: DeliveredModel, data: Path, site: str) -> float:
    """Of a model on the test split of a site."""
    dataset, common = open_data(data), run_statistics(model.folder)
    split = load_split(dataset, site, "test", torch.device("cpu"), common)
    assert split is not None
    confusion = score_model(model.network, split, len(model.classes)).confusion
    return float(confusion.trace() / confusion.sum())


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "fedavg"},
        {"method": "rs-dgc", "batch_norm": "local-statistics"},
        {"method": "rs-dgc", "fraction": 0.4, "quorum": 1, "rounds": 4},  # one site a round
    ],
)
def test_the_model_of_a_site_is_the_one_that_it_scored(
    data: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = start(data, tmp_path / "run", **changes)
    summary = json.loads((folder / "summary.json").read_text())
    scores = {each["site"]: each["accuracy"] for each in summary["by_site"]}
    asked = {
        line["site"]
        for line in map(json.loads, (folder / "rounds.jsonl").read_text().splitlines())
        if line["phase"] == "train"
    }
    mean = load_file(folder / "model.safetensors")
    for site in sorted(asked):
        model = load_delivered(folder, site=site)
        assert (model.site, model.caution) == (site, "")
        assert accuracy(model, data, site) == pytest.approx(scores[site])
        state = model.network.state_dict()
        assert any(not torch.equal(state[name], mean[name]) for name in model.site_entries)
        others = mean.keys() - model.site_entries.keys()
        assert all(torch.equal(state[name], mean[name]) for name in others)
    for site in scores.keys() - asked:
        with pytest.raises(SettingError, match="is of no round of this run"):
            load_delivered(folder, site=site)


def test_the_mean_is_used_with_one_line_of_warning(
    local: Path,
    scene: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = scene.parent / "map.tif"
    assert rsdgc(monkeypatch, "predict", local, scene, "--out", out) == 0
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert len(warnings) == 1
    assert "batch-norm=local" in warnings[0]
    assert "--site NAME" in warnings[0]
    # The map of a site is another one, and not taken for the one that stands.
    words = ("predict", local, scene, "--site", SITE, "--out")
    assert rsdgc(monkeypatch, *words, out) == 2
    assert "is a map of another model" in capsys.readouterr().err
    assert rsdgc(monkeypatch, *words, out, "--force") == 0
    assert "warning" not in capsys.readouterr().err


def test_the_card_of_the_mean_claims_no_scores(
    local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rsdgc(monkeypatch, "export", local, "--out", tmp_path / "model") == 0
    card = (tmp_path / "model" / "README.md").read_text()
    assert "model-index: []" in card
    assert "The model here has the mean of the sites', and was not scored." in card


def test_a_site_exports_its_own_model(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As at a site of a deployment: the run's folder is a copy, and its states are elsewhere.
    shutil.move(copy / "state", tmp_path / "at-the-site")
    for path in (tmp_path / "at-the-site").glob("*/*/"):
        if path.name != SITE:
            shutil.rmtree(path)
    words = ("export", copy, "--site-state", tmp_path / "at-the-site", "--out")
    assert rsdgc(monkeypatch, *words, tmp_path / "model") == 0
    (packed,) = (tmp_path / "at-the-site").rglob("local-*.bin")
    own, exported = load_file(packed), load_file(tmp_path / "model" / "model.safetensors")
    assert all(torch.equal(exported[name], array) for name, array in own.items())
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as file:
        assert "bands" in file.metadata()
    assert json.loads((tmp_path / "model" / "model.json").read_text())["site"] == SITE
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"| batch normalization | of site {SITE} (`batch-norm=local`) |" in card
    assert f"test chips of site {SITE}" in card


def test_a_state_that_is_not_that_of_the_end_is_refused(copy: Path) -> None:
    with pytest.raises(SettingError, match=r"no state of site porto .*, and of site-00, site-01"):
        load_delivered(copy, site="porto")
    with pytest.raises(SettingError, match=r"has the states of site-00, .*: choose one with --s"):
        load_delivered(copy, site_state=copy / "state")
    with pytest.raises(SettingError, match=r"has no state of site site-01 .* --site-state"):
        load_delivered(copy, site=SITE, site_state=copy / "nowhere")

    path = state_folder(copy) / STATE_FILE
    state = json.loads(path.read_text())
    state["states"][-1]["round"] = 1
    path.write_text(json.dumps(state | {"states": state["states"][-1:]}))
    with pytest.raises(SettingError, match="is of round 1, and the site last trained in round 3"):
        load_delivered(copy, site=SITE)
    state["states"][-1]["round"] = 9  # of a start of the server that a checkpoint has undone
    path.write_text(json.dumps(state | {"states": state["states"][-1:]}))
    with pytest.raises(SettingError, match="is of no round of this run"):
        load_delivered(copy, site=SITE)

    shutil.rmtree(state_folder(copy))  # as `rsdgc site clean` does
    with pytest.raises(SettingError, match="`rsdgc site clean` deletes states"):
        load_delivered(copy, site=SITE)
    assert load_delivered(copy).caution  # the mean is still there


def test_a_damaged_state_is_refused(copy: Path) -> None:
    (packed,) = state_folder(copy).glob("local-*.bin")
    packed.write_bytes(packed.read_bytes()[:-1])
    with pytest.raises(RunFolderError, match="or is damaged: restore it from a copy, or leave out"):
        load_delivered(copy, site=SITE)


def test_a_site_that_did_not_score_the_final_model_is_refused(copy: Path) -> None:
    lines = map(json.loads, (copy / "rounds.jsonl").read_text().splitlines())
    kept = [line for line in lines if (line["site"], line["phase"]) != (SITE, "evaluate")]
    (copy / "rounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    with pytest.raises(SettingError, match="did not score the final model"):
        load_delivered(copy, site=SITE)


@pytest.mark.parametrize("changes", [{"train_only": "head"}, {"adapters": "lora"}])
def test_where_all_normalization_is_frozen_nothing_stayed_at_the_sites(
    data: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = start(data, tmp_path / "run", rounds=1, method="fedavg", **changes)
    model = load_delivered(folder)
    assert (model.caution, model.batch_norm) == ("", "")
    with pytest.raises(SettingError, match="kept no part of its model at the sites"):
        load_delivered(folder, site=SITE)


def test_adapters_beside_trained_normalization(data: Path, tmp_path: Path) -> None:
    changes = {"adapters": "lora", "train_only": "head,1"}
    folder = start(data, tmp_path / "run", rounds=1, method="fedavg", **changes)
    model = load_delivered(folder, site=SITE)
    assert {name.partition(".")[0] for name in model.site_entries} == {"1"}
    summary = json.loads((folder / "summary.json").read_text())
    scores = {each["site"]: each["accuracy"] for each in summary["by_site"]}
    assert accuracy(model, data, SITE) == pytest.approx(scores[SITE])
