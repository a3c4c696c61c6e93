"""Parts of a store: what one job gives, written by one process, kept until the store is whole.

A job leaves ``<key>-<modality>.npy`` for each modality and then, as the sign that it is done,
``<key>.npz`` with its columns and sums. A killed ingestion goes on with the jobs that lack theirs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from data_prep.ingest.class_list import UnknownLabelError
from data_prep.manifest import Columns, join_columns
from data_prep.rasters import gdal_environment
from data_prep.shards import ShardWriter
from data_prep.statistics import ChipSums
from rsdgc.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass
class SampleBatch:
    """Some samples of a job: arrays and sums by modality, columns, and what was left out."""

    arrays: list[NDArray[Any]]
    columns: Columns
    sums: list[ChipSums]
    left_out: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)


class Job(Protocol):
    """What one process does at a time."""

    @property
    def key(self) -> str:
        """Name of its files; keys sort in the order of the store."""
        ...

    @property
    def scene(self) -> str:
        """What is given up when the job fails."""
        ...

    @property
    def bytes(self) -> int:
        """How much it reads."""
        ...

    def run(self) -> Iterator[SampleBatch]:
        """Give the samples, in order."""
        ...


@dataclass
class JobResult:
    """Outcome of a job: columns and sums, or the reason why there are none.

    ``rows`` are those of its files: samples, or the pixels round them.
    """

    key: str
    columns: Columns = field(default_factory=dict)
    sums: list[ChipSums] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    error: str = ""
    rows: int = 0


def result_file(folder: Path, key: str, modality: int) -> Path:
    """Path of a part's samples."""
    return folder / f"{key}-{modality}.npy"


def run_job(folder: Path, job: Job) -> JobResult:
    """Do a job and write its part; a failure that concerns its scene alone is its outcome."""
    making = _Making(folder, job.key)
    try:
        with gdal_environment():
            for piece in job.run():
                making.add(piece)
        part = making.finish()
    except UnknownLabelError:
        raise
    except DataError as error:
        return JobResult(job.key, error=str(error))
    finally:
        making.close()
    _write(folder, part)
    return part


class _Making:
    """A part while its pieces come in: samples go to files, the rest stays in memory."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._part = JobResult(key)
        self._writers: list[ShardWriter] = []
        self._columns: list[Columns] = []
        self._sums: list[list[ChipSums]] = []

    def add(self, piece: SampleBatch) -> None:
        """Take a piece."""
        for name, count in piece.left_out.items():
            self._part.left_out[name] = self._part.left_out.get(name, 0) + count
        self._part.skipped += piece.skipped
        if not len(piece.arrays[0]):
            return
        self._columns.append(piece.columns)
        self._sums.append(piece.sums)
        if not self._writers:
            self._writers = [self._writer(i, array) for i, array in enumerate(piece.arrays)]
        for writer, values in zip(self._writers, piece.arrays, strict=True):
            writer.append(values)

    def finish(self) -> JobResult:
        """Finish the files; return the part."""
        for writer in self._writers:
            writer.finish()
            self._part.rows = writer.rows
        if self._columns:
            self._part.columns = join_columns(self._columns)
            self._part.sums = [ChipSums.join(some) for some in zip(*self._sums, strict=True)]
        return self._part

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers:
            writer.close()

    def _writer(self, modality: int, array: NDArray[Any]) -> ShardWriter:
        path = result_file(self._folder, self._part.key, modality)
        return ShardWriter(path, array.shape[1:], array.dtype)


def _write(folder: Path, part: JobResult) -> None:
    partial = folder / f"{part.key}.partial"
    facts = json.dumps({"left_out": part.left_out, "skipped": part.skipped, "rows": part.rows})
    arrays: dict[str, NDArray[Any]] = {
        f"column {name}": values.astype("S16") if name == "hash" else values
        for name, values in part.columns.items()
    }
    arrays |= {f"sums {i}": sums.packed for i, sums in enumerate(part.sums)}
    with partial.open("wb") as file:
        np.savez(file, facts=np.array(facts), **arrays)  # type: ignore[arg-type]
    partial.rename(folder / f"{part.key}.npz")


def read_result(folder: Path, key: str) -> JobResult | None:
    """Read what a job that is done has left, or None."""
    path = folder / f"{key}.npz"
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as file:
        facts = json.loads(str(file["facts"]))
        columns: Columns = {
            name.removeprefix("column "): file[name]
            for name in file.files
            if name.startswith("column ")
        }
        sums = [ChipSums(file[n]) for n in file.files if n.startswith("sums ")]
    if "hash" in columns:
        columns["hash"] = columns["hash"].astype(str).astype(object)
    skipped = [(path, reason) for path, reason in facts["skipped"]]
    return JobResult(key, columns, sums, facts["left_out"], skipped, rows=facts["rows"])
