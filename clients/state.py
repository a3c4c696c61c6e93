"""What a site must not lose, in one file that is replaced at once.

``<state_dir>/<run>/<site>/state.safetensors`` holds, for the last round that the site worked:

==============  ==============  ==================================================================
entry           type            is
==============  ==============  ==================================================================
``residual``    float32 [n]     what all uploads so far have held back
``upload``      uint8 [m]       that round's upload, as sent
metadata        text            run, round, the task's digest, the model's signature, the reply's
                                figures, a checksum of both entries
==============  ==============  ==================================================================

A new state is written beside the old one, forced to disk, and renamed over it: killed at any
instant, a site finds the old state or the new one. Upload and residual change together because
one is only right with the other.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rsdgc.errors import SettingError, StateError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from rsdgc.spec import ModelSpec

SCHEMA = "rsdgc-site-1"
FILE = "state.safetensors"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SiteState:
    """The state of a site after a round.

    Parameters
    ----------
    round : int
        The last one worked.
    task : str
        Digest of that round's task, to recognise the same message delivered twice.
    residual : float32 [n]
        After that round's upload was taken out.
    upload : bytes
        That round's upload.
    reply : dict
        The other figures of that round's reply, as JSON values.
    """

    round: int
    task: str
    residual: NDArray[np.float32]
    upload: bytes
    reply: dict[str, Any] = field(default_factory=dict)


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
        self._run = run
        self._spec = spec

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes of the same site out; the lock dies with its process.

        Raises
        ------
        StateError
            The folder cannot be made or written.
        """
        try:
            self._make()
            lock = (self.path / "lock").open("w")
        except OSError as error:
            raise self._unusable("written", error) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _log.warning("another process works for this site (%s): waiting", self.path)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def load(self) -> SiteState | None:
        """Return the state, or None where there is none that can be used.

        A file that is damaged or of another model is passed over with a warning: the site goes on
        like one that lost its disk, and only what its uploads held back is lost.

        Raises
        ------
        StateError
            The file is there and the system does not let it be read.
        """
        path = self.path / FILE
        try:
            path.open("rb").close()
            with safe_open(path, "np") as entries:
                return self._parse(entries)
        except FileNotFoundError:
            return None
        except (SafetensorError, ValueError, KeyError, TypeError) as error:
            _log.warning("site state %s cannot be used (%s): starting without it", path, error)
            return None
        except OSError as error:
            raise self._unusable("read", error) from error

    def save(self, state: SiteState) -> None:
        """Replace the state; when this returns, the new one survives a loss of power.

        Raises
        ------
        StateError
            It could not be written (disk full, no permission). The round must not be replied to:
            its upload then counts as lost, whichever state the disk kept.
        """
        entries: dict[str, NDArray[Any]] = {
            "residual": state.residual,
            "upload": np.frombuffer(state.upload, np.uint8),
        }
        metadata = {
            "schema": SCHEMA,
            "run": str(self._run),
            "round": str(state.round),
            "task": state.task,
            "model": self._spec.signature.hex(),
            "reply": json.dumps(state.reply),
            "checksum": _checksum(entries),
        }
        written = self.path / (FILE + ".new")
        try:
            self._make()
            save_file(entries, written, metadata)
            _sync(written)
            os.replace(written, self.path / FILE)
            _sync(self.path)
        except (OSError, SafetensorError) as error:
            raise self._unusable("written", error) from error

    def _parse(self, entries: Any) -> SiteState:
        metadata = entries.metadata() or {}
        for key, expected in (
            ("schema", SCHEMA),
            ("run", str(self._run)),
            ("model", self._spec.signature.hex()),
        ):
            if metadata[key] != expected:
                raise ValueError(f"{key} {metadata[key]} instead of {expected}")
        arrays = {name: entries.get_tensor(name) for name in ("residual", "upload")}
        residual = arrays["residual"]
        if residual.dtype != np.float32 or residual.shape != (self._spec.size,):
            raise ValueError(f"residual of shape {residual.shape} instead of {self._spec.size}")
        if metadata["checksum"] != _checksum(arrays):
            raise ValueError("its checksum does not match")
        return SiteState(
            round=int(metadata["round"]),
            task=metadata["task"],
            residual=np.require(residual, np.float32, ["C", "W"]),
            upload=arrays["upload"].tobytes(),
            reply=json.loads(metadata["reply"]),
        )

    def _make(self) -> None:
        if self.path.is_dir():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        for folder in (self.path.parent, self.path.parent.parent):
            _sync(folder)

    def _unusable(self, verb: str, error: Exception) -> StateError:
        reason = getattr(error, "strerror", None) or error
        return StateError(
            f"the site's state in {self.path} cannot be {verb} ({reason}): "
            "free space, mend permissions, or set another state-dir"
        )


def _checksum(entries: dict[str, NDArray[Any]]) -> str:
    total = 0
    for name in ("residual", "upload"):
        total = zlib.crc32(np.ascontiguousarray(entries[name]).data, total)
    return f"{total:08x}"


def _sync(path: Path) -> None:
    """Force a file's content, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
