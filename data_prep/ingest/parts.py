"""Parts of a store: what one job gives, written by one process, kept until the store is whole.

A job leaves ``<key>-<modality>.npy`` for each modality and then, as the sign that it is done,
``<key>.npz`` with its columns and sums. A killed ingestion goes on with the jobs that lack theirs.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from data_prep.ingest.classes import UnknownLabelError
from data_prep.manifest import Columns, join_columns
from data_prep.rasters import gdal_environment
from data_prep.shards import ShardWriter
from data_prep.statistics import ChipSums
from rsdgc.errors import DataError, RunError, SettingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from data_prep.progress import Callback

#: Bytes to read from which on processes are started: below, starting them takes longer.
PARALLEL_BYTES = 64 * 2**20


@dataclass
class Piece:
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

    def run(self) -> Iterator[Piece]:
        """Give the samples, in order."""
        ...


@dataclass
class Part:
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


def part_file(folder: Path, key: str, modality: int) -> Path:
    """Path of a part's samples."""
    return folder / f"{key}-{modality}-000.npy"


def run_jobs(
    jobs: Sequence[Job],
    folder: Path,
    *,
    processes: int | None = None,
    report: Callback,
) -> dict[str, Part]:
    """Do all jobs that are not done yet, in several processes where that pays.

    Parameters
    ----------
    jobs
        What to do; they are independent of each other.
    folder
        Where parts are kept.
    processes
        Default: one a CPU that this process may use, and a single one for little work.
    report
        Called with the scene, and the bytes done and in all.

    Returns
    -------
    dict
        Part by key. Of a scene that failed some parts may be missing.

    Raises
    ------
    UnknownLabelError
        A label is not in the class list.
    RunError
        A process died.
    """
    if processes is not None and processes < 1:
        raise SettingError(f"processes is {processes}: choose at least 1")
    total = sum(job.bytes for job in jobs)
    parts = {job.key: part for job in jobs if (part := read_part(folder, job.key)) is not None}
    left = [job for job in jobs if job.key not in parts]
    done = total - sum(job.bytes for job in left)
    if processes is None:
        processes = len(os.sched_getaffinity(0)) if total >= PARALLEL_BYTES else 1
    processes = min(processes, len(left))
    runner = _run_here if processes <= 1 else _run_apart
    for job, part in runner(left, folder, processes):
        done += job.bytes
        parts[job.key] = part
        report(job.scene, done, total)
    return parts


def _run_here(jobs: Sequence[Job], folder: Path, processes: int) -> Iterator[tuple[Job, Part]]:
    del processes
    failed: set[str] = set()
    for job in jobs:
        if job.scene not in failed:
            part = make_part(folder, job)
            if part.error:
                failed.add(job.scene)
            yield job, part


def _run_apart(jobs: Sequence[Job], folder: Path, processes: int) -> Iterator[tuple[Job, Part]]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_as_worker) as pool:
        waiting: dict[Future[Part], Job] = {
            pool.submit(make_part, folder, job): job for job in jobs
        }
        failed: set[str] = set()
        try:
            for future in as_completed(waiting):
                job = waiting[future]
                if future.cancelled():
                    continue
                part = future.result()
                if part.error and job.scene not in failed:
                    failed.add(job.scene)
                    for other, its_job in waiting.items():
                        if its_job.scene == job.scene:
                            other.cancel()
                yield job, part
        except BrokenProcessPool as error:
            raise RunError(
                "a process of the ingestion ended (out of memory?): run the same command again "
                "to go on, with fewer --processes"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _as_worker() -> None:
    """Leave Ctrl-C to the parent, and end when it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def make_part(folder: Path, job: Job) -> Part:
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
        return Part(job.key, error=str(error))
    finally:
        making.close()
    _write(folder, part)
    return part


class _Making:
    """A part while its pieces come in: samples go to files, the rest stays in memory."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._part = Part(key)
        self._writers: list[ShardWriter] = []
        self._columns: list[Columns] = []
        self._sums: list[list[ChipSums]] = []

    def add(self, piece: Piece) -> None:
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

    def finish(self) -> Part:
        """Finish the files; return the part."""
        for writer in self._writers:
            writer.close()
            self._part.rows = writer.rows
        if self._columns:
            self._part.columns = join_columns(self._columns)
            self._part.sums = [ChipSums.join(some) for some in zip(*self._sums, strict=True)]
        return self._part

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers:
            writer.abandon()

    def _writer(self, modality: int, array: NDArray[Any]) -> ShardWriter:
        part_file(self._folder, self._part.key, modality).unlink(missing_ok=True)
        name = f"{self._part.key}-{modality}"
        # one file a part, however large
        return ShardWriter(self._folder, name, array.shape[1:], array.dtype, 2**62)


def _write(folder: Path, part: Part) -> None:
    partial = folder / f"{part.key}.partial"
    facts = json.dumps({"left_out": part.left_out, "skipped": part.skipped, "rows": part.rows})
    arrays: dict[str, NDArray[Any]] = {
        f"column {name}": values.astype("S16") if name == "hash" else values
        for name, values in part.columns.items()
    }
    arrays |= {f"sums {i}": sums.packed() for i, sums in enumerate(part.sums)}
    with partial.open("wb") as file:
        np.savez(file, facts=np.array(facts), **arrays)  # type: ignore[arg-type]
    partial.rename(folder / f"{part.key}.npz")


def read_part(folder: Path, key: str) -> Part | None:
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
        sums = [ChipSums.unpacked(file[n]) for n in file.files if n.startswith("sums ")]
    if "hash" in columns:
        columns["hash"] = columns["hash"].astype(str).astype(object)
    skipped = [(path, reason) for path, reason in facts["skipped"]]
    return Part(key, columns, sums, facts["left_out"], skipped, rows=facts["rows"])
