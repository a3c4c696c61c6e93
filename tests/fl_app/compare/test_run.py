"""A whole comparison through real simulations: what is complete is not run again."""

import json
from pathlib import Path

import pytest

from fl_app.compare import compare, trials_of
from rsdgc.errors import RunError, SettingError

COMMON = {"model": "small-cnn", "rounds": 2, "batch-size": 8, "device": "cpu"}


@pytest.mark.slow
def test_a_comparison_goes_on_where_it_stopped(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "compare"
    compare(data, out, trials_of(["rs-dgc"], ["10x"], [0]), COMMON)
    assert "rs-dgc_10x_seed0:" in capsys.readouterr().out
    table = compare(data, out, trials_of(["rs-dgc", "stc"], ["10x"], [0]), COMMON)
    shown = capsys.readouterr().out
    assert "rs-dgc_10x_seed0:" not in shown
    assert "stc_10x_seed0:" in shown
    assert len(table.read_text().splitlines()) == 4
    assert len((out / "compare.csv").read_text().splitlines()) == 3
    assert (out / "compare.svg").exists()
    with pytest.raises(SettingError, match="holds a run with rounds=2 instead of 3"):
        compare(data, out, trials_of(["stc"], ["10x"], [0]), {**COMMON, "rounds": 3})
    summary = out / "stc_10x_seed0" / "summary.json"
    lost = {"error at the site": 3}
    summary.write_text(json.dumps({**json.loads(summary.read_text()), "refused": lost}))
    with pytest.raises(RunError, match=r"stc_10x_seed0 lost 3 uploads .* error at the site \(3\)"):
        compare(data, out, trials_of(["rs-dgc", "stc"], ["10x"], [0]), COMMON)
