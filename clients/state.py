"""A site's durable memory of a run: its replica, its residual and its last upload, in files.

``<state_dir>/<run>/<site>/`` holds

======================  ===========================================================================
file                    content
======================  ===========================================================================
``state.json``          the site's states: their figures and the names of their files
``replica-<n>.f32``     the published model as this site has it, float32 little-endian
``residual-<n>.f32``    what all uploads so far have held back, float32 little-endian
``velocity-<n>.f32``    with momentum correction: the momentum kept over rounds, likewise
``upload-<n>.bin``      the last upload, as sent
``statistics-<n>.bin``  the running statistics of the last upload, as sent
``local-<n>.bin``       the entries of the model that stay at this site, as safetensors
``spare-<kind>.f32``    a file that no state needs, to be reused for the next vector of its kind
``lock``                held by the process that works for this site
======================  ===========================================================================

No process writes to a numbered file once ``state.json`` names it. A new state is a new set of
files, then a new ``state.json``: whenever the process is killed, the site has the old state or the
new one. Files that ``state.json`` does not name are left from a killed process; the next commit
deletes them.

Besides its present state, a site keeps the state that it had at each checkpoint of the server. A
server that resumes from a checkpoint knows nothing of the rounds after it. The site then returns
to its own state of that checkpoint, so that the residuals match the model that the server resumed.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from filelock import FileLock, Timeout
from pydantic import Field, TypeAdapter, ValidationError

from clients.mapped_vectors import create_vector, is_intact, open_vector
from clients.task import RunOrigin
from rsdgc.arrays import Float32
from rsdgc.documents import explain_invalid, parse_json, read_text, shorten
from rsdgc.durable import make_folder, replace_bytes, sync
from rsdgc.errors import RunError, SettingError, StateError
from rsdgc.spec import ModelSpec

Content = TypeVar("Content", bytes, Float32)

Count = Annotated[int, Field(ge=0, strict=True)]

SCHEMA = "rsdgc-site-2"
STATE_FILE = "state.json"
LOCK_FILE = "lock"
PROBE_S = 0.5
"""How long a lock may be held before the wait is worth a warning: a probe of it takes less."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SiteState:
    """A site's state after a round; arrays and upload are named by their files."""

    round: Count = 0  #: the last round worked; 0 before the first
    version: Count = 0  #: version of the published model that the replica is
    #: replica, residual, velocity, upload: names of files in the folder; empty for none
    replica: str = ""
    residual: str = ""
    velocity: str = ""
    upload: str = ""
    #: statistics, local: names of files of models with batch normalization; empty for none
    statistics: str = ""
    local: str = ""
    #: name of the file of the channel transform's reference; empty if it is the site's own model
    #: before training
    reference: str = ""
    #: residual_check and the like: checksums of the files (:mod:`clients.mapped_vectors`). The
    #: replica has none: every use compares it with the server's fingerprint.
    residual_check: Count = 0
    velocity_check: Count = 0
    upload_check: Count = 0
    statistics_check: Count = 0
    local_check: Count = 0
    reference_check: Count = 0
    #: name of the file of the replica that a transformed upload starts from, and its fingerprint
    #: and that of the transform's reference, in hexadecimal; empty if the upload is not transformed
    upload_replica: str = ""
    upload_base: str = ""
    upload_reference: str = ""  #: empty in states of earlier versions, too
    #: Euclidean norm of that round's local change
    change_norm: Annotated[float, Field(ge=0.0)] = 0.0
    task: str = ""  #: digest of that round's task, to recognize the same message delivered twice
    #: the other figures of that round's reply, as JSON values
    reply: dict[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> set[str]:
        """Names of the files of this state."""
        vectors = {self.replica, self.residual, self.velocity, self.upload_replica}
        return (vectors | {self.upload, self.statistics, self.local, self.reference}) - {""}


_STATE = TypeAdapter(SiteState)
_FIELDS = {each.name for each in fields(SiteState)}
_FILE = re.compile(r"[a-z]+-[0-9]{6,20}\.(f32|bin)")


def _read_state(values: Any) -> SiteState:
    """Return a state; ValueError if JSON values are not one."""
    try:
        return _STATE.validate_python(values)
    except ValidationError as error:
        raise ValueError(explain_invalid(error)) from None


@dataclass(frozen=True)
class StateHistory:
    """All that a site remembers of a run."""

    #: the server's starts of this run that the site has worked for, oldest first
    attempts: tuple[int, ...] = ()
    states: tuple[SiteState, ...] = ()  #: by round, the present one last
    serial: int = 0  #: highest number of a file so far

    def known_to(self, attempt: int, resumed_round: int) -> tuple[SiteState, ...]:
        """Return the states that an attempt of the server may know of.

        ``resumed_round`` is the last round that it knew when it started. An attempt that a later
        one has followed is over: :class:`RunError`.
        """
        if not self.attempts or attempt == self.attempts[-1]:
            return self.states
        if attempt in self.attempts:
            raise RunError(f"attempt {attempt} of this run is over: the server was resumed since")
        return tuple(state for state in self.states if state.round <= resumed_round)


class StateFolder:
    """The folder in which one site keeps its state of one run.

    ::

        folder = StateFolder("state/", run=7, site="site-00", spec=spec)
        folder.load().states[-1].round                      # reading needs no lock
        with folder.transaction(origin) as transaction:     # writing does
            transaction.commit(replace(transaction.state, ...))

    Parameters
    ----------
    state_dir : path
        Root of all sites' states on this machine; made when first written.
    run : int
        Number of the run; states of other runs are never used.
    site : str
        Name of the site.
    spec : ModelSpec
        Layers of the model; a state of another model is never used.

    Raises
    ------
    SettingError
        The site's name cannot be the name of a folder.
    """

    def __init__(self, state_dir: Path | str, run: int, site: str, spec: ModelSpec) -> None:
        if not site or site in (".", "..") or "/" in site or "\0" in site:
            raise SettingError(f"site name {site!r} cannot name a folder: use letters and digits")
        self.path = Path(state_dir) / str(run) / site
        self.run = run
        self.spec = spec

    @contextmanager
    def transaction(self, origin: RunOrigin, *, durable: bool = True) -> Iterator[StateTransaction]:
        """Lock and load the state for one message; other processes of the same site wait.

        A state that is not ``durable`` survives the death of a process, but perhaps not a loss of
        power: its files are not forced to disk. ``state.json`` always is, so that earlier states
        that were durable stay.

        Raises
        ------
        StateError
            The state cannot be read or written.
        RunError
            The message comes from an attempt of the server that is over.
        """
        lock = FileLock(self.path / LOCK_FILE)
        with _explain_os_errors(self.path, "written"):
            make_folder(self.path, levels=3)  # all of <state_dir>/<run>/<site> may be new
            try:
                lock.acquire(timeout=PROBE_S)
            except Timeout:
                _log.warning("another process works for this site: waiting for %s", self.path)
                lock.acquire()
        try:
            yield StateTransaction(self, origin, durable=durable)
        finally:
            lock.release()  # the system releases the lock of a process that is killed

    def load(self) -> StateHistory:
        """Return the states on the disk; an empty history if there is none that can be used.

        If the file is damaged or of another model, a warning says so. The site then continues like
        one that lost its disk: only what its uploads held back is lost.

        Raises
        ------
        StateError
            The file exists, but the system does not let it be read.
        """
        path = self.path / STATE_FILE
        with _explain_os_errors(self.path, "read"):
            try:
                # The loss of a training that diverged is not finite.
                return self._parse(parse_json(read_text(path), finite=False))
            except FileNotFoundError:
                return StateHistory()
            # Not for an OSError: a disk that fails for a moment must not cost the residual.
            except (ValueError, KeyError, TypeError) as error:
                reason = shorten(str(error), 200)
                _log.warning("site state %s cannot be used (%s): starting without it", path, reason)
                return StateHistory()

    def replica(self, state: SiteState) -> Float32 | None:
        """Map a state's replica; None, with a warning, if it cannot be used."""
        return self._read(state.replica, None, self._open_vector)

    def upload_replica(self, state: SiteState) -> Float32 | None:
        """Map the replica that a state's upload starts from; None, with a warning, if damaged."""
        return self._read(state.upload_replica, None, self._open_vector)

    def residual(self, state: SiteState) -> Float32 | None:
        """Map a state's residual; None, with a warning, if it is damaged."""
        return self._read(state.residual, state.residual_check, self._open_vector)

    def velocity(self, state: SiteState) -> Float32 | None:
        """Map a state's velocity; None, with a warning, if it is damaged."""
        return self._read(state.velocity, state.velocity_check, self._open_vector)

    def upload(self, state: SiteState) -> bytes | None:
        """Return a state's upload; None, with a warning, if it is damaged."""
        return self._read(state.upload, state.upload_check, Path.read_bytes)

    def statistics(self, state: SiteState) -> bytes | None:
        """Return a state's encoded running statistics; None, with a warning, if damaged."""
        return self._read(state.statistics, state.statistics_check, Path.read_bytes)

    def local(self, state: SiteState) -> bytes | None:
        """Return the entries that stay at the site; None, with a warning, if damaged."""
        return self._read(state.local, state.local_check, Path.read_bytes)

    def reference(self, state: SiteState) -> Float32 | None:
        """Return the channel transform's reference; None, with a warning, if damaged."""
        content = self._read(state.reference, state.reference_check, Path.read_bytes)
        return None if content is None else np.frombuffer(content, np.float32)

    def _read(
        self, name: str, expected: int | None, read: Callable[[Path], Content]
    ) -> Content | None:
        """Return a file's content if its checksum is as expected (None: not checked)."""
        if not name:
            return None
        path = self.path / name
        try:
            content = read(path)
            if expected is not None and not is_intact(content, expected):
                raise ValueError("its checksum does not match")
        except (OSError, ValueError) as error:
            _log.warning("%s cannot be used (%s): continuing without it", path, error)
            return None
        return content

    def _open_vector(self, path: Path) -> Float32:
        # Copy on write: PyTorch wants memory that it may write to, and would copy a read-only map.
        return open_vector(path, self.spec.size, "c")

    def _parse(self, content: Any) -> StateHistory:
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
        for key, expected in (("schema", SCHEMA), ("model", self.spec.signature.hex())):
            if content[key] != expected:
                raise ValueError(f"{key} {shorten(content[key])} instead of {expected}")
        unknown = {key for state in content["states"] for key in state} - _FIELDS
        if unknown:
            raise ValueError(f"field {min(unknown)} is unknown")
        states = tuple(_read_state(state) for state in content["states"])
        if any(one.round >= other.round for one, other in pairwise(states)):
            raise ValueError("its rounds are not in order")
        # A damaged name must not lead out of the folder, nor to its lock.
        for name in set().union(*(state.files for state in states)):
            if not _FILE.fullmatch(name):
                raise ValueError(f"{name!r} is not a file of a state")
        attempts, serial = content["attempts"], content["serial"]
        if not all(type(number) is int and number >= 0 for number in (serial, *attempts)):
            raise ValueError("attempts and serial are not counts")
        return StateHistory(tuple(attempts), states, serial)


class StateTransaction:
    """A site's state as one message finds it, and at most one commit of a new one.

    :meth:`StateFolder.transaction` makes it, and the folder is locked as long as it is open.
    """

    def __init__(self, folder: StateFolder, origin: RunOrigin, *, durable: bool = True) -> None:
        self.folder = folder
        self._origin = origin
        self._durable = durable
        self._history = folder.load()
        self._past = self._history.known_to(origin.attempt, origin.resumed_round)
        self._serial = self._history.serial + 1  # no file has this number yet
        #: the present state, as far as the server's attempt may know of it
        self.state = self._past[-1] if self._past else SiteState()

    def new_vector(self, kind: str) -> tuple[str, Float32]:
        """Make a file for a vector of a kind: "replica", "residual" or "velocity".

        Returns
        -------
        name : str
            The file's name, for :class:`SiteState`.
        vector : float32 [spec.size]
            The file's memory, to be written to; not yet part of any state.

        Raises
        ------
        StateError
            The disk is full.
        """
        folder, name = self.folder, f"{kind}-{self._serial:06}.f32"
        with _explain_os_errors(folder.path, "written"):
            spare = folder.path / f"spare-{kind}.f32"
            return name, create_vector(folder.path / name, folder.spec.size, spare)

    def sync(self, name: str) -> None:
        """Force a file of a durable state to the disk; :class:`StateError` if that fails."""
        if not self._durable:
            return
        with _explain_os_errors(self.folder.path, "written"):
            sync(self.folder.path / name)

    def write_bytes(self, kind: str, content: bytes) -> str:
        """Write a file of a kind, force it to the disk, and return its name.

        The kinds are "upload", "statistics", "local" and "reference". Empty content needs no file
        and no name.
        """
        if not content:
            return ""
        name = f"{kind}-{self._serial:06}.bin"
        with _explain_os_errors(self.folder.path, "written"):
            (self.folder.path / name).write_bytes(content)
        self.sync(name)
        return name

    def commit(self, state: SiteState) -> None:
        """Replace the state; when this returns, a durable one survives a loss of power.

        All files that a durable state names, but the replica's, must be on the disk already
        (:meth:`sync`): after a loss of power ``state.json`` could else name a file without content.

        Raises
        ------
        StateError
            It could not be written (disk full, no permission). The site must not reply: its
            upload then counts as lost, whichever state the disk has kept.
        """
        # A site need not have worked the round of a checkpoint: its state of that time is then
        # the last one before.
        needed = {
            max((past.round for past in self._past if past.round <= limit), default=-1)
            for limit in self._origin.kept_rounds
        }
        kept = [past for past in self._past if past.round in needed and past.round < state.round]
        states = [*kept, state]
        attempts = self._history.attempts
        if self._origin.attempt not in attempts:
            attempts = (*attempts, self._origin.attempt)
        content = {
            "schema": SCHEMA,
            "model": self.folder.spec.signature.hex(),
            "attempts": list(attempts),
            "serial": self._serial,
            "states": [asdict(state) for state in states],
        }
        with _explain_os_errors(self.folder.path, "written"):
            replace_bytes(self.folder.path / STATE_FILE, json.dumps(content).encode())
        self._delete_unnamed(states)

    def _delete_unnamed(self, states: list[SiteState]) -> None:
        """Delete the files that no state names, but keep one vector of each kind as spare."""
        # Spares save the next round's page faults (:mod:`clients.mapped_vectors`).
        named = {STATE_FILE, LOCK_FILE}.union(*(state.files for state in states))
        with suppress(OSError):  # a file that stays does no harm: the next commit tries again
            for path in sorted(self.folder.path.iterdir()):
                if path.name in named or path.name.startswith("spare-"):
                    continue
                if path.suffix == ".f32":
                    path.replace(path.with_name(f"spare-{path.name.partition('-')[0]}.f32"))
                else:
                    path.unlink()


@contextmanager
def _explain_os_errors(path: Path, verb: str) -> Iterator[None]:
    """Turn an error of the system into a :class:`StateError`, one line with a remedy."""
    try:
        yield
    except OSError as error:
        raise StateError(
            f"the site's state in {path} cannot be {verb} ({error.strerror or error}): "
            "free space, fix the permissions, or set another state-dir"
        ) from error
