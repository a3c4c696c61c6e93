import csv
from dataclasses import replace
from pathlib import Path

from fl_app.compare import Trial
from fl_app.compare.results import write_csv, write_markdown, write_plot
from fl_app.runs.records import ModalityScores, Run, RunConfig, RunData, RunSummary
from strategies.ledger import RoundEntry


def run(accuracy: float | None, times: float) -> Run:
    summary = RunSummary(
        method="rs-dgc",
        dataset="squares",
        num_sites=3,
        rounds=4,
        seed=0,
        server_momentum=0.4,
        accuracy=accuracy,
        balanced_accuracy=accuracy,
        bytes_up=round(1e6 / times),
        bytes_down=1_000_000,
        dense_bytes_up=1_000_000,
        dense_bytes_down=1_000_000,
        compression_up=times,
        compression_total=2 / (1 + 1 / times),
    )
    scores = [0.1, None, 0.3, 0.4, accuracy]
    history = [RoundEntry(number, accuracy=score) for number, score in enumerate(scores)]
    config = RunConfig(settings={}, run_id=7, data=RunData(name="squares"))
    return Run(Path("run"), config, summary, history, [])


ROWS = [
    (Trial("fedavg", "", 0), run(0.6, 1)),
    (Trial("rs-dgc", "100x", 0), run(0.5, 100)),
    (Trial("rs-dgc", "100x", 1), run(0.7, 100)),
    (Trial("topk", "100x", 0), run(None, 100)),
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


def test_scores_by_modality_have_a_table_of_their_own(tmp_path: Path) -> None:
    rows = []
    for seed, accuracy in enumerate((0.5, 0.7)):
        groups = [
            ModalityScores(
                modalities=names,
                sites=["a"],
                num_test=9,
                accuracy=accuracy,
                balanced_accuracy=accuracy - 0.1,
                kappa=0.25,
            )
            for names in (["optical", "sar"], ["optical"])
        ]
        made = run(accuracy, 100)
        summary = replace(made.summary, by_modalities=groups)
        rows.append((Trial("rs-dgc", "100x", seed), replace(made, summary=summary)))
    write_markdown(tmp_path / "compare.md", rows)
    lines = (tmp_path / "compare.md").read_text().splitlines()
    assert lines[-2:] == [
        "| rs-dgc | 100x | optical, sar | 0.600 | 0.500 | 0.250 | 2 |",
        "| rs-dgc | 100x | optical | 0.600 | 0.500 | 0.250 | 2 |",
    ]
