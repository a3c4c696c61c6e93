import json
from pathlib import Path

from fl_app.report.byte_charts import compressed_layers, ratio_heat_map, site_bars
from fl_app.runs.records import read_run
from tests.fl_app.report.fake_run import make_run


def test_layers_sent_whole_stay_out_of_the_heat_map(run_folder: Path) -> None:
    run = read_run(run_folder)
    names = compressed_layers(run)
    assert "stage4.conv2.weight" in names
    assert "head.bias" not in names


def test_without_ratios_there_is_no_heat_map(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "run", method="fedavg", ratios=False))
    assert ratio_heat_map(run) is None


def test_many_layers_are_cut_to_the_largest(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", rounds=2)
    path = folder / "history.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines[1:]:
        line["ratios"] = {f"layer{i}.weight": 0.01 for i in range(150)}
    path.write_text("\n".join(json.dumps(line) for line in lines))
    figure = ratio_heat_map(read_run(folder))
    assert figure is not None
    assert figure.svg.count(".weight") == 60


def test_uploads_are_stacked_by_group_of_layers_in_the_order_of_uploads(run_folder: Path) -> None:
    figure = site_bars(read_run(run_folder))
    assert figure is not None
    places = [figure.svg.index(f">{group}<") for group in ("header", "stem", "stage1", "head")]
    assert places == sorted(places)
