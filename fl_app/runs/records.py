"""Read a run folder into typed records.

A run folder is written while a run goes: ``config.json`` (every setting, the data, the layers),
``history.jsonl`` (a line a round, round 0 being the initial model), ``rounds.jsonl`` (a line a
round and site) and ``summary.json`` (the end of it). Reading checks types and says which file
and line is wrong.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from data_prep.pictures.number_format import TIMES
from rsdgc.errors import RunError

Record = TypeVar("Record")


@dataclass(frozen=True)
class Data:
    """What the run was trained on, as its configuration recorded it."""

    name: str
    path: str = ""
    synthetic: bool = False
    classes: list[str] = field(default_factory=list)
    sites: list[str] = field(default_factory=list)
    num_bands: int = 0
    chip_px: int = 0


@dataclass(frozen=True)
class LayerShape:
    """Name and shape of one entry of the model's state."""

    name: str
    shape: list[int]

    @property
    def size(self) -> int:
        """Count of values; 1 for a scalar."""
        size = 1
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True)
class Config:
    """``config.json``: the parts that the report reads; all of it stays in ``settings``."""

    data: Data
    layers: list[LayerShape] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    command: str | list[str] = ""
    model: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Round:
    """A line of ``history.jsonl``: the global model after a round, and that round's bytes."""

    round: int
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    kappa: float | None = None
    loss: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    dense_bytes_up: int = 0
    dense_bytes_down: int = 0
    ratios: dict[str, float] = field(default_factory=dict)
    sites: int = 0
    refused: int = 0
    seconds: float | None = None


@dataclass(frozen=True)
class SiteRound:
    """A line of ``rounds.jsonl``: what passed between the server and one site in one round.

    Attributes
    ----------
    phase : str
        ``train``; ``evaluate`` for the final evaluation; ``late`` for a reply after its round.
    resynced : bool
        Whether the site was sent the whole model because its replica was out of step.
    """

    round: int
    site: str
    accepted: bool
    reason: str = ""
    num_examples: int = 0
    train_loss: float | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    up_by_group: dict[str, int] = field(default_factory=dict)
    seconds: float | None = None
    phase: str = "train"
    resynced: bool = False

    @property
    def refused(self) -> bool:
        """Whether an upload was asked for and is not in the model."""
        return not self.accepted and self.phase != "evaluate"

    @property
    def silent(self) -> bool:
        """Whether the site was asked and nothing came back."""
        return self.refused and self.bytes_up == 0


@dataclass(frozen=True)
class Summary:
    """``summary.json``: the final model's scores and the bytes of the whole run."""

    method: str
    dataset: str
    num_sites: int
    rounds: int
    seed: int
    bytes_up: int
    bytes_down: int
    dense_bytes_up: int
    dense_bytes_down: int
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    kappa: float | None = None
    compression_up: float | None = None
    compression_down: float | None = None
    compression_total: float | None = None
    seconds: float | None = None
    model: str = ""
    synthetic: bool = False
    classes: list[str] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    resyncs: int = 0
    bytes_resync: int = 0


@dataclass(frozen=True)
class Run:
    """A whole run folder.

    Attributes
    ----------
    folder : Path
        Where it lies.
    history : list of Round
        By round, ascending.
    visits : list of Visit
        By round, then site.
    """

    folder: Path
    config: Config
    summary: Summary
    history: list[Round]
    visits: list[SiteRound]

    @property
    def synthetic(self) -> bool:
        """Whether the results come from synthetic imagery."""
        return self.config.data.synthetic or self.summary.synthetic

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the confusion matrix."""
        return self.summary.classes or self.config.data.classes

    @property
    def sites(self) -> list[str]:
        """All sites: those of the data, then any other that the ledger names."""
        named = dict.fromkeys(self.config.data.sites)
        return list(named | dict.fromkeys(visit.site for visit in self.visits))

    @property
    def num_values(self) -> int:
        """Values in the model; 0 when the configuration lists no layers."""
        return sum(layer.size for layer in self.config.layers)


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Parameters
    ----------
    folder : Path
        Holds ``config.json``, ``history.jsonl``, ``rounds.jsonl`` and ``summary.json``.

    Raises
    ------
    RunError
        A file is missing, is not JSON, lacks a field or contradicts another; the text names the
        file (and line) and the field.
    """
    if not folder.is_dir():
        raise RunError(f"{folder} is not a run folder; name one that `rsdgc simulate` has written")
    raw = _json(_text(folder / "config.json"), str(folder / "config.json"))
    config = _record(Config, raw, str(folder / "config.json"))
    config.settings.update(raw)
    summary_file = str(folder / "summary.json")
    summary = _record(Summary, _json(_text(Path(summary_file)), summary_file), summary_file)
    history = sorted(_lines(Round, folder / "history.jsonl"), key=lambda line: line.round)
    visits = _lines(SiteRound, folder / "rounds.jsonl")
    visits.sort(key=lambda line: (line.round, line.site))
    if not history:
        raise RunError(f"{folder / 'history.jsonl'} is empty: the run ended before its first round")
    run = Run(folder, config, summary, history, visits)
    _check_confusion(run)
    return run


def _check_confusion(run: Run) -> None:
    """Refuse a confusion matrix that does not fit the class names."""
    num_classes, confusion = len(run.classes), run.summary.confusion
    lengths = {len(confusion), *(len(row) for row in confusion)}
    if confusion and lengths != {num_classes}:
        raise RunError(
            f"{run.folder / 'summary.json'}: the confusion matrix is not {num_classes} {TIMES} "
            f"{num_classes}, the count of classes; run `rsdgc simulate` again"
        )


def _text(path: Path) -> str:
    """Return a file's text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RunError(
            f"{path} is missing: the run did not finish, or this is no run folder"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


def _json(text: str, where: str) -> dict[str, Any]:
    """Parse one JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{where} is damaged, not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RunError(f"{where} is damaged: not a JSON object but {type(value).__name__}")
    return value


def _record(kind: type[Record], value: dict[str, Any], where: str) -> Record:
    """Check one JSON object against a record type."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        raise RunError(f"{where} is damaged: {name}: {first['msg']}") from None


def _lines(kind: type[Record], path: Path) -> list[Record]:
    """Read a file of one JSON object a line; empty lines are passed over."""
    records = []
    for number, line in enumerate(_text(path).splitlines(), start=1):
        if line.strip():
            where = f"{path} line {number}"
            records.append(_record(kind, _json(line, where), where))
    return records
