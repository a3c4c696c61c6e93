"""Checkpoints of the server: each is complete or absent, and the last few are kept.

``<run>/checkpoints/round-<n>.safetensors`` holds the arrays of a run's state (the models, the log
of patches, what steers the ratios). Its metadata holds all other values as JSON, and a checksum
over everything. A file is written under another name, forced to disk and renamed, so a process
that is killed at any moment leaves either the previous checkpoints or one more. If a file is
damaged nevertheless, the one before it is used, with a warning.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from logging import WARNING
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from flwr.common import log
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rsdgc.documents import parse_json, shorten
from rsdgc.durable import DRAFT, make_folder, replace_file
from rsdgc.errors import RunError
from rsdgc.plain_text import plain_line

SCHEMA = "rsdgc-checkpoint-2"
SCHEMA_VERSION_1 = "rsdgc-checkpoint-1"
FOLDER = "checkpoints"
_NAME = re.compile(r"round-(\d+)\.safetensors")

Arrays = dict[str, NDArray[Any]]
ScalarT = TypeVar("ScalarT", bound=np.generic)

# What code raises that takes values of a checkpoint of version 1 for what they should be.
_WRONG_KINDS = (TypeError, AttributeError, IndexError, OverflowError)


@dataclass(frozen=True, eq=False)
class State:
    """What a checkpoint holds of an object: arrays, and other values that JSON can hold.

    Their names are the file format. A checkpoint may be damaged in a way that its checksum does not
    show, or be another run's: what is read of a state is checked by the methods below, which raise
    :class:`RunError` where it is missing or cannot be what it should.
    """

    arrays: Arrays = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def join(cls, parts: Mapping[str, State], values: Mapping[str, Any] | None = None) -> State:
        """Return the state of an object that consists of parts and has values of its own.

        Arrays are named ``part.array``; the values of a part are nested under its name.
        """
        arrays = {
            f"{p}.{name}": a for p, state in parts.items() for name, a in state.arrays.items()
        }
        return cls(arrays, {p: state.values for p, state in parts.items()} | dict(values or {}))

    def part(self, name: str) -> State:
        """Return the state of a part that :meth:`join` was given."""
        values = self.values.get(name)
        if not isinstance(values, dict):
            raise RunError(f"it has no part {name}")
        return State(_under(f"{name}.", self.arrays), values)

    def array(self, name: str, like: NDArray[ScalarT]) -> NDArray[ScalarT]:
        """Return an array of the shape and type of another one, with finite values."""
        array = self.arrays.get(name)
        if array is None:
            raise RunError(f"it has no array {name}")
        if array.shape != like.shape or array.dtype != like.dtype:
            raise RunError(
                f"its array {name} is {array.dtype} {array.shape}, not {like.dtype} {like.shape}"
            )
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise RunError(f"its array {name} holds NaN or infinity")
        return array

    def integer(self, name: str) -> int:
        """Return a count: an integer from 0 that 63 bits hold."""
        value = self.values.get(name)
        if type(value) is not int or not 0 <= value < 2**63:
            raise RunError(f"its value {name} is {shorten(value)}, not a count")
        return value

    def number(self, name: str) -> float:
        """Return a finite number from 0."""
        value = self.values.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RunError(f"its value {name} is {shorten(value)}, not a number")
        if not 0 <= value < math.inf:
            raise RunError(f"its value {name} is {value}, not a number from 0")
        return float(value)

    def flag(self, name: str) -> bool:
        """Return whether something is so."""
        value = self.values.get(name)
        if not isinstance(value, bool):
            raise RunError(f"its value {name} is {shorten(value)}, not true or false")
        return value

    def counts(self, name: str) -> dict[str, int]:
        """Return counts by name."""
        value = self.values.get(name)
        if not isinstance(value, dict):
            raise RunError(f"its value {name} is {shorten(value)}, not counts by name")
        return {key: State(values=value).integer(key) for key in value}

    def shares(self, name: str) -> dict[str, float]:
        """Return numbers from 0 to 1 by name."""
        value = self.values.get(name)
        if not isinstance(value, dict):
            raise RunError(f"its value {name} is {shorten(value)}, not shares by name")
        shares = {key: State(values=value).number(key) for key in value}
        if any(share > 1 for share in shares.values()):
            raise RunError(f"its value {name} is {shorten(value)}, not shares up to 1")
        return shares

    def numbers(self, name: str) -> list[float]:
        """Return a list of finite numbers from 0."""
        value = self.values.get(name)
        if not isinstance(value, list):
            raise RunError(f"its value {name} is {shorten(value)}, not a list of numbers")
        return [State(values={name: item}).number(name) for item in value]

    def texts(self, name: str) -> list[str]:
        """Return a list of different texts."""
        value = self.values.get(name)
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            raise RunError(f"its value {name} is {shorten(value)}, not a list of texts")
        if len(set(value)) < len(value):
            raise RunError(f"its value {name} names something twice")
        return value


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The state of a run after a round, see :meth:`strategies.base.SiteStrategy.save`."""

    round: int
    state: State


class Checkpoints:
    """The checkpoints in ``checkpoints/`` of a run folder.

    One is due ``every`` so many rounds (0: never), and the last ``keep`` of them, at least 1, are
    kept.
    """

    def __init__(self, run_folder: Path, every: int, keep: int) -> None:
        self.folder = run_folder / FOLDER
        self.every = every
        self.keep = keep

    def due(self, server_round: int) -> bool:
        """Return whether a checkpoint is to be written after a round."""
        return self.every > 0 and server_round % self.every == 0

    def rounds(self) -> list[int]:
        """Return the rounds of all existing checkpoints, ascending."""
        if not self.folder.is_dir():
            return []
        matches = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def kept_rounds(self) -> list[int]:
        """Return the ``keep`` rounds that the run could be resumed from; 0 is the start."""
        # Always as many: the bytes of a message must not depend on when a run was resumed.
        rounds = self.rounds()[-self.keep :]
        return [0] * (self.keep - len(rounds)) + rounds

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, and delete all but the last ``keep``.

        Raises
        ------
        RunError
            It could not be written. Earlier checkpoints remain, and the run can go on.
        """
        arrays = {name: np.asarray(a, order="C") for name, a in checkpoint.state.arrays.items()}
        values = json.dumps(checkpoint.state.values)
        metadata = {
            "schema": SCHEMA,
            "round": str(checkpoint.round),
            "values": values,
            "checksum": _checksum(arrays, values),
        }
        path = self._path(checkpoint.round)
        try:
            make_folder(self.folder, levels=2)  # the run folder is new as well
            for draft in self.folder.glob(f"*{DRAFT}"):  # left by a process that was killed
                draft.unlink()
            replace_file(path, lambda draft: save_file(arrays, draft, metadata))
            self._prune()  # last, so that a kill leaves one checkpoint too many and never too few
        except (OSError, SafetensorError) as error:
            raise RunError(
                f"checkpoint {path} cannot be written ({error}): free space, then resume the run"
            ) from error

    def newest(self) -> Iterator[Checkpoint]:
        """Yield the readable checkpoints, newest first; warn of each that is not readable."""
        for number in reversed(self.rounds()):
            try:
                yield self._read(number)
            except (SafetensorError, OSError, ValueError, KeyError, *_WRONG_KINDS) as error:
                path, reason = self._path(number), plain_line(str(error))
                log(WARNING, "checkpoint %s is damaged (%s): trying the one before", path, reason)

    def forget_after(self, server_round: int) -> None:
        """Delete the checkpoints after a round: a resumed run writes its own."""
        for number in self.rounds():
            if number > server_round:
                self._path(number).unlink()
        self._prune()

    def _read(self, number: int) -> Checkpoint:
        path = self._path(number)
        if not path.is_file():  # opening a pipe would wait for ever
            raise ValueError("it is not a file")
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            arrays: Arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        known = metadata["schema"] in (SCHEMA, SCHEMA_VERSION_1)
        if not known or metadata["round"] != str(number):
            raise ValueError(f"it is {metadata['schema']} of round {metadata['round']}")
        # safetensors checks its header but not the arrays: one flipped bit would be a wrong model.
        if metadata["checksum"] != _checksum(arrays, metadata["values"]):
            raise ValueError("its checksum does not match")
        # Scores and levels may be infinite: what uses a value checks it.
        values = parse_json(metadata["values"], finite=False)
        if not isinstance(values, dict):
            raise ValueError("its values are not an object")
        state = State(arrays, values)
        if metadata["schema"] == SCHEMA_VERSION_1:
            state = _from_version_1(state)
        return Checkpoint(number, state)

    def _prune(self) -> None:
        for old in self.rounds()[: -self.keep]:
            self._path(old).unlink()

    def _path(self, number: int) -> Path:
        return self.folder / f"round-{number:06}.safetensors"


def _checksum(arrays: Arrays, values: str) -> str:
    total = zlib.crc32(values.encode())
    for name in sorted(arrays):
        array = arrays[name]
        total = zlib.crc32(f"{name} {array.dtype.str} {array.shape}".encode(), total)
        total = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, total)
    return f"{total:08x}"


def _under(prefix: str, arrays: Arrays) -> Arrays:
    """Return the arrays whose names start with a prefix, without it."""
    return {n.removeprefix(prefix): array for n, array in arrays.items() if n.startswith(prefix)}


def _from_version_1(state: State) -> State:
    """Return the state of a version 1 checkpoint under the names of version 2.

    Version 1 called fields by private attributes, and repeated what follows from the settings.
    """
    arrays, values = state.arrays, state.values

    def rates(name: str) -> State:
        names = {"_round": "round", "_level": "level", "_followed": "shares_measured"}
        renamed = {names.get(key, key): value for key, value in values[name].items()}
        return State(_under(f"{name}.", arrays), renamed)

    # A part takes by name what it needs, so it may be handed more than that.
    if "layers" in values:  # dense FedAvg
        own = {"layers": values["layers"]}
        parts = {"model": state, "velocity": State(_under("velocity.", arrays))}
    else:
        own = {"overhead_bytes": values["overhead_bytes"]}
        parts = {
            "model": state,
            "upload_rates": rates("up"),
            "patch_rates": rates("down"),
            "momentum": state,
            "sync": State(values=values["books"]),
        }
    parts = {"strategy": State.join(parts, own), "ledger": State(values=values["ledger"])}
    return State.join(parts, {key: values[key] for key in ("rounds_combined", "seconds")})
