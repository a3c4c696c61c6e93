from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from clients.state import StateFolder
from clients.state_cleanup import clean_states, find_states, summary
from rsdgc.errors import SettingError
from tests.clients.test_state import ORIGIN, SPEC, save


def make_states(root: Path) -> dict[tuple[int, str], StateFolder]:
    """Make states of two runs and two sites, and things that are not ours."""
    states = {}
    for run in (1, 2**63 + 5):
        for site in ("a", "b"):
            folder = states[run, site] = StateFolder(root, run, site, SPEC)
            save(folder, 1)
    (root / "notes" / "a").mkdir(parents=True)
    (root / "notes" / "a" / "lock").write_text("")
    (root / "3" / "a").mkdir(parents=True)
    (root / "3" / "a" / "thesis.tex").write_text("precious")
    return states


def left(root: Path) -> set[str]:
    return {f"{found.run}/{found.site}" for found in find_states(root)}


def test_it_lists_and_deletes_nothing_unless_told(tmp_path: Path) -> None:
    make_states(tmp_path)
    states = list(clean_states(tmp_path))
    assert len(states) == 4
    assert str(states[0]).startswith("run 1, site a: 0.0 MB, can go")
    line = summary(states, deleted=False)
    assert line.endswith("can be freed: add --yes to delete")
    assert len(left(tmp_path)) == 4


@pytest.mark.parametrize(
    ("chosen", "stays"),
    [
        ({}, set()),
        ({"run": "1"}, {f"{2**63 + 5}/a", f"{2**63 + 5}/b"}),
        ({"site": "a"}, {"1/b", f"{2**63 + 5}/b"}),
        ({"run": "1", "site": "b"}, {"1/a", f"{2**63 + 5}/a", f"{2**63 + 5}/b"}),
        ({"older_than_days": 1.0}, {"1/a", "1/b", f"{2**63 + 5}/a", f"{2**63 + 5}/b"}),
    ],
)
def test_it_deletes_what_was_chosen(tmp_path: Path, chosen: dict, stays: set[str]) -> None:
    make_states(tmp_path)
    list(clean_states(tmp_path, delete=True, **chosen))
    assert left(tmp_path) == stays
    assert (tmp_path / "notes" / "a" / "lock").exists()
    assert (tmp_path / "3" / "a" / "thesis.tex").exists()
    assert not chosen or (tmp_path / "1").exists() == any(name.startswith("1/") for name in stays)


def test_old_states_go_by_age(tmp_path: Path) -> None:
    states = make_states(tmp_path)
    for file in states[1, "a"].path.iterdir():
        os.utime(file, (0, 0))
    list(clean_states(tmp_path, older_than_days=30, delete=True))
    assert "1/a" not in left(tmp_path)
    assert len(left(tmp_path)) == 3


def test_a_state_in_use_is_kept(tmp_path: Path) -> None:
    folder = make_states(tmp_path)[1, "a"]
    with folder.transaction(ORIGIN):
        assert "run 1, site a: 0.0 MB, in use: kept" in [
            str(state) for state in clean_states(tmp_path, delete=True)
        ]
    np.testing.assert_array_equal(folder.residual(folder.load().states[-1]), np.ones(SPEC.size))


def test_a_state_whose_lock_cannot_be_read_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_states(tmp_path)

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("clients.state_cleanup.is_locked", refuse)
    lines = [str(state) for state in clean_states(tmp_path, delete=True)]
    expected = "run 1, site a: 0.0 MB, lock cannot be read (Permission denied): kept"
    assert lines[0] == expected
    assert len(left(tmp_path)) == 4


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="is not a folder"):
        list(clean_states(tmp_path / "nowhere"))
