"""Checkpoints of the server: written whole or not at all, the last few kept.

``<run>/checkpoints/round-<n>.safetensors`` holds the arrays of the strategy (true and published
weights, the patch log, the rate control's), and in its metadata everything else as JSON, with a
checksum over all of it. It is written beside its place, forced to disk and renamed, so a kill at
any instant leaves the checkpoints that were there, or one more. One that is damaged all the same
is passed over for the one before, with a warning.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from logging import WARNING
from pathlib import Path
from typing import Any

import numpy as np
from flwr.common import log
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rsdgc.durable import DRAFT, make_folder, replace_file
from rsdgc.errors import RunError

SCHEMA = "rsdgc-checkpoint-1"
FOLDER = "checkpoints"
_NAME = re.compile(r"round-(\d+)\.safetensors")

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a run needs to go on.

    Attributes
    ----------
    round : int
        The last one that is in it.
    arrays : dict of str to array
        By name.
    values : dict
        JSON values.
    """

    round: int
    arrays: Arrays
    values: dict[str, Any]


class Checkpoints:
    """The checkpoints in a run folder.

    Parameters
    ----------
    run_folder : Path
        The run's; ``checkpoints/`` is made in it.
    every : int
        Rounds between two; 0 for none.
    keep : int
        How many are kept, at least 1.
    """

    def __init__(self, run_folder: Path, every: int, keep: int) -> None:
        self.folder = run_folder / FOLDER
        self.every = every
        self.keep = keep

    def due(self, server_round: int) -> bool:
        """Return whether one is to be written after a round."""
        return self.every > 0 and server_round % self.every == 0

    def rounds(self) -> list[int]:
        """Return the rounds of the checkpoints there are, ascending."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, and delete those beyond the last ``keep``.

        Raises
        ------
        RunError
            It could not be written; the run stands where it stood, and can be resumed.
        """
        arrays = {name: np.asarray(a, order="C") for name, a in checkpoint.arrays.items()}
        values = json.dumps(checkpoint.values)
        metadata = {
            "schema": SCHEMA,
            "round": str(checkpoint.round),
            "values": values,
            "checksum": _checksum(arrays, values),
        }
        path = self._path(checkpoint.round)
        try:
            make_folder(self.folder, levels=2)
            for draft in self.folder.glob(f"*{DRAFT}"):
                draft.unlink()
            replace_file(path, lambda draft: save_file(arrays, draft, metadata))
            self._prune()
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"checkpoint {path} cannot be written ({error}): free space, then resume the run"
            ) from error

    def newest(self) -> Iterator[Checkpoint]:
        """Yield the checkpoints that can be read, newest first; each of the others is a warning."""
        for number in reversed(self.rounds()):
            try:
                yield self._read(number)
            except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                log(
                    WARNING,
                    "checkpoint %s is damaged (%s): trying the one before",
                    self._path(number),
                    error,
                )

    def forget_after(self, server_round: int) -> None:
        """Delete the checkpoints after a round: a resumed run writes its own."""
        for number in self.rounds():
            if number > server_round:
                self._path(number).unlink()
        self._prune()

    def _read(self, number: int) -> Checkpoint:
        with safe_open(self._path(number), "np") as entries:
            metadata = entries.metadata() or {}
            arrays: Arrays = {name: entries.get_tensor(name) for name in entries.keys()}  # noqa: SIM118
        if metadata["schema"] != SCHEMA or metadata["round"] != str(number):
            raise ValueError(f"it is {metadata['schema']} of round {metadata['round']}")
        if metadata["checksum"] != _checksum(arrays, metadata["values"]):
            raise ValueError("its checksum does not match")
        return Checkpoint(number, arrays, json.loads(metadata["values"]))

    def _prune(self) -> None:
        for old in self.rounds()[: -self.keep]:
            self._path(old).unlink()

    def _path(self, number: int) -> Path:
        return self.folder / f"round-{number:06}.safetensors"


def plain_values(thing: object) -> tuple[Arrays, dict[str, Any]]:
    """Return an object's own arrays and plain values, by attribute name.

    What is neither (settings objects, other objects) is left out: the object is made anew from
    the run's settings, and these are what has changed since.
    """
    found = vars(thing).items()
    arrays = {name: value for name, value in found if isinstance(value, np.ndarray)}
    values = {n: v for n, v in found if isinstance(v, bool | int | float | str)}
    return arrays, values


def put_back(thing: object, arrays: Arrays, values: dict[str, Any]) -> None:
    """Set what :func:`plain_values` returned."""
    for name, value in {**arrays, **values}.items():
        setattr(thing, name, value)


def _checksum(arrays: Arrays, values: str) -> str:
    total = zlib.crc32(values.encode())
    for name in sorted(arrays):
        array = arrays[name]
        total = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), total)
        total = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, total)
    return f"{total:08x}"
