"""Scores by site: from the counts of sites, or from older folders without them."""

import json
from pathlib import Path

import pytest

from fl_app.report import write_report
from fl_app.report.site_scores import accuracy_by_site, recall_by_site_and_class, site_scores
from fl_app.runs.records import read_run
from rsdgc.errors import RunFolderError


def add_scores(folder: Path, **changes: list[int]) -> None:
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    count = len(summary["classes"])
    summary["by_site"] = [
        {
            "site": f"site-0{i}",
            "accuracy": 0.75,
            "balanced_accuracy": 0.5,
            "kappa": 0.6,
            "reference": [4] * count,
            "predicted": [4] * count,
            "correct": [3] * count,
            **changes,
        }
        for i in range(3)
    ]
    path.write_text(json.dumps(summary))


def test_counts_give_intervals(run_folder: Path) -> None:
    add_scores(run_folder)
    run = read_run(run_folder)
    first, *_, last = site_scores(run)
    assert (first.site, first.num_test) == ("site-00", 40)
    assert first.interval == pytest.approx((0.5981, 0.8581), abs=1e-4)
    assert (last.site, last.accuracy, last.interval) == ("site-03", None, None)
    figure, matrix = accuracy_by_site(run), recall_by_site_and_class(run)
    assert figure is not None
    assert matrix is not None
    assert "site-02  (40)" in figure.svg
    assert figure.table.rows[0][:3] == ["site-00", 40, 0.75]
    assert len(matrix.table.rows) == 3 * 10
    assert "59.8–85.8\u00a0%" in write_report(run_folder).read_text()


def test_older_folders_have_accuracies_alone(run_folder: Path) -> None:
    path = run_folder / "rounds.jsonl"
    line = {"round": 20, "phase": "evaluate", "accepted": True, "bytes_up": 9, "bytes_down": 9}
    text = "".join(
        json.dumps(line | {"site": f"site-0{i}", "accuracy": 0.5 + i / 10}) + "\n" for i in range(4)
    )
    path.write_text(path.read_text() + text)
    run = read_run(run_folder)
    assert [score.accuracy for score in site_scores(run)] == [0.5, 0.6, 0.7, 0.8]
    assert recall_by_site_and_class(run) is None
    assert accuracy_by_site(run) is not None
    assert "did not record the counts" in write_report(run_folder).read_text()


@pytest.mark.parametrize("counts", [{"correct": [5] * 10}, {"reference": [1, 2]}])
def test_counts_that_contradict_are_refused(run_folder: Path, counts: dict[str, list[int]]) -> None:
    add_scores(run_folder, **counts)
    with pytest.raises(RunFolderError, match="counts of site site-00"):
        read_run(run_folder)
