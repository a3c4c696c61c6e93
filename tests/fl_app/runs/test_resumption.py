"""Which settings a resumed run may change. ``tests/fl_app/test_resume.py`` resumes runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fl_app.runs.records import RunConfig, RunData
from fl_app.runs.resumption import settings_to_resume
from fl_app.settings import Settings
from rsdgc.errors import RunFolderError, SettingError


def write_run(folder: Path, **settings: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    first = Settings.from_mapping(settings)
    RunConfig(settings=first.to_mapping(), run_id=3, data=RunData(name="made up")).write(folder)


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


@pytest.mark.parametrize("word", ["out=elsewhere", "resume=false", "site-names=any"])
def test_what_the_command_decides_is_not_said_to_enter_the_result(
    tmp_path: Path, word: str
) -> None:
    write_run(tmp_path)
    with pytest.raises(SettingError, match="is decided by the command that resumes the run: leave"):
        settings_to_resume(tmp_path, [word])


def test_folders_and_weights_may_be_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flower's processes work in other folders, so paths become absolute."""
    write_run(tmp_path / "run", **{"init-weights": "/old/w.safetensors"})
    monkeypatch.chdir(tmp_path)
    words = ["init-weights=w.safetensors", "code-dir=mine", "data-dir=d", "state-dir=s"]
    resumed = settings_to_resume(tmp_path / "run", words)
    paths = (resumed.init_weights, resumed.code_dir, resumed.data_dir, resumed.state_dir)
    assert paths == tuple(str(tmp_path / name) for name in ("w.safetensors", "mine", "d", "s"))
    # Without a file before, or none now, the run would begin with another model.
    with pytest.raises(SettingError, match="init-weights enters the run's result"):
        settings_to_resume(tmp_path / "run", ["init-weights="])
    write_run(tmp_path / "from-seed")
    with pytest.raises(SettingError, match="init-weights enters the run's result"):
        settings_to_resume(tmp_path / "from-seed", ["init-weights=w.safetensors"])


def test_what_is_no_run_is_named_with_what_to_name_instead(tmp_path: Path) -> None:
    out = tmp_path / "compare"
    write_run(out / "topk_10x_seed0")
    holds = "holds no run to resume: it"
    cases = {
        tmp_path / "nothing": f"nothing {holds} is not a folder; name one",
        out / "topk_10x_seed0" / "config.json": rf"config.json {holds} is not a folder; name one",
        out: f"{holds} holds folders of runs, such as topk_10x_seed0; name one",
        tmp_path: f"{holds} has no config.json; name a folder",
    }
    for folder, text in cases.items():
        with pytest.raises(RunFolderError, match=text):
            settings_to_resume(folder)
    (out / "topk_10x_seed0" / "summary.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"is finished: .* start a new run with init-weights="):
        settings_to_resume(out / "topk_10x_seed0")
