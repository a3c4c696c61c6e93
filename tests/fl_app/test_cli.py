"""The commands as a person types them: exit codes, one clear line for every mistake."""

import json
from pathlib import Path

import click
import pytest
import typer

from fl_app import cli
from tests.clients.test_state_cleanup import make_states
from tests.command import rsdgc
from tests.federation import make_data, write_class_folders


def test_from_images_to_a_partition(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_class_folders(tmp_path / "images")
    store, data = tmp_path / "store", tmp_path / "data"
    ingest = ["ingest", tmp_path / "images", "--layout", "class-folders", "--out", store]
    assert rsdgc(monkeypatch, *ingest) == 0
    scheme = ["--sites", "3", "--scheme", "iid", "--seed", "1"]
    assert rsdgc(monkeypatch, "partition", store, *scheme, "--out", data) == 0
    assert rsdgc(monkeypatch, "inspect", data) == 0
    assert "site-02" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["simulate", "buget=3"], "unknown setting 'buget'; did you mean 'budget'?"),
        (["simulate", "--rounds", "0"], "setting rounds=0"),
        (["simulate", "--data", "{data}", "--model", "resnet19"], "resnet19"),
        (["simulate", "--data", "{data}", "--budget", "99999x"], "allow at least"),
        (["simulate", "--data", "{data}", "quorum=4"], "quorum=4 is more than the 3 sites"),
        (["simulate", "--data", "{data}", "min-sites=4"], "min-sites=4 is more than the 3 sites"),
        (["simulate", "--data", "{tmp}/nowhere"], "nowhere is not a folder"),
        (["simulate", "--data", "{data}", "--out", "{data}"], "is not empty"),
        (["ingest", "{tmp}/nowhere", "--out", "{tmp}/store"], "nowhere"),
        (["inspect", "{tmp}"], "neither"),
        (["report", "{tmp}"], "{tmp}"),
        (["simulate", "--data", "{data}", "--cpus-per-site", "4096"], "--cpus-per-site is 4096"),
        (["simulate", "--rounds", "many"], "'--rounds': 'many' is not a valid integer. See rsdgc"),
        (["simulate", "--dat", "{data}"], "--dat"),
        (["compare", "{data}", "--out", "{tmp}/all", "--methods", ""], "--methods is empty"),
        (["compare", "{data}", "--out", "{tmp}/all", "--seeds", ","], "--seeds is empty"),
        (
            ["deploy", "init", "--server", "a", "--out", "{tmp}/f", "--sites", "o,p,o"],
            "named twice",
        ),
        (["deploy", "init", "--server", "a", "--out", "{tmp}/f", "--sites", "O,o"], "named twice"),
        (["synth", "{tmp}/archive", "--scene-px", "5"], "--scene-px is 5"),
    ],
)
def test_a_mistake_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    filled = [word.format(data=data, tmp=tmp_path) for word in words]
    assert rsdgc(monkeypatch, *filled) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message.format(tmp=tmp_path) in error
    assert list(tmp_path.iterdir()) == []


def test_a_site_without_samples_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_data(tmp_path)
    words = ["--sites", "80", "--scheme", "iid", "--out", tmp_path / "many"]
    assert rsdgc(monkeypatch, "partition", tmp_path / "store", *words) == 2
    assert "error: " in capsys.readouterr().err
    assert not (tmp_path / "many").exists()


def test_a_run_that_cannot_be_resumed_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rsdgc(monkeypatch, "simulate", "--resume", tmp_path / "none") == 2
    assert "holds no run to resume" in capsys.readouterr().err
    assert rsdgc(monkeypatch, "simulate", "--resume", tmp_path, "--rounds", "9") == 2
    assert "leave out --rounds" in capsys.readouterr().err
    assert rsdgc(monkeypatch, "simulate", "resume=true") == 2
    assert "resume=true needs out" in capsys.readouterr().err


def test_states_at_a_site_are_listed_and_deleted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states = make_states(tmp_path)
    assert rsdgc(monkeypatch, "site", "clean", tmp_path) == 0
    assert "add --yes to delete" in capsys.readouterr().out
    assert rsdgc(monkeypatch, "site", "clean", tmp_path, "--site", "a", "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [state["outcome"] for state in listed] == ["can go", "can go"]
    assert rsdgc(monkeypatch, "site", "clean", tmp_path, "--run", "1", "--yes") == 0
    assert "freed" in capsys.readouterr().out
    assert [folder.path.exists() for folder in states.values()] == [False, False, True, True]
    assert rsdgc(monkeypatch, "site", "clean", tmp_path / "nowhere") == 2
    assert "is not a folder" in capsys.readouterr().err


@pytest.fixture
def a_file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("precious")
    return tmp_path / "file"


@pytest.mark.parametrize(
    "words",
    [
        ["synth", "{file}/archive", "--sites", "1"],
        ["ingest", "{images}", "--layout", "class-folders", "--out", "{file}/store"],
        ["partition", "{store}", "--sites", "2", "--scheme", "iid", "--out", "{file}/data"],
        ["simulate", "--data", "{data}", "--out", "{file}/deep/run"],
        ["simulate", "--data", "{data}", "--out", "{file}", "--force"],
        ["simulate", "--data", "{data}", "--out", "{file}-run", "state-dir={file}/state"],
        ["compare", "{data}", "--out", "{file}/all"],
        ["deploy", "init", "--server", "a", "--sites", "b", "--out", "{file}/federation"],
        ["inspect", "{data}", "--html", "{file}/page.html"],
    ],
)
def test_an_output_below_a_file_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    data: Path,
    a_file: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    folders = {"images": data.parent / "images", "store": data.parent / "store"}
    filled = [word.format(data=data, file=a_file, **folders) for word in words]
    assert rsdgc(monkeypatch, *filled) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert str(a_file) in error
    assert a_file.read_text() == "precious"
    assert list(a_file.parent.iterdir()) == [a_file]


@pytest.mark.parametrize(
    "words",
    [
        ["synth", "/proc/archive", "--sites", "1"],
        ["simulate", "--data", "{data}", "--out", "/proc/run"],
        ["partition", "{store}", "--sites", "2", "--scheme", "iid", "--out", "/proc/sys/data"],
    ],
)
def test_a_place_that_takes_no_files_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    data: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:
    filled = [word.format(data=data, store=data.parent / "store") for word in words]
    assert rsdgc(monkeypatch, *filled) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: /proc/")
    assert error.count("\n") == 1


@pytest.mark.parametrize("name", ["clients/__init__.py", "rsdgc.py", "strategies/__init__.py"])
def test_what_would_hide_the_apps_packages_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    assert rsdgc(monkeypatch, "simulate", "--data", data) == 2
    assert f"{tmp_path / name.partition('/')[0]} would hide the package" in capsys.readouterr().err


def test_other_folders_hide_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from fl_app.models.code_signature import packages_that_hide_ours  # noqa: PLC0415

    for name in ("clients", "data", "strategies.d"):
        (tmp_path / name).mkdir()
    (tmp_path / "clients" / "list.csv").write_text("")
    assert packages_that_hide_ours(tmp_path) == []
    assert packages_that_hide_ours(Path(cli.__file__).parents[1]) == []


def all_commands() -> list[tuple[str, click.Command]]:
    def walk(name: str, command: click.Command) -> list[tuple[str, click.Command]]:
        if not isinstance(command, click.Group):
            return [(name, command)]
        pairs = (walk(f"{name} {sub}", each) for sub, each in command.commands.items())
        return [pair for some in pairs for pair in some]

    return walk("rsdgc", typer.main.get_command(cli.app))


@pytest.mark.parametrize(("name", "command"), all_commands(), ids=lambda value: str(value)[:30])
def test_every_help_has_examples_that_can_be_typed(name: str, command: click.Command) -> None:
    lines = [line.strip() for line in (command.epilog or "").splitlines()]
    commands = [line.split() for line in lines if line.startswith("rsdgc ")]
    assert commands, f"{name} has no example"
    for words in commands:
        depth = len(name.split())
        assert words[:depth] == name.split()
        command.make_context(name, words[depth:])


def test_help_and_version_are_short_options_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["-h"], ["simulate", "-h"], ["site", "clean", "-h"]):
        assert rsdgc(monkeypatch, *words) == 0
        shown = capsys.readouterr().out
        assert shown.startswith("Usage: rsdgc")
        assert "\\[" not in shown
    assert rsdgc(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("rsdgc ")


@pytest.mark.parametrize("command", ["models", "methods", "settings"])
def test_lists_are_tables_and_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert rsdgc(monkeypatch, command) == 0
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines() if line[:1] in "│┃┏└") <= 60
    assert rsdgc(monkeypatch, command, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) > 8
    first = next(iter(rows[0].values()))
    assert first in shown


def test_inspect_prints_json(
    monkeypatch: pytest.MonkeyPatch, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rsdgc(monkeypatch, "inspect", data, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert list(facts["sites"]) == ["site-00", "site-01", "site-02"]


def test_a_missing_file_has_one_exit_code(
    monkeypatch: pytest.MonkeyPatch, run_folder: Path, tmp_path: Path
) -> None:
    nowhere = tmp_path / "nowhere"
    for words in (
        ["inspect", nowhere],
        ["ingest", nowhere, "--out", tmp_path / "store"],
        ["partition", nowhere, "--scheme", "iid", "--sites", "2", "--out", tmp_path / "data"],
        ["simulate", "--data", nowhere],
        ["simulate", "--resume", nowhere],
        ["report", nowhere],
        ["report", run_folder, "--data", nowhere],
        ["weights", "inspect", nowhere],
        ["deploy", "check", "--config", nowhere],
        ["deploy", "add-site", "oslo", "--out", nowhere],
        ["server", "watch", "--config", nowhere],
        ["site", "status", "--config", nowhere],
        ["site", "clean", nowhere],
    ):
        assert rsdgc(monkeypatch, *words) == 2, words
