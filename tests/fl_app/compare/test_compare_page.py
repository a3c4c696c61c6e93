"""The page of a comparison: means, paired differences, and what it says where data are missing."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fl_app.compare import method_pairs as module
from fl_app.compare.compare_page import write_page
from fl_app.compare.method_pairs import SharedChips, method_pairs
from fl_app.compare.results import Rows
from fl_app.compare.trials import Trial
from fl_app.runs.records import read_run
from rsdgc.errors import RunFolderError
from tests.data_prep.pictures.fake_store import folder_store
from tests.fl_app.report.fake_run import make_run


def make_rows(folder: Path, seeds: dict[str, tuple[int, ...]]) -> Rows:
    rows = []
    for method, of_method in seeds.items():
        for seed in of_method:
            trial = Trial(method, "" if method == "fedavg" else "100x", seed)
            run = make_run(folder / trial.folder, method=method, seed=seed + len(method), rounds=3)
            rows.append((trial, read_run(run)))
    return rows


@pytest.fixture
def chips(monkeypatch: pytest.MonkeyPatch) -> SharedChips:
    """Chips on which dense models are always right, and others for all but every third."""
    store = folder_store(chip_px=8)
    labels = store.manifest.column("label").to_numpy()
    calls: list[str] = []

    def predict(run, _store, members: np.ndarray) -> np.ndarray:
        calls.append(run.folder.name)
        dense = run.summary.method == "fedavg"
        return np.where(dense | (np.arange(len(members)) % 3 > 0), labels[members], -1)

    monkeypatch.setattr(module, "open_data", lambda _path: SimpleNamespace(store=store))
    monkeypatch.setattr(module, "predict", predict)
    shared = SharedChips(Path("data"))
    shared.calls = calls  # type: ignore[attr-defined]
    return shared


def test_differences_are_paired_by_seed(tmp_path: Path, chips: SharedChips) -> None:
    rows = make_rows(tmp_path, {"fedavg": (0, 1, 2), "rs-dgc": (1, 2, 7)})
    (pair,) = method_pairs(rows, chips)
    assert (pair.first.text, pair.second.text) == ("rs-dgc 100×", "fedavg")
    assert [seed.seed for seed in pair.seeds] == [1, 2]
    by_seed = {(trial.label, trial.seed): run.summary.accuracy for trial, run in rows}
    for seed in pair.seeds:
        one, two = by_seed["rs-dgc", seed.seed], by_seed["fedavg", seed.seed]
        assert one is not None
        assert two is not None
        assert seed.difference == pytest.approx(one - two)
        assert seed.only_first == 0
        assert seed.only_second == -(-seed.num_chips // 3)
        assert seed.p == pytest.approx(2 / 2**seed.only_second)
        assert seed.adjusted_p == pytest.approx(2 * seed.p)
    method_pairs(rows, chips)
    assert len(chips.calls) == 4  # type: ignore[attr-defined]  # each model once


def test_a_page_shows_means_curves_and_tests(tmp_path: Path, chips: SharedChips) -> None:
    rows = make_rows(tmp_path, {"fedavg": (0, 1), "rs-dgc": (0, 1)})
    write_page(tmp_path / "compare.html", rows, 6, chips)
    page = (tmp_path / "compare.html").read_text()
    assert "Complete: 4 of\n6 runs" in page
    assert "McNemar" in page
    assert page.count("<svg viewBox=") == 5
    assert "http" not in page.replace("http-equiv", "")
    assert "<script" not in page
    assert "at least .25 with three" in page


def test_models_that_are_not_here_are_said(
    tmp_path: Path, chips: SharedChips, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments) -> None:
        raise RunFolderError("model.safetensors is missing")

    monkeypatch.setattr(module, "predict", fail)
    rows = make_rows(tmp_path, {"fedavg": (0,), "rs-dgc": (0,)})
    write_page(tmp_path / "compare.html", rows, 2, chips)
    page = (tmp_path / "compare.html").read_text()
    assert "model.safetensors is missing" in page
    assert "One seed says nothing" in page


def test_a_single_method_and_no_run_at_all(tmp_path: Path, chips: SharedChips) -> None:
    write_page(tmp_path / "none.html", [], 3, chips)
    assert not (tmp_path / "none.html").exists()
    rows = make_rows(tmp_path, {"rs-dgc": (3,)})
    write_page(tmp_path / "one.html", rows, 1, chips)
    assert "There is one method" in (tmp_path / "one.html").read_text()
