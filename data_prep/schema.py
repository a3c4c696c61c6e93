"""The records ``meta.json`` and ``partition.json``: their fields, reading and writing.

A record that another party wrote is checked in one place, here: whatever a field says is of its
type, within its limits and in agreement with the other fields before anything uses it. No name of
a file leads out of the record's folder.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from rsdgc.documents import DocumentError, explain_invalid, read_json, shorten
from rsdgc.errors import DataError
from rsdgc.plain_text import MAX_NAME, is_plain, plain_line

#: Version of the records, written and read.
SCHEMA_VERSION = 2
#: Version of a store with a validity layer, which programs that do not know it must not read.
VALIDITY_VERSION = 3
STORE_FILE = "meta.json"
PARTITION_FILE = "partition.json"
SPLITS = ("train", "val", "test", "buffer")
#: Types that arrays of a store may have, by NumPy's names.
DTYPES = (
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
)
#: Longest name of a file in bytes, with a suffix such as ``.parquet``.
MAX_NAME_BYTES = 240
#: Largest side of a chip or patch, pixels.
MAX_SIDE_PX = 2**15


def check_file_name(name: str) -> str:
    """Return a name; raise ``ValueError`` if it cannot name a file within a folder."""
    if name in ("", ".", "..") or any(mark in name for mark in "/\\\0"):
        raise ValueError(f"{shorten(name)} is not the name of a file in this folder")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise ValueError(f"{shorten(name)} is longer than {MAX_NAME_BYTES} bytes")
    return name


def check_distinct(names: list[str]) -> list[str]:
    """Return names; raise ``ValueError`` if one of them stands twice."""
    if len(set(names)) < len(names):
        twice = next(name for position, name in enumerate(names) if name in names[:position])
        raise ValueError(f"{shorten(twice)} stands twice")
    return names


def _check_dtype(name: str) -> str:
    if name not in DTYPES:
        raise ValueError(f"{shorten(name)} is not one of {', '.join(DTYPES)}")
    return name


def _clean_name(name: str) -> str:
    plain = plain_line(name, MAX_NAME)
    if not plain:
        raise ValueError(f"{shorten(name)} is not a name")
    return plain


def _check_site_name(name: str) -> str:
    """Return a name that stands in logs and names a file, so that it must be plain as it is."""
    if not is_plain(check_file_name(name)):
        raise ValueError(f"{shorten(name)} is not a plain name of at most {MAX_NAME} characters")
    return name


FileName = Annotated[str, AfterValidator(check_file_name)]
SiteFileName = Annotated[str, AfterValidator(_check_site_name)]
#: Names and texts become one printable line, in records that are written and in those of others.
Name = Annotated[str, AfterValidator(_clean_name)]
Text = Annotated[str, AfterValidator(plain_line)]
SplitName = Literal["train", "val", "test", "buffer"]
Count = Annotated[int, Field(ge=0, lt=2**48)]
SidePx = Annotated[int, Field(ge=0, le=MAX_SIDE_PX)]
DistinctNames = Annotated[list[Name], Field(min_length=1), AfterValidator(check_distinct)]


class Record(BaseModel):
    """Base of the records on disk: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardMeta(Record):
    """One memory-mapped file of a modality: its name in the store and its rows."""

    file: FileName
    rows: Count


class ModalityMeta(Record):
    """A modality of the chips: bands that share a sensor and a data type.

    Statistics are per band, over the valid pixels of the train split, in stored values.
    """

    name: Name
    bands: list[Name] = Field(min_length=1)  #: names, in storage order
    #: NumPy name of the stored type: the source's own
    dtype: Annotated[str, AfterValidator(_check_dtype)]
    #: Marks invalid pixels; an integer where a float does not hold it exactly. None: values that
    #: are not finite are invalid, and those that the validity layer marks.
    nodata: float | int | None = None
    resolution: float = 1.0  #: ground size of a source pixel, in CRS units, before warping
    #: pixels of the scene's grid along a pixel's side: chips are chip_px / factor
    factor: int = Field(1, ge=1, le=MAX_SIDE_PX)
    scale: list[float] = Field(default_factory=list)  #: by band; physical = stored * scale + offset
    offset: list[float] = Field(default_factory=list)  #: both are empty where nothing is scaled
    #: by band, of the physical values; empty where no file declares one
    units: list[Text] = Field(default_factory=list)
    mean: list[float] = Field(default_factory=list)
    std: list[float] = Field(default_factory=list)
    min: list[float] = Field(default_factory=list)
    max: list[float] = Field(default_factory=list)
    count: list[Count] = Field(default_factory=list)
    shards: list[ShardMeta] = Field(default_factory=list)
    #: Files of the validity layer (:mod:`data_prep.validity`); none where every value is data, or
    #: nodata and NaN say which are not.
    validity: list[ShardMeta] = Field(default_factory=list)

    @property
    def may_need_validity(self) -> bool:
        """Whether no value is free to mark invalid pixels: whole numbers without a nodata value."""
        return self.nodata is None and np.dtype(self.dtype).kind in "iu"

    @model_serializer(mode="wrap")
    def _without_what_is_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a layer or units that are not there: such records stay as they were."""
        values: dict[str, Any] = handler(self)
        for name in ("validity", "units"):
            if not getattr(self, name):
                values.pop(name, None)
        return values

    @field_validator("nodata")
    @classmethod
    def _nodata_is_of_the_type(
        cls, value: float | int | None, info: ValidationInfo
    ) -> float | int | None:
        name = info.data.get("dtype")
        if value is None or name is None:
            return value
        kind = np.dtype(name)
        if kind.kind == "f":
            usable = abs(value) <= float(np.finfo(kind).max)
        else:
            limits = np.iinfo(kind)
            usable = value == int(value) and int(limits.min) <= value <= int(limits.max)
        if not usable:
            raise ValueError(f"{value} is not a value of {name}")
        return value

    @field_validator("scale", "offset", "units", "mean", "std", "min", "max", "count")
    @classmethod
    def _one_of_each_band(cls, values: list[Any], info: ValidationInfo) -> list[Any]:
        bands = info.data.get("bands", values)
        if values and len(values) != len(bands):
            raise ValueError(f"{len(values)} values for {len(bands)} bands")
        return values

    @field_validator("std")
    @classmethod
    def _deviations_are_not_negative(cls, values: list[float]) -> list[float]:
        if min(values, default=0.0) < 0:
            raise ValueError(f"{min(values)} is negative")
        return values


class Skipped(Record):
    """A file, modality or scene that was left out, and why."""

    path: Text
    reason: Text
    refused: bool = True  #: for a defect (unreadable, contradictory); else the file is not an image


class SceneMeta(Record):
    """A scene's reference grid; ``transform`` is the six affine terms a, b, c, d, e, f."""

    name: str
    folder: str
    height: Count
    width: Count
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
    counts: dict[SplitName, Count]  #: samples by split, the buffer included
    class_counts: dict[SplitName, list[Count]]  #: the same by split, then class
    buffer_px: int = 0  #: least distance required between samples of different splits
    block_px: int = 0  #: side of a block; 0 where there are no blocks
    blocks: int = 0
    least_distance_px: float | None = None
    least_distance: float | None = None
    notes: list[Text] = Field(default_factory=list)


class StoreMeta(Record):
    """Everything about a store that is not a sample; see ``docs/data.md`` for the layout."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["chips", "pixels"]
    id: str
    name: Name
    source: Text
    synthetic: bool = False
    classes: DistinctNames
    class_codes: list[int]
    chip_px: SidePx
    stride_px: SidePx
    patch_px: SidePx = 0
    modalities: list[ModalityMeta] = Field(min_length=1)
    scenes: list[SceneMeta] = Field(default_factory=list)
    splits: SplitReport
    skipped: list[Skipped] = Field(default_factory=list)
    left_out: dict[Text, int] = Field(default_factory=dict)
    notes: list[Text] = Field(default_factory=list)

    @field_validator("modalities")
    @classmethod
    def _modalities_have_names_of_their_own(cls, values: list[ModalityMeta]) -> list[ModalityMeta]:
        check_distinct([modality.name for modality in values])
        return values

    @model_validator(mode="after")
    def _fields_agree(self) -> StoreMeta:
        if len(self.class_codes) != len(self.classes):
            raise ValueError(f"{len(self.class_codes)} class_codes for {len(self.classes)} classes")
        pixels = self.kind == "pixels"
        if pixels and (self.patch_px % 2 == 0 or self.patch_px != self.chip_px):
            raise ValueError(f"patch_px {self.patch_px} and chip_px {self.chip_px} of pixel data")
        if not pixels and (self.chip_px < 1 or self.patch_px):
            raise ValueError(f"chip_px {self.chip_px} and patch_px {self.patch_px} of chips")
        for modality in self.modalities:
            if modality.validity and self.schema_version < VALIDITY_VERSION:
                raise ValueError(
                    f"modality {modality.name} has a validity layer, which version "
                    f"{self.schema_version} does not have"
                )
            if (self.chip_px % modality.factor) if not pixels else modality.factor != 1:
                raise ValueError(
                    f"factor {modality.factor} of modality {modality.name} does not divide "
                    f"{1 if pixels else self.chip_px} px"
                )
            if not modality.mean or not modality.std:
                raise ValueError(f"modality {modality.name} has no mean or no std")
        for split, counts in self.splits.class_counts.items():
            if len(counts) != len(self.classes):
                raise ValueError(f"splits.class_counts.{split} has {len(counts)} classes")
        return self


class PartitionMeta(Record):
    """A division of one store over sites; ``store`` is relative to the partition's folder."""

    schema_version: int = SCHEMA_VERSION
    scheme: str
    #: names, also of the files of their manifests
    sites: Annotated[list[SiteFileName], Field(min_length=1), AfterValidator(check_distinct)]
    seed: int
    alpha: float | None = None
    classes_per_site: int | None = None
    store: str
    store_id: str
    name: Name
    classes: DistinctNames
    dropped: Count = 0
    lacking: dict[str, list[Name]] = Field(default_factory=dict)  #: modalities, by site

    @field_validator("store")
    @classmethod
    def _store_is_a_path(cls, value: str) -> str:
        if not value or "\0" in value:
            raise ValueError(f"{shorten(value)} is not a path")
        return value

    @field_validator("lacking")
    @classmethod
    def _lacking_names_sites(
        cls, value: dict[str, list[str]], info: ValidationInfo
    ) -> dict[str, list[str]]:
        unknown = set(value) - set(info.data.get("sites", value))
        if unknown:
            raise ValueError(f"{shorten(min(unknown))} is not one of the sites")
        return value


def path_within(folder: Path, *names: str) -> Path:
    """Return the path of a file under a folder; DataError if a link makes it lead elsewhere.

    A store or a partition that another party made could else show this machine's own files.
    """
    path = folder.joinpath(*names)
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise DataError(f"{path} is a link that leads out of {folder}: copy the file itself there")
    return path


RecordT = TypeVar("RecordT", bound=Record)


def read_record(path: Path, kind: type[RecordT]) -> RecordT:
    """Read one of the records above; DataError for other files, versions, keys and values."""
    remedy = "ingest or partition again"
    try:
        values: Any = read_json(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): {remedy}") from error
    except DocumentError as error:
        raise DataError(f"{path} cannot be used: {error}: {remedy}") from error
    if not isinstance(values, dict) or "schema_version" not in values:
        raise DataError(
            f"{path} is not of rsdgc, for it has no schema_version: name another folder, or "
            f"{remedy}"
        )
    version = values["schema_version"]
    known = (SCHEMA_VERSION, VALIDITY_VERSION) if kind is StoreMeta else (SCHEMA_VERSION,)
    if version not in known:
        newer = isinstance(version, int) and version > max(known)
        raise DataError(
            f"{path} has schema version {shorten(version)}, this version of rsdgc reads "
            f"{' and '.join(map(str, known))}: "
            + (f"install a newer rsdgc, or {remedy}" if newer else remedy)
        )
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise DataError(f"{path}: {explain_invalid(error)}: {remedy}") from error


def write_record(path: Path, record: Record) -> None:
    """Write a record as indented JSON."""
    path.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
