"""Jobs of an ingestion, and their results on disk.

A job writes ``<key>-<modality>.npy`` for each modality, ``<key>-<modality>-valid.npy`` for one
whose validity no value says and that has invalid pixels, and then ``<key>.npz`` with its columns
and sums, which is the sign that it is done. An ingestion that was killed runs only the jobs that
lack theirs. The files stay until the store is complete.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.foreign_errors import reading
from data_prep.ingest.archive import ZIP_ERRORS
from data_prep.ingest.class_list import UnknownLabelError
from data_prep.ingest.losses import Losses
from data_prep.manifest import Columns, join_columns
from data_prep.rasters import gdal_environment
from data_prep.schema import ShardMeta
from data_prep.shards import ShardWriter, join_shards
from data_prep.statistics import ChipSums
from data_prep.validity import all_valid, packed_shape
from rsdgc.errors import DataError

#: Source bytes of one job. A job is the unit of resuming and of progress, and its start costs a
#: few milliseconds. The files of a store depend on this, and not on the number of processes.
JOB_BYTES = 96 * 2**20


@dataclass
class SampleBatch:
    """Some samples of a job: arrays and sums by modality, columns, and what was left out."""

    arrays: list[NDArray[Any]]
    columns: Columns
    sums: list[ChipSums]
    left_out: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    losses: Losses = field(default_factory=Losses)
    #: Packed validity by modality: None where all is valid, or where a value says what is not.
    validity: list[NDArray[np.uint8] | None] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """What one process or thread does at a time."""

    key: str  #: name of the job, and of its files; keys sort in the order of the store
    scene: str  #: name of the scene, which is given up when the job fails
    bytes: int  #: how much the job reads, for progress

    @abstractmethod
    def run(self) -> Iterator[SampleBatch]:
        """Yield the samples, in order."""


@dataclass
class JobResult:
    """Outcome of a job: columns and sums, or the reason why there are none.

    ``rows`` are those of its files: samples, or in pixel mode the padded scene's pixels.
    """

    key: str
    columns: Columns = field(default_factory=dict)
    sums: list[ChipSums] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    losses: Losses = field(default_factory=Losses)
    error: str = ""
    rows: int = 0
    validity: list[int] = field(default_factory=list)  #: modalities with a file of their validity


def result_file(folder: Path, key: str, modality: int) -> Path:
    """Path of a job's samples of a modality, given by its number."""
    return folder / f"{key}-{modality}.npy"


def validity_file(folder: Path, key: str, modality: int) -> Path:
    """Path of the validity of a job's samples of a modality."""
    return folder / f"{key}-{modality}-valid.npy"


def run_job(folder: Path, job: Job) -> JobResult:
    """Run a job and write its result; a failure that concerns its scene alone is the result."""
    writer = _ResultWriter(folder, job.key)
    try:
        with gdal_environment():
            for batch in _read_batches(job):
                writer.add(batch)
        return writer.finish()
    except UnknownLabelError:
        # the class list is at fault, and leaving scenes out would hide it
        raise
    except DataError as error:
        return JobResult(job.key, error=str(error))
    finally:
        writer.close()


def _read_batches(job: Job) -> Iterator[SampleBatch]:
    """Run a job; other libraries' errors over its scene become DataError, those of writing not."""
    batches = job.run()
    while True:
        with reading(f"scene {job.scene}"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def join_validity(
    store: Path, folder: Path, name: str, modality: int, results: Sequence[JobResult]
) -> list[ShardMeta]:
    """Make the validity layer of a modality from the files of its jobs; none where all is valid.

    ``results`` are of all jobs, in order; those without such a file get one that is all valid.
    """
    if not any(modality in result.validity for result in results):
        return []
    parts = []
    for result in results:
        path = validity_file(folder, result.key, modality)
        if modality not in result.validity:
            values = np.load(result_file(folder, result.key, modality), mmap_mode="r")
            writer = ShardWriter(path, packed_shape(values.shape[1:]), np.uint8)
            writer.append(all_valid(values.shape))
            writer.finish()
        parts.append((path, result.rows))
    return join_shards(store, f"{name}.valid", parts)


class _ResultWriter:
    """Writes the samples of a job as they come; columns and sums stay in memory to the end."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._result = JobResult(key)
        self._shards: list[ShardWriter] = []
        self._validity: dict[int, ShardWriter] = {}
        self._columns: list[Columns] = []
        self._sums: list[list[ChipSums]] = []

    def add(self, batch: SampleBatch) -> None:
        """Append a batch of samples."""
        self._result.left_out.update(batch.left_out)
        self._result.skipped += batch.skipped
        self._result.losses.update(batch.losses)
        if not len(batch.arrays[0]):
            return
        self._columns.append(batch.columns)
        self._sums.append(batch.sums)
        if not self._shards:  # the shapes are known only now
            for i, array in enumerate(batch.arrays):
                path = result_file(self._folder, self._result.key, i)
                self._shards.append(ShardWriter(path, array.shape[1:], array.dtype))
        for modality, bits in enumerate(batch.validity or [None] * len(batch.arrays)):
            self._add_validity(modality, bits, batch.arrays[modality].shape)
        for shard, values in zip(self._shards, batch.arrays, strict=True):
            shard.append(values)

    def _add_validity(
        self, modality: int, bits: NDArray[np.uint8] | None, shape: tuple[int, ...]
    ) -> None:
        """Append packed validity; a file begins with the first batch that is not all valid."""
        layer = self._validity.get(modality)
        if bits is None and layer is None:
            return
        if layer is None:
            path = validity_file(self._folder, self._result.key, modality)
            layer = ShardWriter(path, packed_shape(shape[1:]), np.uint8)
            self._validity[modality] = layer
            layer.append(all_valid((self._shards[modality].rows, *shape[1:])))
        layer.append(all_valid(shape) if bits is None else bits)

    def finish(self) -> JobResult:
        """Complete the files and return the result."""
        for shard in self._shards:
            shard.finish()
            self._result.rows = shard.rows
        for layer in self._validity.values():
            layer.finish()
        self._result.validity = sorted(self._validity)
        if self._columns:
            self._result.columns = join_columns(self._columns)
            self._result.sums = [ChipSums.join(parts) for parts in zip(*self._sums, strict=True)]
        _write(self._folder, self._result)
        return self._result

    def close(self) -> None:
        """Close the files, which are incomplete unless :meth:`finish` was called."""
        for shard in [*self._shards, *self._validity.values()]:
            shard.close()


def _write(folder: Path, result: JobResult) -> None:
    partial = folder / f"{result.key}.partial"
    facts: dict[str, Any] = {
        "left_out": result.left_out,
        "skipped": result.skipped,
        "losses": result.losses.to_mapping(),
        "rows": result.rows,
        "validity": result.validity,
    }
    # fixed-width bytes: NumPy would store objects by pickling
    arrays: dict[str, NDArray[Any]] = {
        f"column {name}": values.astype("S16") if name == "hash" else values
        for name, values in result.columns.items()
    }
    arrays |= {f"sums {i}": sums.packed for i, sums in enumerate(result.sums)}
    with partial.open("wb") as file:
        np.savez(file, facts=np.array(json.dumps(facts)), **arrays)  # type: ignore[arg-type]
    # renamed, not synced: it must outlast the process, and after a loss of power it is made again
    partial.rename(folder / f"{result.key}.npz")


def read_result(folder: Path, key: str) -> JobResult | None:
    """Read the result of a job that is done; None if it is not, or if the file is damaged.

    A loss of power can leave a file without its content, because results are not synced. A process
    that was killed while it put a store together has moved samples into it.
    """
    path = folder / f"{key}.npz"
    if not path.is_file():
        return None
    try:
        result = _read(path, key)
        if result.rows and not result_file(folder, key, 0).is_file():
            raise FileNotFoundError(key)
        return result
    except (OSError, ValueError, KeyError, TypeError, AttributeError, *ZIP_ERRORS):
        path.unlink()
        return None


def _read(path: Path, key: str) -> JobResult:
    # opened here: of a damaged file NumPy would leave it open
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
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
    return JobResult(
        key,
        columns,
        sums,
        Counter(facts["left_out"]),
        skipped,
        losses=Losses.from_mapping(facts["losses"]),
        rows=facts["rows"],
        validity=facts["validity"],
    )
