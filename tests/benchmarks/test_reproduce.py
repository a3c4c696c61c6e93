from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.reproduce import __main__ as reproduce
from benchmarks.reproduce import experiments, gradient_methods, process_group
from rsdgc.compression import budget_of_step
from rsdgc.errors import SettingError
from tests.federation import write_class_folders

QUICK = {"model": "small-cnn", "px": 8, "batch_size": 8, "epochs": 0.3, "nodes": 1}
METHODS = ["dense", *(name for name in gradient_methods.METHODS if name != "dense")]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The one node of a group of one works in this process."""

    def start_nodes(arguments: process_group.Arguments) -> None:
        process_group.run_node(0, arguments, str(tmp_path / "group"))

    monkeypatch.setattr(reproduce, "start_nodes", start_nodes)


def command(monkeypatch: pytest.MonkeyPatch, data: Path, *words: str) -> None:
    settings = [f"{name}={value}" for name, value in QUICK.items()]
    argv = ["reproduce", str(data), "--out", str(data.parent / "r.jsonl"), "--set", *settings]
    monkeypatch.setattr(sys, "argv", [*argv, *words])
    threads = torch.get_num_threads()
    try:
        reproduce.main()
    finally:
        torch.set_num_threads(threads)


@pytest.mark.usefixtures("alone")
def test_every_method_trains_from_class_folders_and_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_class_folders(tmp_path / "images", per_class=15)
    words = ["--methods", *METHODS, "ours+policy=uniform", "--budgets", "20"]
    command(monkeypatch, data, *words)
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == [*METHODS, "ours+policy=uniform"]
    for row in rows:
        expected = 1 if row["method"] == "dense" else 20
        assert row["dense_bytes"] / row["bytes_sent"] == pytest.approx(expected, rel=0.1)
        assert 0 <= row["accuracy"] <= 1
        assert np.isfinite([row["train_loss"], row["test_loss"]]).all()
    assert capsys.readouterr().out.count("| 20× |") == len(rows) - 1

    command(monkeypatch, data, *words)
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == len(rows)
    command(monkeypatch, data, *words, "--seeds", "1", "--table")
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == len(rows)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--methods", "dgcc"], "method 'dgcc' is unknown: choose one of dense, dgc"),
        (["--methods", "dgc+valuess=int8"], "valuess"),
        (["--methods", "ours+tile_px=0"], "tile_px"),
        (["--set", "nodes=0"], "nodes"),
        (["--set", "depth=3"], "depth"),
        (["--methods", "dense+values=int8"], "dense training has no settings"),
    ],
)
def test_mistakes_are_named_in_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    says: str,
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(monkeypatch, tmp_path / "images", *words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


@given(
    times=st.sampled_from([20.0, 50.0, 100.0, 200.0]),
    steps=st.integers(100, 300),
    warm_up=st.sampled_from([0.0, 0.02, 0.05]),
)
def test_a_run_with_a_warm_up_sends_as_much_as_one_without(
    times: float, steps: int, warm_up: float
) -> None:
    experiment = experiments.experiment("small", {"warm_up": warm_up})
    method = gradient_methods.find_method("dgc")
    assert method is not None
    dense_bytes = 4_000_000
    chosen = gradient_methods.compression(
        method, experiment, times=times, steps=steps, dense_bytes=dense_bytes
    )
    sent = sum(budget_of_step(chosen, dense_bytes, step) for step in range(steps))
    assert sent == pytest.approx(steps * dense_bytes / times, rel=1e-3)


def test_a_warm_up_that_takes_all_bytes_is_refused() -> None:
    experiment = experiments.experiment("small", {"warm_up": 0.5})
    method = gradient_methods.find_method("dgc")
    assert method is not None
    with pytest.raises(SettingError, match="set a smaller warm_up"):
        gradient_methods.compression(
            method, experiment, times=400, steps=100, dense_bytes=4_000_000
        )


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_each_value_of_an_experiment_is_the_papers_or_a_guess(name: str) -> None:
    rows = list(experiments.describe(name))[2:]
    assert len(rows) == len(experiments.Experiment.model_fields)
    assert all("| the paper |" in row or "| a guess |" in row for row in rows)
