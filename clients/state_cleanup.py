"""States of old runs, listed and deleted."""

from __future__ import annotations

import fcntl
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clients.state import FILE, LOCK
from rsdgc.errors import SettingError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY_S = 86_400


@dataclass(frozen=True)
class FoundState:
    """One site's state of one run.

    Parameters
    ----------
    path : Path
        Its folder.
    run, site : str
        As the folders are named.
    num_bytes : int
        On the disk.
    age_s : float
        Since its last change, seconds.
    in_use : bool
        Whether a process works for the site just now.
    """

    path: Path
    run: str
    site: str
    num_bytes: int
    age_s: float
    in_use: bool


def find_states(state_dir: Path) -> list[FoundState]:
    """Return the states below a state directory, by run and site.

    Only folders with a state's lock are looked at: nothing else that may lie there is touched.

    Raises
    ------
    SettingError
        It is no folder.
    """
    if not state_dir.is_dir():
        raise SettingError(f"{state_dir} is not a folder: name a site's state-dir")
    found = []
    for path in sorted(state_dir.glob("*/*/")):
        if not path.parent.name.isdigit() or not (path / LOCK).exists():
            continue
        sizes = [file.stat() for file in path.iterdir() if file.is_file()]
        changed = max((stat.st_mtime for stat in sizes), default=path.stat().st_mtime)
        found.append(
            FoundState(
                path=path,
                run=path.parent.name,
                site=path.name,
                num_bytes=sum(stat.st_size for stat in sizes),
                age_s=max(0.0, time.time() - changed),
                in_use=_held(path / LOCK),
            )
        )
    return found


def clean_states(
    state_dir: Path,
    *,
    run: str | None = None,
    site: str | None = None,
    older_than_days: float = 0.0,
    delete: bool = False,
) -> Iterator[str]:
    """List states, and delete them; a line for a person for each, and one at the end.

    A state in use is never deleted. What a deleted one held back is lost to its run: if that
    goes on, the site joins it like one that lost its disk.

    Parameters
    ----------
    state_dir : Path
        Root of the states on this machine.
    run, site : str, optional
        Only of this run, of this site.
    older_than_days : float
        Only what was not changed for so long.
    delete : bool
        Whether to delete, or only to list.

    Raises
    ------
    SettingError
        It is no folder.
    StateError
        A state cannot be deleted.
    """
    freed = 0
    for state in find_states(state_dir):
        if (
            run not in (None, state.run)
            or site not in (None, state.site)
            or state.age_s < older_than_days * DAY_S
        ):
            continue
        what = f"run {state.run}, site {state.site}: {state.num_bytes / 1e6:.1f} MB"
        if state.in_use:
            yield f"{what}, in use: kept"
            continue
        if delete:
            _delete(state.path)
        freed += state.num_bytes
        yield f"{what}, {'deleted' if delete else 'can go'}"
    yield f"{freed / 1e6:.1f} MB {'freed' if delete else 'can be freed: add --yes to delete'}"


def _delete(path: Path) -> None:
    try:
        (path / FILE).unlink(missing_ok=True)  # first: without it the rest is no state any more
        shutil.rmtree(path)
        if not any(path.parent.iterdir()):
            path.parent.rmdir()
    except OSError as error:
        raise StateError(
            f"{path} cannot be deleted ({error.strerror}): mend permissions"
        ) from error


def _held(lock: Path) -> bool:
    try:
        with lock.open("r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
