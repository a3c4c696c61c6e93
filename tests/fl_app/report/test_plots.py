import json
from pathlib import Path

import numpy as np
import pytest

from fl_app.report.curves import accuracy_by_bytes, accuracy_by_round
from fl_app.report.plots import compressed_layers, confusion_matrix, ratio_heat_map, site_bars
from fl_app.report.svg import draw
from fl_app.runs.records import read_run
from tests.fl_app.report.fake_run import make_run


def test_every_figure_follows_the_page(run_folder: Path) -> None:
    run = read_run(run_folder)
    figures = [accuracy_by_round(run), accuracy_by_bytes(run), ratio_heat_map(run), site_bars(run)]
    for figure in figures:
        assert figure is not None
        assert figure.startswith("<svg viewBox=")
        assert 'role="img" aria-label="' in figure
        assert "var(--muted)" in figure
        assert "#0101" not in figure
        assert "http" not in figure
        assert "<style" not in figure


def test_figures_are_the_same_each_time(run_folder: Path) -> None:
    run = read_run(run_folder)
    assert accuracy_by_round(run) == accuracy_by_round(run)
    assert ratio_heat_map(run) == ratio_heat_map(run)


def test_dense_bytes_are_marked(run_folder: Path) -> None:
    figure = accuracy_by_bytes(read_run(run_folder))
    assert figure is not None
    assert "dense FedAvg" in figure


def test_layers_sent_whole_stay_out_of_the_heat_map(run_folder: Path) -> None:
    run = read_run(run_folder)
    names = compressed_layers(run)
    assert "stage4.conv2.weight" in names
    assert "head.bias" not in names


def test_without_ratios_there_is_no_heat_map(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", method="fedavg", ratios=False))
    assert ratio_heat_map(run) is None


def test_a_run_that_sent_nothing_has_no_byte_figures(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", rounds=0))
    assert accuracy_by_bytes(run) is None
    assert site_bars(run) is None
    assert accuracy_by_round(run)


def test_rounds_without_a_score_leave_a_gap(run_folder: Path) -> None:
    path = run_folder / "history.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[::3]:
        line.update(accuracy=None, kappa=None, balanced_accuracy=None, loss=None)
    path.write_text("\n".join(json.dumps(line) for line in lines))
    run = read_run(run_folder)
    assert accuracy_by_round(run)
    assert accuracy_by_bytes(run)


def test_many_layers_are_cut_to_the_largest(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rounds=2)
    path = folder / "history.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[1:]:
        line["ratios"] = {f"layer{at}.weight": 0.01 for at in range(150)}
    path.write_text("\n".join(json.dumps(line) for line in lines))
    figure = ratio_heat_map(read_run(folder))
    assert figure is not None
    assert figure.count(".weight") == 60


@pytest.mark.parametrize("num_classes", [2, 10, 21, 45])
def test_confusion_matrices_of_any_size(num_classes: int) -> None:
    rng = np.random.default_rng(0)
    confusion = rng.integers(0, 9, (num_classes, num_classes))
    confusion[0] = 0  # a class without test chips
    names = [f"class {at}" for at in range(num_classes)]
    figure = confusion_matrix(confusion, names)
    assert figure.count(f">class {num_classes - 1}<") == 2


def test_text_is_escaped_and_never_read_as_mathematics() -> None:
    figure = draw("k", 'a "label" <b>', (2, 2), lambda f: f.suptitle("<i>$x_1$ & 語") and None)
    assert "&lt;i&gt;$x_1$ &amp; 語" in figure
    assert 'aria-label="a &#34;label&#34; &lt;b&gt;"' in figure


def test_ids_do_not_collide() -> None:
    def paint(figure) -> None:
        figure.add_subplot().plot([1, 2])

    one, two = draw("one", "", (2, 2), paint), draw("two", "", (2, 2), paint)
    ids = [part.split('"')[0] for svg in (one, two) for part in svg.split(' id="')[1:]]
    assert len(ids) == len(set(ids))
    for svg in (one, two):
        for link in svg.split("url(#")[1:]:
            assert f'id="{link.split(")")[0]}"' in svg
