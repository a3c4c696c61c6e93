"""Which settings a resumed run may change. ``tests/fl_app/test_resume.py`` resumes runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl_app.runs.records import RunConfig, RunData
from fl_app.runs.resumption import settings_to_resume
from fl_app.settings import Settings
from rsdgc.errors import SettingError


def test_a_resumed_run_may_change_what_does_not_enter_its_result(tmp_path: Path) -> None:
    first = Settings.from_mapping({"rounds": 9, "round-timeout-s": 60.0})
    RunConfig(settings=first.to_mapping(), run_id=3, data=RunData(name="made up")).write(tmp_path)
    resumed = settings_to_resume(tmp_path, ["round-timeout-s=5", "min-sites=2"])
    assert (resumed.rounds, resumed.round_timeout_s, resumed.min_sites) == (9, 5.0, 2)
    assert resumed.resume
    assert resumed.out == str(tmp_path)
    for word in ("rounds=9", "seed=1", "out=elsewhere", "site-names=any"):
        with pytest.raises(SettingError, match=f"^{word.partition('=')[0]} .* round-timeout-s"):
            settings_to_resume(tmp_path, [word])
    with pytest.raises(SettingError, match="no-setting"):
        settings_to_resume(tmp_path, ["no-setting=1"])
