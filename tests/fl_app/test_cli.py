"""The commands as a person types them: exit codes, one clear line for every mistake."""

from pathlib import Path

import pytest

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
        (["simulate", "--data", "{tmp}/nowhere"], "nowhere is not a folder"),
        (["simulate", "--data", "{data}", "--out", "{data}"], "is not empty"),
        (["ingest", "{tmp}/nowhere", "--out", "{tmp}/store"], "nowhere"),
        (["inspect", "{tmp}"], "neither"),
        (["report", "{tmp}"], "{tmp}"),
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
    assert rsdgc(monkeypatch, *filled) != 0
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
    assert rsdgc(monkeypatch, "simulate", "--resume", tmp_path / "none") == 1
    assert "holds no run to resume" in capsys.readouterr().err
    for words, wrong in ((["--rounds", "9"], "--rounds"), (["seed=1"], "seed=1")):
        assert rsdgc(monkeypatch, "simulate", "--resume", tmp_path, *words) == 2
        assert f"leave out {wrong}" in capsys.readouterr().err
    assert rsdgc(monkeypatch, "simulate", "resume=true") == 2
    assert "resume=true needs out" in capsys.readouterr().err


def test_states_at_a_site_are_listed_and_deleted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    states = make_states(tmp_path)
    assert rsdgc(monkeypatch, "site", "clean", tmp_path) == 0
    assert "add --yes to delete" in capsys.readouterr().out
    assert rsdgc(monkeypatch, "site", "clean", tmp_path, "--run", "1", "--yes") == 0
    assert "freed" in capsys.readouterr().out
    assert [folder.path.exists() for folder in states.values()] == [False, False, True, True]
    assert rsdgc(monkeypatch, "site", "clean", tmp_path / "nowhere") == 2
    assert "is not a folder" in capsys.readouterr().err
