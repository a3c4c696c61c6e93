import json
from pathlib import Path

from data_prep.number_format import bytes_text
from fl_app.report.learning_curves import accuracy_by_bytes, accuracy_by_round
from fl_app.runs.records import read_run


def test_bytes_end_at_the_summary_and_dense_bytes_are_marked(run_folder: Path) -> None:
    run = read_run(run_folder)
    figure = accuracy_by_bytes(run)
    assert figure is not None
    assert "dense FedAvg" in figure.svg
    sent = bytes_text(run.summary.bytes_up + run.summary.bytes_down)
    assert f"axis: {sent} in both directions at the end" in figure.svg


def test_rounds_without_a_score_are_left_out(run_folder: Path) -> None:
    path = run_folder / "history.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[::3]:
        line.update(accuracy=None, kappa=None, balanced_accuracy=None, loss=None)
    path.write_text("\n".join(json.dumps(line) for line in lines))
    run = read_run(run_folder)
    assert accuracy_by_round(run)
    assert accuracy_by_bytes(run)
