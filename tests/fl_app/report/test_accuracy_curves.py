import json
from pathlib import Path

from fl_app.report.accuracy_curves import accuracy_by_bytes, accuracy_by_round
from fl_app.runs.records import read_run


def test_dense_bytes_are_marked(run_folder: Path) -> None:
    figure = accuracy_by_bytes(read_run(run_folder))
    assert figure is not None
    assert "dense FedAvg" in figure


def test_rounds_without_a_score_leave_a_gap(run_folder: Path) -> None:
    path = run_folder / "history.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[::3]:
        line.update(accuracy=None, kappa=None, balanced_accuracy=None, loss=None)
    path.write_text("\n".join(json.dumps(line) for line in lines))
    run = read_run(run_folder)
    assert accuracy_by_round(run)
    assert accuracy_by_bytes(run)
