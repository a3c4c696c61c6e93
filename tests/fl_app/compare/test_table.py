import csv
from pathlib import Path
from typing import Any

from fl_app.compare.plot import write_plot
from fl_app.compare.table import COLUMNS, write_csv, write_markdown
from fl_app.compare.trials import Trial


def summary(accuracy: float | None, times: float) -> dict[str, Any]:
    figures = dict.fromkeys(COLUMNS, 1.0)
    return {
        **figures,
        "accuracy": accuracy,
        "balanced_accuracy": accuracy,
        "bytes_up": 1e6 / times,
        "bytes_down": 1e6,
        "compression_up": times,
        "compression_total": 2 / (1 + 1 / times),
        "history": [0.1, None, 0.3, 0.4, accuracy],
    }


ROWS = [
    (Trial("fedavg", "", 0), summary(0.6, 1)),
    (Trial("rs-dgc", "100x", 0), summary(0.5, 100)),
    (Trial("rs-dgc", "100x", 1), summary(0.7, 100)),
    (Trial("topk", "100x", 0), summary(None, 100)),
]


def test_csv_has_a_line_a_run(tmp_path: Path) -> None:
    write_csv(tmp_path / "compare.csv", ROWS)
    lines = list(csv.DictReader((tmp_path / "compare.csv").read_text().splitlines()))
    assert [line["method"] for line in lines] == ["fedavg", "rs-dgc", "rs-dgc", "topk"]
    assert lines[2]["accuracy"] == "0.7"
    assert lines[2]["seed"] == "1"


def test_markdown_has_means_and_deviations_over_the_seeds(tmp_path: Path) -> None:
    write_markdown(tmp_path / "compare.md", ROWS)
    lines = (tmp_path / "compare.md").read_text().splitlines()
    assert len(lines) == 4  # a run that was not scored has no line
    assert "| 0.100 0.300 0.400 **0.600** ± 0.141 |" in lines[3]
    assert "| 100.0× | 1.98× | 2 |" in lines[3]
    assert "±" not in lines[2]


def test_the_plot_names_every_method_and_is_the_same_again(tmp_path: Path) -> None:
    write_plot(tmp_path / "one.svg", ROWS)
    write_plot(tmp_path / "two.svg", ROWS)
    text = (tmp_path / "one.svg").read_text()
    assert text == (tmp_path / "two.svg").read_text()
    assert text.startswith("<?xml")
