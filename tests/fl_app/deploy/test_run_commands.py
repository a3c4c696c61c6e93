"""Which run a command means: by folder, by number, by default."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from fl_app.deploy import party_config, run_commands
from fl_app.deploy.party_config import ServerConfig
from fl_app.deploy.run_commands import choose_run, folders_by_run, label, run_folder, run_name
from fl_app.flower.command import FlowerRun
from fl_app.runs.lock import lock_run
from fl_app.runs.records import RunConfig, RunData
from fl_app.settings import Settings
from rsdgc.errors import RunError, SettingError
from tests.command import rsdgc


def flower_run(number: int, status: str) -> FlowerRun:
    return FlowerRun(str(number), status, "", 0, 0)


FOLDERS = {"2": "spring", "4": "summer"}
REFUSED, GOES_ON = flower_run(5, "finished:failed"), flower_run(2, "running")
DONE, OLDER = flower_run(4, "finished:completed"), flower_run(1, "finished:completed")


def test_by_default_it_is_the_run_that_goes_on() -> None:
    assert choose_run([REFUSED, DONE, GOES_ON, OLDER], FOLDERS, None) == "2"


def test_a_resume_that_was_refused_is_not_followed() -> None:
    assert choose_run([REFUSED, DONE, OLDER], FOLDERS, None) == "4"
    assert choose_run([REFUSED], FOLDERS, None) == "5"


@pytest.mark.parametrize("wanted", ["2", "spring"])
def test_a_run_has_a_number_and_a_folder(wanted: str) -> None:
    assert choose_run([REFUSED, DONE, GOES_ON], FOLDERS, wanted) == "2"
    assert label("2", FOLDERS) == "2 (spring)"
    assert label("5", FOLDERS) == "5"


@pytest.mark.parametrize("wanted", ["9", "autumn"])
def test_an_unknown_run_is_refused_with_those_that_there_are(wanted: str) -> None:
    with pytest.raises(RunError, match=rf"run '{wanted}' is not known.* 5, 4 \(summer\)"):
        choose_run([REFUSED, DONE], FOLDERS, wanted)


def test_the_folder_of_a_run_is_where_it_was_the_last_to_work(tmp_path: Path) -> None:
    for name, numbers in (("spring", (1, 2)), ("summer", (4,))):
        (tmp_path / name).mkdir()
        for number in numbers:
            with lock_run(tmp_path / name, number):
                pass
    (tmp_path / "no-run").mkdir()
    (tmp_path / "file").touch()
    assert folders_by_run(tmp_path) == FOLDERS
    assert folders_by_run(tmp_path / "missing") == {}


def test_where_sites_keep_their_state_is_not_the_servers_to_say(tmp_path: Path) -> None:
    config: Any = SimpleNamespace(runs_dir=tmp_path, code_dir=tmp_path)
    with pytest.raises(SettingError, match=r"state-dir=/srv/state changes nothing: .*site\.toml"):
        run_commands.run(config, "spring", ["state-dir=/srv/state"], {})
    assert list(tmp_path.iterdir()) == []


def test_a_run_does_not_take_the_folder_of_all_runs(tmp_path: Path) -> None:
    config: Any = SimpleNamespace(runs_dir=tmp_path / "runs", code_dir=tmp_path)
    for out in ("", ".", "..", "spring/..", str(tmp_path)):
        with pytest.raises(SettingError, match="which holds the folders of all runs: give a name"):
            run_commands.run(config, out, [], {})
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_is_told_that_sites_decide_where_their_state_is(tmp_path: Path) -> None:
    config: Any = SimpleNamespace(runs_dir=tmp_path, code_dir=tmp_path)
    (tmp_path / "spring").mkdir()
    first = Settings.from_mapping({}).to_mapping()
    RunConfig(settings=first, run_id=3, data=RunData(name="made up")).write(tmp_path / "spring")
    with pytest.raises(SettingError, match=r"state-dir=/srv/state changes nothing: .*site\.toml"):
        run_commands.resume(config, "spring", ["state-dir=/srv/state"])


def test_a_run_whose_network_is_gone_is_not_resumed(tmp_path: Path) -> None:
    config: Any = SimpleNamespace(runs_dir=tmp_path, code_dir=tmp_path)
    (tmp_path / "spring").mkdir()
    given = {"model": "gone_since:build", "code-dir": str(tmp_path)}
    first = Settings.from_mapping(given).to_mapping()
    RunConfig(settings=first, run_id=3, data=RunData(name="made up")).write(tmp_path / "spring")
    with pytest.raises(SettingError, match="gone_since"):
        run_commands.resume(config, "spring", [])


@pytest.mark.parametrize("out", ["spring", "2026/spring", "../elsewhere/spring"])
def test_the_name_of_a_run_leads_to_its_folder(tmp_path: Path, out: str) -> None:
    config: Any = SimpleNamespace(runs_dir=tmp_path / "runs")
    folder = run_folder(config, out)
    assert config.runs_dir / run_name(config, folder) == folder


def test_the_command_that_continues_a_run_can_be_copied(tmp_path: Path) -> None:
    name = "Anna's second run"
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").touch()
    config = SimpleNamespace(runs_dir=tmp_path, code_dir=tmp_path)
    with pytest.raises(SettingError, match="is not empty") as refused:
        run_commands.run(cast(ServerConfig, config), name, [], {})
    command = str(refused.value).rpartition("with ")[2]
    assert shlex.split(command) == ["rsdgc", "server", "resume", name]


def test_sites_and_runs_as_json(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Flower:
        def runs(self) -> list[FlowerRun]:
            return [GOES_ON, OLDER]

    config = SimpleNamespace(runs_dir=tmp_path)
    with lock_run(tmp_path, 2):
        pass
    monkeypatch.setattr(run_commands, "connect", lambda _: Flower())
    monkeypatch.setattr(run_commands, "site_states", lambda *_: {"oslo": "online"})
    monkeypatch.setattr(party_config, "read_server", lambda _: config)
    assert rsdgc(monkeypatch, "server", "watch", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["sites"] == {"oslo": "online"}
    assert [(run["run_id"], run["status"]) for run in printed["runs"]] == [
        ("2", "running"),
        ("1", "finished:completed"),
    ]
    assert rsdgc(monkeypatch, "server", "watch", "2", "--json") == 2
    assert "leave out 2" in capsys.readouterr().err
