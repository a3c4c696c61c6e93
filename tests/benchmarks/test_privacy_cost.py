from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks import privacy_cost
from tests.federation import make_data


@pytest.mark.slow
def test_a_row_for_each_noise_multiplier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_data(tmp_path, sites=2)
    words = [str(data), "--noise", "0", "4", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["privacy_cost", *words])
    privacy_cost.main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[:2] for row in rows] == [["| 0", "inf"], ["| 4", "0.926"]]
