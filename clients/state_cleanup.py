"""List and delete the states and frozen parts of models that runs have left at a site."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clients.frozen_cache import FOLDER as FROZEN_FOLDER
from clients.state import LOCK_FILE, STATE_FILE
from rsdgc.durable import is_locked
from rsdgc.errors import SettingError, StateError

DAY_S = 86_400


@dataclass(frozen=True)
class FoundState:
    """One site's state of one run."""

    path: Path
    #: run, site: names of the folders
    run: str
    site: str
    num_bytes: int
    age_s: float  #: seconds since the last change
    in_use: bool  #: whether a process works for the site, or the lock cannot be read
    problem: str = ""  #: why the lock cannot be read; empty if it can


@dataclass(frozen=True)
class Cleaned:
    """A state or a frozen part that was listed, and what became of it."""

    label: str  #: such as ``run 1, site oslo``
    num_bytes: int
    outcome: str  #: ``can go``, ``deleted`` or ``kept``
    reason: str = ""  #: why it was kept

    def __str__(self) -> str:
        size = f"{self.label}: {self.num_bytes / 1e6:.1f} MB"
        return f"{size}, {self.reason}: kept" if self.reason else f"{size}, {self.outcome}"


def find_states(state_dir: Path) -> list[FoundState]:
    """Return the states in a state directory, by run and site.

    Raises :class:`SettingError` if ``state_dir`` is not a folder.
    """
    if not state_dir.is_dir():
        raise SettingError(f"{state_dir} is not a folder: name a site's state-dir")
    states = []
    for path in sorted(state_dir.glob("*/*/")):
        # What is returned may be deleted, and users may keep other things here: only a folder with
        # the lock of a state is one.
        if not path.parent.name.isdigit() or not (path / LOCK_FILE).exists():
            continue
        files = [file.stat() for file in path.iterdir() if file.is_file()]
        changed = max((stat.st_mtime for stat in files), default=path.stat().st_mtime)
        try:
            in_use, problem = is_locked(path / LOCK_FILE), ""
        except OSError as error:
            # A process of another user may hold the lock: its state must not be deleted.
            in_use, problem = True, f"{LOCK_FILE} cannot be read ({error.strerror or error})"
        states.append(
            FoundState(
                path=path,
                run=path.parent.name,
                site=path.name,
                num_bytes=sum(stat.st_size for stat in files),
                age_s=max(0.0, time.time() - changed),
                in_use=in_use,
                problem=problem,
            )
        )
    return states


def clean_states(
    state_dir: Path,
    *,
    run: str | None = None,
    site: str | None = None,
    older_than_days: float = 0.0,
    delete: bool = False,
) -> Iterator[Cleaned]:
    """List states and frozen parts, and delete them; yield each.

    A state in use is never deleted. What the uploads of a deleted state held back is lost to its
    run: if the run continues, the site takes part like one that lost its disk.

    Parameters
    ----------
    run, site : str, optional
        Only states of this run, of this site; no frozen parts, which all runs share.
    older_than_days : float
        Only what was not used for so long.
    delete : bool
        Whether to delete, or only to list.

    Raises
    ------
    SettingError
        ``state_dir`` is not a folder.
    StateError
        A state cannot be deleted.
    """
    outcome = "deleted" if delete else "can go"
    for state in find_states(state_dir):
        chosen = run in (None, state.run) and site in (None, state.site)
        if not chosen or state.age_s < older_than_days * DAY_S:
            continue
        label = f"run {state.run}, site {state.site}"
        if state.in_use:
            yield Cleaned(label, state.num_bytes, "kept", state.problem or "in use")
            continue
        if delete:
            _delete(state.path)
        yield Cleaned(label, state.num_bytes, outcome)
    # A site that works on finds its part missing and asks for it again.
    for path in sorted((state_dir / FROZEN_FOLDER).glob("*.f32")) if run == site is None else ():
        stat = path.stat()
        if time.time() - stat.st_mtime < older_than_days * DAY_S:
            continue
        if delete:
            _delete(path)
        yield Cleaned(f"frozen part {path.stem[:8]}", stat.st_size, outcome)


def summary(cleaned: Sequence[Cleaned], *, deleted: bool) -> str:
    """Return the line that ends the list."""
    num_bytes = sum(each.num_bytes for each in cleaned if each.outcome != "kept")
    remedy = "freed" if deleted else "can be freed: add --yes to delete"
    return f"{num_bytes / 1e6:.1f} MB {remedy}"


def _delete(path: Path) -> None:
    try:
        if path.is_file():
            path.unlink()
            return
        # First: without this file the rest is not a state, if the deletion stops halfway.
        (path / STATE_FILE).unlink(missing_ok=True)
        shutil.rmtree(path)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    except OSError as error:
        raise StateError(
            f"{path} cannot be deleted ({error.strerror}): fix its permissions"
        ) from error
