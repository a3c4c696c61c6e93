"""What a site remembers of a run: its present state, and those that it may have to go back to.

The server may be resumed from a checkpoint that is older than what the site has worked since. For
that the site keeps, beside its present state, the one it had at each checkpoint that the server
still has, and goes back with the server: the run then goes on as if the rounds since had never
been, and what the sites hold back fits the server's books again.

What a site must not lose: its replica, its residual and its last upload, in files.

``<state_dir>/<run>/<site>/`` holds

======================  ===========================================================================
file                    is
======================  ===========================================================================
``state.json``          which of the others make up the state, and its figures; replaced at once
``replica-<n>.f32``     the published model as this site has it, float32 little-endian
``residual-<n>.f32``    what all uploads so far have held back, float32 little-endian
``velocity-<n>.f32``    with momentum correction: the momentum kept over rounds, likewise
``upload-<n>.bin``      the last upload, as sent
``spare-….f32``         memory for the next of each
``lock``                held by the process that works for this site
======================  ===========================================================================

A numbered file is never written again once ``state.json`` names it. A new state is a new set of
files, then a new ``state.json``: killed at any instant, a site finds the old state or the new one.
What ``state.json`` does not name is left from a killed process and goes with the next change.

``state.json`` may name more states than the last: those that the site had at the checkpoints that
the server still keeps. If the server is resumed from one, the site goes back with it, so that the
run goes on as if the rounds since had never been (:mod:`clients.state`).
"""

from __future__ import annotations

import fcntl
import json
import logging
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients import mapped_vectors
from rsdgc.durable import make_folder, replace_bytes, sync
from rsdgc.errors import RunError, SettingError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rsdgc.arrays import Float32
    from rsdgc.spec import ModelSpec


@dataclass(frozen=True)
class SiteState:
    """A site's state after a round; arrays and upload are named by their files.

    Parameters
    ----------
    round : int
        The last one worked; 0 before the first.
    version : int
        Of the published model that the replica is.
    replica, residual, velocity, upload : str
        Names of files in the folder; empty for none.
    residual_check, velocity_check, upload_check : int
        CRC-32 of their contents. The replica has none: it is compared with the server's
        fingerprint whenever it is used.
    task : str
        Digest of that round's task, to recognise the same message delivered twice.
    reply : dict
        The other figures of that round's reply, as JSON values.
    """

    round: int = 0
    version: int = 0
    replica: str = ""
    residual: str = ""
    velocity: str = ""
    upload: str = ""
    residual_check: int = 0
    velocity_check: int = 0
    upload_check: int = 0
    task: str = ""
    reply: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> set[str]:
        """Names of the files that make it up."""
        return {self.replica, self.residual, self.velocity, self.upload} - {""}


@dataclass(frozen=True)
class StateHistory:
    """All that a site remembers of a run.

    Parameters
    ----------
    attempts : tuple of int
        The server's starts of this run that the site has worked for, oldest first.
    states : tuple of SiteState
        By round, the present one last.
    serial : int
        Highest number of a file so far.
    """

    attempts: tuple[int, ...] = ()
    states: tuple[SiteState, ...] = ()
    serial: int = 0

    def at(self, attempt: int, resumed_round: int) -> tuple[SiteState, ...]:
        """Return the states as an attempt of the server may know them.

        Parameters
        ----------
        attempt : int
            Which start of the server asks.
        resumed_round : int
            The last round that it knew when it started; 0 if it started anew.

        Raises
        ------
        RunError
            The server has been started again since this attempt.
        """
        if not self.attempts or attempt == self.attempts[-1]:
            return self.states
        if attempt in self.attempts:
            raise RunError(f"attempt {attempt} of this run is over: the server was resumed since")
        return tuple(state for state in self.states if state.round <= resumed_round)

    def then(
        self,
        state: SiteState,
        *,
        attempt: int,
        past: Iterable[SiteState],
        kept_rounds: Iterable[int],
        serial: int,
    ) -> StateHistory:
        """Return the history with one more state.

        Parameters
        ----------
        state : SiteState
            The new present one.
        attempt : int
            The server's start that it was worked for.
        past : iterable of SiteState
            What :meth:`at` gave for that start.
        kept_rounds : iterable of int
            Rounds of the server's checkpoints: of each, the last state not after it stays.
        serial : int
            Highest number of a file now.
        """
        past = tuple(past)
        kept = set()
        for limit in kept_rounds:
            kept.add(max((s.round for s in past if s.round <= limit), default=-1))
        stays = [s for s in past if s.round in kept and s.round < state.round]
        attempts = self.attempts if attempt in self.attempts else (*self.attempts, attempt)
        return replace(self, attempts=attempts, states=(*stays, state), serial=serial)


SCHEMA = "rsdgc-site-2"
FILE = "state.json"
LOCK = "lock"

_log = logging.getLogger(__name__)


class StateFolder:
    """The folder in which one site keeps its state of one run.

    Parameters
    ----------
    state_dir : path
        Root of all sites' states on this machine; made when first written.
    run : int
        Number of the run; states of other runs are never used.
    site : str
        Name of the site.
    spec : ModelSpec
        Of the model; a state of another model is never used.

    Raises
    ------
    SettingError
        The site's name cannot be a folder's.
    """

    def __init__(self, state_dir: Path | str, run: int, site: str, spec: ModelSpec) -> None:
        if not site or site in (".", "..") or "/" in site or "\0" in site:
            raise SettingError(f"site name {site!r} cannot name a folder: use letters and digits")
        self.path = Path(state_dir) / str(run) / site
        self._spec = spec

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes of the same site out; the lock dies with its process.

        Raises
        ------
        StateError
            The folder cannot be made or written.
        """
        with self.explained("written"):
            make_folder(self.path, levels=3)
            lock = (self.path / LOCK).open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _log.warning("another process works for this site (%s): waiting", self.path)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def load(self) -> StateHistory:
        """Return what is remembered; nothing where there is nothing that can be used.

        A file that is damaged or of another model is passed over with a warning: the site goes on
        like one that lost its disk, and only what its uploads held back is lost.

        Raises
        ------
        StateError
            The file is there and the system does not let it be read.
        """
        path = self.path / FILE
        try:
            return self._parse(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return StateHistory()
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            _log.warning("site state %s cannot be used (%s): starting without it", path, error)
            return StateHistory()
        except OSError as error:
            raise self._unusable("read", error) from error

    def replica(self, state: SiteState) -> Float32 | None:
        """Map a state's replica for reading; None, with a warning, where it cannot be used."""
        if not state.replica:
            return None
        with self._passed_over(state.replica):
            return mapped_vectors.open_vector(self.path / state.replica, self._spec.size, "c")
        return None

    def residual(self, state: SiteState) -> Float32 | None:
        """Map a state's residual for reading; None, with a warning, where it is damaged."""
        return self._checked(state.residual, state.residual_check)

    def velocity(self, state: SiteState) -> Float32 | None:
        """Map a state's velocity for reading; None, with a warning, where it is damaged."""
        return self._checked(state.velocity, state.velocity_check) if state.velocity else None

    def upload(self, state: SiteState) -> bytes | None:
        """Return a state's upload; None, with a warning, where it is damaged."""
        with self._passed_over(state.upload):
            found = (self.path / state.upload).read_bytes()
            if mapped_vectors.checksum(found) == state.upload_check:
                return found
            raise ValueError("its checksum does not match")
        return None

    def new_vector(self, kind: str, serial: int) -> tuple[str, Float32]:
        """Make a file for a vector.

        Parameters
        ----------
        kind : {"replica", "residual", "velocity"}
            What it will be.
        serial : int
            A number that no file has.

        Returns
        -------
        name : str
            Of the file, for :class:`SiteState`.
        vector : float32 [spec.size]
            Its memory, to be written to; not yet part of any state.

        Raises
        ------
        StateError
            There is no room.
        """
        name = f"{kind}-{serial:06}.f32"
        with self.explained("written"):
            path, spare = self.path / name, self.path / f"spare-{kind}.f32"
            return name, mapped_vectors.create_vector(path, self._spec.size, spare)

    def keep(self, name: str) -> None:
        """Force a file to the disk; raises :class:`StateError` if it cannot be."""
        with self.explained("written"):
            sync(self.path / name)

    def keep_bytes(self, kind: str, serial: int, content: bytes) -> str:
        """Write a file and force it to the disk; return its name."""
        name = f"{kind}-{serial:06}.bin"
        with self.explained("written"):
            (self.path / name).write_bytes(content)
            sync(self.path / name)
        return name

    def commit(self, history: StateHistory) -> None:
        """Replace the state; when this returns, the new one survives a loss of power.

        Raises
        ------
        StateError
            It could not be written (disk full, no permission). The round must not be replied to:
            its upload then counts as lost, whichever state the disk kept.
        """
        content = {
            "schema": SCHEMA,
            "model": self._spec.signature.hex(),
            "attempts": list(history.attempts),
            "serial": history.serial,
            "states": [asdict(state) for state in history.states],
        }
        with self.explained("written"):
            replace_bytes(self.path / FILE, json.dumps(content).encode())
        self._tidy(history.states)

    @contextmanager
    def explained(self, verb: str) -> Iterator[None]:
        """Turn what the system says into one line with a remedy."""
        try:
            yield
        except OSError as error:
            raise self._unusable(verb, error) from error

    def _checked(self, name: str, check: int) -> Float32 | None:
        with self._passed_over(name):
            found = mapped_vectors.open_vector(self.path / name, self._spec.size, "c")
            if mapped_vectors.checksum(found) == check:
                return found
            raise ValueError("its checksum does not match")
        return None

    def _tidy(self, states: Sequence[SiteState]) -> None:
        """Delete what no state names; the last of each kind is kept as memory for the next."""
        named = {FILE, LOCK}.union(*(state.files for state in states))
        with suppress(OSError):  # what is left over does no harm
            for path in sorted(self.path.iterdir()):
                if path.name in named or path.name.startswith("spare-"):
                    continue
                if path.suffix == ".f32":
                    path.replace(self.path / f"spare-{path.name.partition('-')[0]}.f32")
                else:
                    path.unlink()

    def _parse(self, content: dict[str, Any]) -> StateHistory:
        for key, expected in (("schema", SCHEMA), ("model", self._spec.signature.hex())):
            if content[key] != expected:
                raise ValueError(f"{key} {content[key]} instead of {expected}")
        states = tuple(SiteState(**state) for state in content["states"])
        for name in set().union(*(state.files for state in states)):
            if Path(name).name != name:
                raise ValueError(f"{name!r} is no file of this folder")
        return StateHistory(tuple(map(int, content["attempts"])), states, int(content["serial"]))

    @contextmanager
    def _passed_over(self, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            _log.warning("%s cannot be used (%s): going on without it", self.path / name, error)

    def _unusable(self, verb: str, error: Exception) -> StateError:
        reason = getattr(error, "strerror", None) or error
        return StateError(
            f"the site's state in {self.path} cannot be {verb} ({reason}): "
            "free space, mend permissions, or set another state-dir"
        )
