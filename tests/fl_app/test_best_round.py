"""Runs whose sites have validation splits, and runs that do not score every round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Message
from safetensors.torch import load_file
from torch import nn

from clients.evaluation import score_model
from data_prep.dataset import open_data
from data_prep.ingest.class_folders import ingest_class_folders
from data_prep.partition import partition
from fl_app import client_app
from fl_app.data_loaders import load_split
from fl_app.report import write_report
from fl_app.runs.records import Run, read_run
from strategies import messages
from strategies.metrics import Scores
from tests.federation import CLASSES, grid, run, serve, settings, write_class_folders

pytestmark = pytest.mark.slow

CHOSEN: dict[str, Any] = {
    "rounds": 6,
    "budget": "20x",
    "budget_down": "10x",
    "lr_schedule": "constant",
    "model": f"{__name__}:with_statistics",
}


def with_statistics(num_bands: int, num_classes: int) -> nn.Module:
    """Build a network with running statistics, which travel apart from the weights."""
    return nn.Sequential(
        nn.Conv2d(num_bands, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, stride=2),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


@pytest.fixture(scope="module")
def with_val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("validated")
    write_class_folders(root / "images")
    ingest_class_folders(root / "images", root / "store", val_share=0.2)
    partition(root / "store", root / "data", sites=3, scheme="iid")
    return root / "data"


@pytest.fixture(scope="module", params=["rs-dgc", "fedavg"])
def whole(
    request: pytest.FixtureRequest, with_val: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(settings(with_val, folder, **CHOSEN, method=request.param))
    return folder


@pytest.fixture(scope="module")
def one_in_four(with_val: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose sites score the models of rounds 0, 4, and 6, the last."""
    folder = tmp_path_factory.mktemp("one-in-four") / "run"
    run(settings(with_val, folder, **CHOSEN, evaluate_every=4))
    return folder


def scores_of(weights: Path, data: Path, split: str) -> Scores:
    """Score a model file on a split of all sites together."""
    model = with_statistics(3, len(CLASSES))
    model.load_state_dict(load_file(weights))
    dataset = open_data(data)
    parts = [load_split(dataset, name, split, torch.device("cpu")) for name in dataset.sites]
    scores = [score_model(model, part, len(CLASSES)) for part in parts]
    return Scores.from_confusion(np.sum([score.confusion for score in scores], axis=0), 0.0)


def assert_best_is_kept(folder: Path, data: Path) -> Run:
    records = read_run(folder)
    best = records.summary.best
    assert best is not None
    scored = [line for line in records.history if line.val_balanced_accuracy is not None]
    expected = max(scored, key=lambda line: (line.val_balanced_accuracy, -line.val_loss))
    assert best.round == expected.round
    assert best.val_balanced_accuracy == pytest.approx(expected.val_balanced_accuracy, abs=1e-6)
    assert best.accuracy == pytest.approx(expected.accuracy, abs=1e-6)
    # The file holds the model that has these scores, on either split.
    file = folder / "best.safetensors"
    assert scores_of(file, data, "val").balanced_accuracy == expected.val_balanced_accuracy
    assert scores_of(file, data, "test").accuracy == expected.accuracy
    return records


def test_the_best_round_s_model_is_kept_beside_the_last(whole: Path, with_val: Path) -> None:
    records = assert_best_is_kept(whole, with_val)
    assert all(line.val_loss is not None for line in records.history)
    last = scores_of(whole / "model.safetensors", with_val, "test")
    assert last.accuracy == records.history[-1].accuracy


def test_a_resumed_run_keeps_it(with_val: Path, tmp_path: Path, whole: Path) -> None:
    method = read_run(whole).summary.method
    chosen = {**CHOSEN, "method": method, "checkpoint_every": 3}

    def interrupt(message: Message, reply: Message) -> Message:
        if message.content.config_records[messages.TASK].get(messages.ROUND) == 5:
            raise KeyboardInterrupt
        return reply

    stopped = settings(with_val, tmp_path / "run", **chosen)
    with pytest.raises(KeyboardInterrupt):
        serve(grid(stopped, fault=interrupt), stopped)
    client_app.opened_sites.clear()
    run(settings(with_val, tmp_path / "run", **chosen, resume=True), run_id=8)
    for name in ("best.safetensors", "model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()
    assert read_run(tmp_path / "run").summary.best == read_run(whole).summary.best


def test_the_report_says_which_round_is_best(whole: Path) -> None:
    best = read_run(whole).summary.best
    assert best is not None
    page = write_report(whole).read_text(encoding="utf-8")
    assert f"best round by validation</dt><dd>{best.round}<" in page
    assert "best.safetensors" in page


def test_without_validation_splits_nothing_is_added(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def no_val(message: Message, reply: Message) -> Message:
        for record in (
            *reply.content.config_records.values(),
            *reply.content.metric_records.values(),
        ):
            assert not [key for key in record if "val" in key]
        return reply

    run(settings(data, folder, rounds=1), fault=no_val)
    assert read_run(folder).summary.best is None
    assert not (folder / "best.safetensors").exists()


def test_sites_score_one_round_in_so_many_and_the_last(with_val: Path, one_in_four: Path) -> None:
    records = assert_best_is_kept(one_in_four, with_val)
    for line in records.history:
        assert (line.accuracy is not None) == (line.round in (0, 4, 6))
        assert (line.val_accuracy is not None) == (line.round in (0, 4, 6))
    assert records.summary.accuracy is not None
    write_report(one_in_four)


def test_uploads_keep_to_their_budget_whichever_rounds_are_scored(one_in_four: Path) -> None:
    lines = (one_in_four / "rounds.jsonl").read_text().splitlines()
    sizes = [entry["bytes_up"] for entry in map(json.loads, lines) if entry["phase"] == "train"]
    dense = 4 * read_run(one_in_four).num_values
    assert np.mean(sizes) == pytest.approx(dense / 20, rel=0.02)
