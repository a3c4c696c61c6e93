from __future__ import annotations

import json
import sys
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from benchmarks import accuracy_by_bytes, both_directions
from tests.federation import make_data

VARIANTS = (
    "up=1,down=1",
    "up=40,down=20",
    "method=topk,up=40,down=20,download=own",
    "method=sparseloco,up=40,download=own",
    "method=powersgd,up=40,down=20",
)


@pytest.mark.slow
def test_every_run_is_a_line_and_the_table_and_the_plot_are_made_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, results = make_data(tmp_path, sites=2), tmp_path / "results.jsonl"
    words = [str(data), "--rounds", "1", "--out", str(results), "--name", "toy", "--variants"]
    for _ in range(2):  # the second time there is nothing to run
        monkeypatch.setattr(sys, "argv", ["both_directions", *words, *VARIANTS])
        both_directions.main()
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [row["variant"] for row in rows] == list(VARIANTS)
    dense, ours, topk, sparseloco, _ = rows
    assert dense["bytes_up"] == dense["bytes_down"] == dense["dense_bytes"] / 2
    for row in (ours, topk, sparseloco):
        assert row["bytes_up"] == pytest.approx(dense["bytes_up"] / 40, rel=0.1)
    assert sparseloco["bytes_down"] == sparseloco["bytes_up"]  # one other site
    other = [*words, "up=40,down=20", "--model", "hyper-cnn"]
    monkeypatch.setattr(sys, "argv", ["both_directions", *other])
    both_directions.main()
    *same, last = [json.loads(line) for line in results.read_text().splitlines()]
    assert same == rows  # a run of another model is another run
    assert last["dense_bytes"] < ours["dense_bytes"]
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert dense["course"][-1][1:3] == [dense["dense_bytes"], dense["accuracy"]]

    capsys.readouterr()
    plot = tmp_path / "plot.png"
    monkeypatch.setattr(sys, "argv", ["accuracy_by_bytes", str(results), "--plot", str(plot)])
    accuracy_by_bytes.main()
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 2 + len(VARIANTS)
    assert "| 1× | 0 | 1 |" in table[2]
    assert plot.stat().st_size > 10_000


def test_results_of_several_archives_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.jsonl"
    row = {"rounds": 1, "seed": 0, "variant": "up=1,down=1"}
    rows = [row | {"data": "a"}, row | {"data": "b"}, row | {"data": "b", "model": "resnet18"}]
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for words, text in (
        ([], "small-resnet on a, 1 rounds, resnet18 on b, 1 rounds, small-resnet on b, 1 rounds;"),
        (["--name", "b"], "resnet18 on b, 1 rounds, small-resnet on b, 1 rounds; choose with"),
        (["--model", "vgg19"], "has these runs: none; choose with --name, --rounds and --model"),
    ):
        monkeypatch.setattr(sys, "argv", ["accuracy_by_bytes", str(results), *words])
        with pytest.raises(SystemExit):
            accuracy_by_bytes.main()
        assert text in capsys.readouterr().err


@pytest.mark.parametrize("text", ["method=magic", "download=never", "sideways=1"])
def test_a_variant_that_does_not_exist_is_refused(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="choose among"):
        both_directions.Variant.parse(text)
