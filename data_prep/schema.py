"""The records ``meta.json`` and ``partition.json``: their fields, reading and writing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rsdgc.errors import DataError

#: Version of the records, written and read.
SCHEMA_VERSION = 2
STORE_FILE = "meta.json"
PARTITION_FILE = "partition.json"
SPLITS = ("train", "val", "test", "buffer")


class Record(BaseModel):
    """Base of the records on disk: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardMeta(Record):
    """One memory-mapped file of a modality: its name in the store and its rows."""

    file: str
    rows: int


class ModalityMeta(Record):
    """A modality of the chips: bands that share a sensor and a data type.

    Statistics are per band, over the valid pixels of the train split, in stored values.
    """

    name: str
    bands: list[str]  #: names, in storage order
    dtype: str  #: NumPy name of the stored type: the source's own
    nodata: float | None = None  #: marks invalid pixels; None: only non-finite values are invalid
    resolution: float = 1.0  #: ground size of a source pixel, in CRS units, before warping
    factor: int = 1  #: pixels of the scene's grid along a pixel's side: chips are chip_px / factor
    scale: list[float] = Field(default_factory=list)  #: by band; physical = stored * scale + offset
    offset: list[float] = Field(default_factory=list)  #: both are empty where nothing is scaled
    mean: list[float] = Field(default_factory=list)
    std: list[float] = Field(default_factory=list)
    min: list[float] = Field(default_factory=list)
    max: list[float] = Field(default_factory=list)
    count: list[int] = Field(default_factory=list)
    shards: list[ShardMeta] = Field(default_factory=list)


class Skipped(Record):
    """A file, modality or scene that was left out, and why."""

    path: str
    reason: str
    refused: bool = True  #: for a defect (unreadable, contradictory); else the file is not an image


class SceneMeta(Record):
    """A scene's reference grid; ``transform`` is the six affine terms a, b, c, d, e, f."""

    name: str
    folder: str
    height: int
    width: int
    transform: tuple[float, float, float, float, float, float]
    crs: str = ""
    date: str = ""


class SplitReport(Record):
    """How the samples were split, and what it cost.

    The least distances are between a train and a test sample, in pixels and in CRS units. They are
    None where they have no meaning: without a CRS, or where a split is empty. Of pixel samples they
    are taken along the longer axis.
    """

    method: str  #: stratified (single images), blocks (chips), fields (pixels), scene, date, given
    seed: int
    test_share: float
    val_share: float
    counts: dict[str, int]  #: samples by split, the buffer included
    class_counts: dict[str, list[int]]  #: the same by split, then class
    buffer_px: int = 0  #: least distance required between samples of different splits
    block_px: int = 0  #: side of a block; 0 where there are no blocks
    blocks: int = 0
    least_distance_px: float | None = None
    least_distance: float | None = None
    notes: list[str] = Field(default_factory=list)


class StoreMeta(Record):
    """Everything about a store that is not a sample; see ``docs/data.md`` for the layout."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["chips", "pixels"]
    id: str
    name: str
    source: str
    synthetic: bool = False
    classes: list[str]
    class_codes: list[int]
    chip_px: int
    stride_px: int
    patch_px: int = 0
    modalities: list[ModalityMeta]
    scenes: list[SceneMeta] = Field(default_factory=list)
    splits: SplitReport
    skipped: list[Skipped] = Field(default_factory=list)
    left_out: dict[str, int] = Field(default_factory=dict)
    notes: list[str] = Field(default_factory=list)


class PartitionMeta(Record):
    """A division of one store over sites; ``store`` is relative to the partition's folder."""

    schema_version: int = SCHEMA_VERSION
    scheme: str
    sites: list[str]
    seed: int
    alpha: float | None = None
    classes_per_site: int | None = None
    store: str
    store_id: str
    name: str
    classes: list[str]
    dropped: int = 0
    lacking: dict[str, list[str]] = Field(default_factory=dict)  #: modalities, by site


RecordT = TypeVar("RecordT", bound=Record)


def read_record(path: Path, kind: type[RecordT]) -> RecordT:
    """Read one of the records above; DataError for other files, versions and keys."""
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): ingest or partition again"
        ) from error
    except ValueError as error:
        raise DataError(f"{path} is not JSON: ingest or partition again") from error
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path} has schema version {version}, this version of rsdgc reads "
            f"{SCHEMA_VERSION}: ingest or partition again"
        )
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: {where}: {first['msg']}: ingest or partition again") from error


def write_record(path: Path, record: Record) -> None:
    """Write a record as indented JSON."""
    path.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
