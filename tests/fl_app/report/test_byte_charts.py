import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes

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


def test_a_round_without_ratios_is_empty_and_moves_no_other(run_folder: Path) -> None:
    """As a round that had no quorum, and those of a method that sent nothing of any layer."""
    path = run_folder / "history.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    plain = drawn(run_folder)
    for line in lines[5:8]:
        line["ratios"] = {}
    path.write_text("\n".join(json.dumps(line) for line in lines))
    image = drawn(run_folder)
    assert image.shape == plain.shape
    columns = np.flatnonzero(image.mask.all(axis=0))
    np.testing.assert_array_equal(columns, [4, 5, 6])
    np.testing.assert_array_equal(image[:, 7:], plain[:, 7:])
    for line in lines:
        line["ratios"] = dict.fromkeys(line["ratios"], 0.0)
    path.write_text("\n".join(json.dumps(line) for line in lines))
    assert drawn(run_folder).mask.all()


def drawn(folder: Path) -> np.ma.MaskedArray:
    """Return the values of the heat map's image, [layers, rounds]."""
    images = []
    imshow = Axes.imshow

    def keep(axes: Axes, values: np.ma.MaskedArray, **how: object) -> object:
        images.append(np.ma.masked_invalid(values))
        return imshow(axes, values, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Axes, "imshow", keep)
        ratio_heat_map(read_run(folder))
    return images[0]


def test_uploads_are_stacked_by_group_of_layers_in_the_order_of_uploads(run_folder: Path) -> None:
    figure = site_bars(read_run(run_folder))
    assert figure is not None
    places = [figure.svg.index(f">{group}<") for group in ("header", "stem", "stage1", "head")]
    assert places == sorted(places)
