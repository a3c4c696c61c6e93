"""The schema of a run folder, for those who write it and those who read it.

A run folder holds ``config.json`` (:class:`RunConfig`: every setting, the data, the layers),
``history.jsonl`` (a :class:`~strategies.ledger.RoundEntry` a line; round 0 is the initial model),
``rounds.jsonl`` (a :class:`~strategies.ledger.SiteEntry` a line) and ``summary.json``
(:class:`RunSummary`). Reading checks types and names the file and line that is wrong. Fields with
defaults may be missing, as in folders that older versions wrote.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from rsdgc.documents import DocumentError, explain_invalid, parse_json, read_lines, read_text
from rsdgc.durable import replace_text
from rsdgc.errors import RunFolderError
from rsdgc.plain_text import plain_line
from strategies.ledger import HISTORY_FILE, ROLL_CALL, SITES_FILE, RoundEntry, SiteEntry
from strategies.node_book import LeftOut
from strategies.sites import ModalityInfo

ADAPTERS_FILE = "adapters.safetensors"
BEST_MODEL_FILE = "best.safetensors"
CONFIG_FILE = "config.json"
INIT_WEIGHTS_FILE = "init-weights.json"
MODEL_FILE = "model.safetensors"
REPORT_FILE = "report.html"
SUMMARY_FILE = "summary.json"
TRAFFIC_FILE = "traffic.json"
"""Of a run in a deployment: its bytes by the ledger, and by Flower's count."""

MOST = 2**48
"""Largest count of a record: as many bytes are 280 TB. Sums of such numbers stay exact."""
MOST_LOSS = 3.5e38
"""A loss is a float32, which may be that large in a run that diverges."""
MOST_RUN_ID = 2**64 - 1
"""Largest number of a run, which Flower draws at random."""

Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The data of a run, as its configuration recorded them.

    ``path`` is on the server's machine, and empty where the server has no data; ``classes`` stand
    in the order of their labels.
    """

    path: str = ""
    name: str
    synthetic: bool = False
    classes: list[str] = field(default_factory=list)
    sites: list[str] = field(default_factory=list)
    num_bands: int = 0
    chip_px: int = 0
    #: of the sites' chips, labels and splits (:meth:`data_prep.dataset.Dataset.digest`); empty
    #: where the server has no data, and in folders of older versions
    digest: str = ""
    #: in the order in which the model takes them; folders of older versions list none
    modalities: list[ModalityInfo] = field(default_factory=list)
    #: names of those that a site lacks, by site
    lacking: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerShape:
    """Name and shape of one entry of the model's state."""

    name: str
    shape: list[int]

    @property
    def size(self) -> int:
        """Count of values; 1 for a scalar."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class FrozenRecord:
    """The part of the model that no round sends."""

    #: in hex, of frozen parameters, running statistics before training, and constant buffers
    digest: str
    parameters: int  #: count of values of the frozen parameters


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """``config.json``: what a run was started with."""

    #: by hyphenated key, as :meth:`fl_app.settings.Settings.to_mapping` returns them; in the
    #: file they stand at the top level, before the other fields
    settings: dict[str, Any]
    run_id: int  #: Flower's number of the run when it was first started
    data: RunData  #: what the run was trained on
    layers: list[LayerShape] = field(default_factory=list)  #: of the model, in its order
    frozen: FrozenRecord | None = None  #: None where sites compare nothing
    #: signatures of the code that settings name, by setting (:mod:`fl_app.runs.own_code`)
    code: dict[str, str] = field(default_factory=dict)
    #: of Python and of the packages that the result depends on
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def model(self) -> str:
        """Name of the model; empty where none was recorded."""
        return str(self.settings.get("model", ""))

    def write(self, folder: Path) -> None:
        """Write ``config.json`` into a run folder."""
        others = asdict(self)
        settings = others.pop("settings")
        # NaN is not JSON: other readers would refuse the file.
        text = json.dumps({**settings, **others}, indent=1, allow_nan=False)
        replace_text(folder / CONFIG_FILE, text)

    @classmethod
    def read(cls, folder: Path) -> RunConfig:
        """Read ``config.json``, or raise :class:`RunFolderError` if it is missing or damaged."""
        path = folder / CONFIG_FILE
        settings = _parse_object(_read_text(path), str(path))
        names = ("run_id", "data", "layers", "frozen", "code", "versions")
        others = {name: settings.pop(name) for name in names if name in settings}
        return _to_record(TypeAdapter(cls), {"settings": settings, **others}, str(path))


@dataclass(frozen=True, kw_only=True)
class BestRound:
    """The round whose published model has the best score on the sites' validation splits."""

    round: int
    #: val_balanced_accuracy, val_loss: what it was chosen by; no loss if no site's was finite
    val_balanced_accuracy: float
    val_loss: float | None = None
    #: accuracy, balanced_accuracy, kappa: of its model on the test samples, which took no part in
    #: the choice
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    kappa: float | None = None


@dataclass(frozen=True, kw_only=True)
class ModalityScores:
    """Scores of the final model at the sites that have the same modalities."""

    modalities: list[str]
    sites: list[str]
    num_test: int
    accuracy: float
    balanced_accuracy: float
    kappa: float


@dataclass(frozen=True, kw_only=True)
class SiteScores:
    """Scores of the final model on one site's test samples, and what they are made of."""

    site: str
    accuracy: float
    balanced_accuracy: float
    kappa: float
    #: reference, predicted, correct: samples of each class, those that the model assigned to it,
    #: and those of it that the model assigned correctly
    reference: list[int]
    predicted: list[int]
    correct: list[int]

    @property
    def num_test(self) -> int:
        """Test samples of the site."""
        return sum(self.reference)


@dataclass(frozen=True, kw_only=True)
class PrivacySpent:
    """What the published models reveal of a site, see :mod:`strategies.differential_privacy`."""

    epsilon: float
    delta: float
    releases: int  #: noised means, one for each round, and more if rounds were repeated
    noise_multiplier: float
    clip: float


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """``summary.json``: the final model's scores and the bytes of the whole run."""

    method: str
    dataset: str
    synthetic: bool = False
    model: str = ""
    num_sites: int
    rounds: int
    seed: int
    #: of the global model; None in folders of older versions
    server_momentum: float | None = None
    #: accuracy, balanced_accuracy, kappa: of the final model on all test samples; None if no
    #: site has any
    accuracy: float | None = None
    balanced_accuracy: float | None = None
    kappa: float | None = None
    #: resyncs, bytes_resync: times that a site was sent the whole model because its replica was
    #: out of step, and the bytes of these messages
    resyncs: int = 0
    bytes_resync: int = 0
    bytes_up: int
    bytes_down: int
    #: dense_bytes_up, dense_bytes_down: what dense FedAvg would have sent for the same messages
    dense_bytes_up: int
    dense_bytes_down: int
    #: compression_up, compression_down, compression_total: dense bytes over real bytes
    compression_up: float | None = None
    compression_down: float | None = None
    compression_total: float | None = None
    seconds: float | None = None  #: wall clock, without the time between a stop and its resumption
    num_test: int = 0  #: test samples behind the scores
    classes: list[str] = field(default_factory=list)
    #: rows are the reference; empty if nothing was scored
    confusion: list[list[int]] = field(default_factory=list)
    #: by the modalities that sites have; empty if all have the same
    by_modalities: list[ModalityScores] = field(default_factory=list)
    #: of the sites that have test samples; folders of older versions list none
    by_site: list[SiteScores] = field(default_factory=list)
    #: replies that were refused or lost, by reason
    refused: dict[str, int] = field(default_factory=dict)
    #: times that a site was set aside for some rounds, by site
    suspended: dict[str, int] = field(default_factory=dict)
    #: nodes that took no part at the end of the run, and why
    left_out: list[LeftOut] = field(default_factory=list)
    clipped: int = 0  #: updates of which the model took a share only
    #: None where no site has a validation split
    best: BestRound | None = None
    #: None without differential privacy
    privacy: PrivacySpent | None = None

    def write(self, folder: Path) -> None:
        """Write ``summary.json`` into a run folder."""
        replace_text(folder / SUMMARY_FILE, json.dumps(asdict(self), indent=1, allow_nan=False))

    @classmethod
    def read(cls, folder: Path) -> RunSummary:
        """Read ``summary.json``, or raise :class:`RunFolderError` if it is missing or damaged."""
        path = folder / SUMMARY_FILE
        summary = _parse_object(_read_text(path), str(path))
        return _to_record(TypeAdapter(cls), summary, str(path))


@dataclass(frozen=True)
class Run:
    """All records of a run folder."""

    folder: Path
    config: RunConfig
    summary: RunSummary
    history: list[RoundEntry]
    """By round, ascending."""
    site_entries: list[SiteEntry]
    """By round, then site."""

    @property
    def synthetic(self) -> bool:
        """Whether the results come from synthetic imagery."""
        return self.config.data.synthetic or self.summary.synthetic

    @property
    def model(self) -> str:
        """Name of the model."""
        return self.config.model or self.summary.model

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the confusion matrix."""
        return self.summary.classes or self.config.data.classes

    @property
    def sites(self) -> list[str]:
        """All sites: those of the data, then any other that the ledger names."""
        named = dict.fromkeys(self.config.data.sites)
        asked = (entry.site for entry in self.site_entries if entry.phase != ROLL_CALL)
        return list(named | dict.fromkeys(asked))

    @property
    def num_values(self) -> int:
        """Values in the model; 0 when the configuration lists no layers."""
        return sum(layer.size for layer in self.config.layers)


def read_run(folder: Path) -> Run:
    """Read all records of a run folder.

    Raises
    ------
    RunFolderError
        A file is missing, is not JSON, lacks a field or contradicts another; the text names the
        file (and line) and the field.
    """
    config, summary = RunConfig.read(folder), RunSummary.read(folder)
    history = sorted(_read_lines(RoundEntry, folder / HISTORY_FILE), key=lambda e: e.round)
    site_entries = sorted(
        _read_lines(SiteEntry, folder / SITES_FILE), key=lambda e: (e.round, e.site)
    )
    if not history:
        raise RunFolderError(
            f"{folder / HISTORY_FILE} is empty: the run ended before its first round"
        )
    run = Run(folder, config, summary, history, site_entries)
    num_classes, confusion = len(run.classes), summary.confusion
    total = sum(map(sum, confusion))
    if total > MOST:
        raise damaged(folder / SUMMARY_FILE, f"the confusion matrix counts {total}")
    if confusion and {len(confusion), *map(len, confusion)} != {num_classes}:
        raise damaged(
            folder / SUMMARY_FILE,
            f"the confusion matrix is not {num_classes} × {num_classes}, the count of classes",
        )
    for scores in summary.by_site:
        counts = (scores.reference, scores.predicted, scores.correct)
        pairs = zip(scores.correct, scores.reference, strict=False)
        if set(map(len, counts)) != {num_classes} or any(c > r for c, r in pairs):
            raise damaged(
                folder / SUMMARY_FILE,
                f"the counts of site {scores.site} are not those of {num_classes} classes",
            )
    return run


def damaged(where: Path | str, reason: object) -> RunFolderError:
    """Return the error of a file of a run folder, or of a line of it, that cannot be used."""
    return RunFolderError(f"{where} is damaged: {reason}: restore it from a copy, or run again")


def _missing(path: Path) -> RunFolderError:
    folder = path.parent
    if not folder.is_dir():
        reason = f"{folder} is not a folder"
    elif not (folder / CONFIG_FILE).is_file():
        reason = f"{folder} is not the folder of a run: it has no {CONFIG_FILE}"
    elif path.name == SUMMARY_FILE:
        again = f"rsdgc simulate --resume {shlex.quote(str(folder))}"
        return RunFolderError(
            f"the run in {folder} is not complete: wait for its end, or continue it with {again} "
            "(in a deployment: rsdgc server resume)"
        )
    else:
        return RunFolderError(f"{path} is missing: restore it from a copy, or run again")
    return RunFolderError(f"{reason}; name one that rsdgc simulate or server run has written")


def _read_text(path: Path) -> str:
    with _explain_errors(path):
        return read_text(path)


@contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    """Turn the errors of reading a run folder's file into :class:`RunFolderError`, one line."""
    try:
        yield
    except FileNotFoundError:
        raise _missing(path) from None
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read ({error.strerror})") from None
    except DocumentError as error:
        raise damaged(path, error) from None


def _parse_object(text: str, where: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except DocumentError as error:
        raise damaged(where, error) from None
    if not isinstance(value, dict):
        raise damaged(where, "it is not a JSON object")
    return value


def parse_record(adapter: TypeAdapter[Record], text: str, where: str) -> Record:
    """Return the record of a JSON text; RunFolderError names ``where`` it is wrong."""
    return _to_record(adapter, _parse_object(text, where), where)


def _to_record(adapter: TypeAdapter[Record], value: dict[str, Any], where: str) -> Record:
    """Check a JSON object against a record type; unknown keys are ignored.

    Texts that the record has of sites and archives become one printable line.
    """
    try:
        record = adapter.validate_python(_plain(value))
    except ValidationError as error:
        raise damaged(where, explain_invalid(error)) from None
    for name, number in _numbers(record):
        most = _most(name)
        least = -1.0 if name.endswith("kappa") else -most if isinstance(number, float) else 0
        if not least <= number <= most:
            raise damaged(where, f"{name} is {number}, not from {least} to {most}")
    return record


def _most(name: str) -> float:
    """Return the largest number that a field may have."""
    if name.endswith(("accuracy", "kappa", "ratios")):
        return 1.0
    if name.endswith("loss"):
        return MOST_LOSS
    return MOST_RUN_ID if name == "run_id" else MOST


def _plain(value: Any) -> Any:
    """Return JSON values with every text in one printable line, but for settings and paths."""
    if isinstance(value, str):
        return value if value.isascii() and value.isprintable() else plain_line(value)
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        kept = ("settings", "path")
        return {_plain(k): part if k in kept else _plain(part) for k, part in value.items()}
    return value


def _numbers(value: Any, name: str = "") -> Iterator[tuple[str, int | float]]:
    """Yield the numbers of a record with the names of their fields, but not those of settings."""
    if is_dataclass(value):
        for each in fields(value):
            if each.name != "settings":
                yield from _numbers(getattr(value, each.name), each.name)
    elif isinstance(value, int | float):
        yield name, value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _numbers(part, name)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part, name)


def _read_lines(kind: type[Record], path: Path) -> list[Record]:
    """Read a file with a JSON object a line; empty lines are skipped.

    The file may be of any size, because a ledger grows with rounds and sites, but not a line of it.
    """
    records = []
    adapter = TypeAdapter(kind)  # building one takes longer than reading a hundred lines
    with _explain_errors(path):
        for number, line in enumerate(read_lines(path), start=1):
            if line.strip():
                where = f"{path} line {number}"
                records.append(parse_record(adapter, line, where))
    return records
