"""Opening a run folder: what a new run finds there, and what it leaves if it does not begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fl_app.runs.folder import open_run
from fl_app.runs.lock import lock_holder, lock_run
from fl_app.runs.records import FrozenRecord
from fl_app.runs.replacement import in_use
from fl_app.settings import Settings
from rsdgc import ModelSpec
from rsdgc.errors import RunError, SettingError
from strategies.sites import DataInfo, ModalityInfo, SiteManager


def settings(out: Path, **changes: Any) -> Settings:
    return Settings.from_mapping({"out": str(out), **changes})


def test_a_run_that_does_not_begin_leaves_no_folder(tmp_path: Path) -> None:
    def wait_for_sites() -> None:
        with open_run(settings(tmp_path / "run"), 3) as run:
            assert run.folder == tmp_path / "run"
            assert lock_holder(run.folder).at_work
            raise RunError("no site")

    with pytest.raises(RunError, match="no site"):
        wait_for_sites()
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_begun_leaves_its_folder(tmp_path: Path) -> None:
    with open_run(settings(tmp_path / "run"), 3) as run:
        assert not run.resumed
        (run.folder / "config.json").write_text("{}")
    assert (tmp_path / "run" / "config.json").exists()
    with pytest.raises(RunError, match="is not empty"), open_run(settings(run.folder), 4):
        pass


def test_a_folder_that_holds_a_lock_alone_is_not_in_use(tmp_path: Path) -> None:
    """A server that was killed while it waited for sites leaves no more than that."""
    at_work = pytest.raises(RunError, match="run 3 is at work")
    with lock_run(tmp_path, 3), at_work, open_run(settings(tmp_path), 4):
        pass
    assert not in_use(tmp_path)
    with open_run(settings(tmp_path), 4) as run:
        assert run.run_id == 4


def test_a_file_in_place_of_the_folder_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="is not empty"), open_run(settings(tmp_path / "run"), 3):
        pass


def test_what_a_resumed_run_starts_from_is_compared_with_what_it_recorded(tmp_path: Path) -> None:
    spec = ModelSpec.from_shapes({"head.weight": (3, 4)})
    sites = SiteManager(
        DataInfo(
            "d", synthetic=False, classes=("a", "b"), modalities=(ModalityInfo("m", ("x",), 8),)
        )
    )
    now = FrozenRecord("12" * 16, 0)
    for recorded in (None, now):  # earlier versions recorded nothing of one's own networks
        with open_run(settings(tmp_path / str(recorded), model="small-cnn"), 3) as run:
            run.write_config(sites, spec, "", recorded)
            run.check_model(spec, now)
            if recorded:
                with pytest.raises(SettingError, match="what model small-cnn starts from has chan"):
                    run.check_model(spec, FrozenRecord("34" * 16, 0))
