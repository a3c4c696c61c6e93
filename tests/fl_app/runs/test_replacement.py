"""``--force`` replaces a run, and nothing that is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fl_app.runs.lock import lock_run
from fl_app.runs.replacement import RUN_ENTRIES, check_replaceable, replacing
from rsdgc.errors import RunError, SettingError
from tests.federation import run, settings


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_everything_that_a_run_leaves_is_known(data: Path, tmp_path: Path) -> None:
    more = {"checkpoint_every": 1, "normalization": "common", "adapters": "lora"}
    run(settings(data, tmp_path / "run", rounds=1, **more), report=True)
    assert {path.name for path in (tmp_path / "run").iterdir()} <= RUN_ENTRIES
    check_replaceable(tmp_path / "run")


@pytest.mark.parametrize(
    "config",
    [
        {"architectures": ["ResNet"], "model_type": "resnet"},  # as in every model folder of a hub
        {"name": "my-app", "version": "1.0.0", "data": {"path": "/srv"}},
        ["not", "an", "object"],
    ],
)
def test_what_is_no_run_is_never_touched(tmp_path: Path, config: object) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"precious")
    before = content(folder)
    with pytest.raises(SettingError, match="is not the folder of a run"), replacing(folder):
        pass
    assert content(folder) == before


def test_what_a_run_of_a_deployment_leaves_is_known(run_folder: Path) -> None:
    (run_folder / "traffic.json").write_text("{}")  # by rsdgc server run
    check_replaceable(run_folder)


@pytest.mark.parametrize("name", ["notes.txt", "figures/map.png"])
def test_what_a_user_has_put_into_a_run_is_not_deleted(run_folder: Path, name: str) -> None:
    (run_folder / name).parent.mkdir(exist_ok=True)
    (run_folder / name).write_text("mine")
    with pytest.raises(SettingError, match=f"holds {name.partition('/')[0]}, which no run"):
        check_replaceable(run_folder)


def test_a_run_at_work_is_not_replaced(run_folder: Path) -> None:
    with lock_run(run_folder, 3), pytest.raises(RunError, match="run 3 is at work"):
        check_replaceable(run_folder)


def test_the_old_run_is_there_until_the_new_one_stands(run_folder: Path) -> None:
    before = content(run_folder)
    with replacing(run_folder):
        assert not run_folder.exists()
        assert content(run_folder.with_name("demo.replaced")) == before
        run_folder.mkdir()
        (run_folder / "config.json").write_text("new")
        (run_folder / "summary.json").write_text("new")
    assert content(run_folder) == {"config.json": b"new", "summary.json": b"new"}
    assert [path.name for path in run_folder.parent.iterdir()] == ["demo"]


@pytest.mark.parametrize("begins", [True, False])
def test_a_run_behind_a_link_is_replaced_where_it_is(run_folder: Path, begins: bool) -> None:
    """As where runs are kept on a larger disk."""
    before, link = content(run_folder), run_folder.with_name("link")
    link.symlink_to(run_folder)
    with replacing(link):
        link.mkdir(exist_ok=True)
        if begins:
            (link / "summary.json").write_text("new")
    assert content(run_folder) == ({"summary.json": b"new"} if begins else before)
    assert link.readlink() == run_folder
    assert sorted(path.name for path in run_folder.parent.iterdir()) == ["demo", "link"]


def test_the_old_run_comes_back_if_the_new_one_does_not_begin(run_folder: Path) -> None:
    before = content(run_folder)

    def begin() -> None:
        with replacing(run_folder):
            run_folder.mkdir()
            raise RunError("no site")

    with pytest.raises(RunError, match="no site"):
        begin()
    assert content(run_folder) == before
    assert [path.name for path in run_folder.parent.iterdir()] == ["demo"]


def test_both_stay_if_the_new_run_is_interrupted(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(run_folder)
    run_folder.with_name("demo.replaced").mkdir()  # from an earlier interruption

    def begin() -> None:
        with replacing(run_folder):
            run_folder.mkdir()
            (run_folder / "config.json").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin()
    assert content(run_folder) == {"config.json": b"new"}
    aside = run_folder.with_name("demo.replaced-2")
    assert content(aside) == before
    assert f"is in {aside}" in capsys.readouterr().err
