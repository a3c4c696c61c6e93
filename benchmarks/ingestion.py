"""How fast scenes become chips, beside plain reading, and where the time goes."""

from __future__ import annotations

import argparse
import cProfile
import multiprocessing
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.archives import BANDS, FORMS, write_archive
from benchmarks.plain_reading import plain_reading
from data_prep.ingest import chips, ingest_scenes
from data_prep.ingest.aligned import AlignedRaster
from data_prep.ingest.finalize import finish_chips
from data_prep.shards import ShardWriter
from data_prep.statistics import ChipSums
from data_prep.store_writer import chip_hashes

CHIP_PX = 64


@dataclass(frozen=True)
class Cost:
    """Wall clock, and processor time of this process and its children, in seconds."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Timing:
    """Costs of plain reading, of reading and writing, of ingestion, and its peak memory in MB."""

    read: Cost
    copy: Cost
    ingest: Cost
    peak_mb: float


@contextmanager
def costing(into: list[Cost]) -> Iterator[None]:
    """Measure what is inside."""
    wall, cpu = time.perf_counter(), _cpu_s()
    yield
    into.append(Cost(time.perf_counter() - wall, _cpu_s() - cpu))


def _cpu_s() -> float:
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usages = [resource.getrusage(who) for who in both]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class PeakMemory:
    """Greatest proportional memory of this process and its children, sampled, in MB."""

    def __init__(self) -> None:
        self.mb = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            children = [process.pid for process in multiprocessing.active_children()]
            self.mb = max(self.mb, sum(_private_mb(pid) for pid in ["self", *children]))


def _private_mb(pid: int | str | None) -> float:
    """Memory that a process takes on its own: page cache of mapped files is not counted."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def measure(folder: Path, work: Path, processes: int, repeats: int) -> Timing:
    """Time all by turns, and keep the best of each."""
    costs: dict[str, list[Cost]] = {"read": [], "copy": [], "ingest": []}
    copies, store = work / "copies", work / "store"
    for left in (copies, store):
        shutil.rmtree(left, ignore_errors=True)
    plain_reading(folder, processes)
    peak = 0.0
    for _ in range(repeats):
        with costing(costs["read"]):
            plain_reading(folder, processes)
        copies.mkdir(exist_ok=True)
        with costing(costs["copy"]):
            plain_reading(folder, processes, copies)
        shutil.rmtree(copies)
        with PeakMemory() as memory, costing(costs["ingest"]):
            ingest_scenes(folder, store, chip_px=CHIP_PX, processes=processes)
        shutil.rmtree(store)
        peak = max(peak, memory.mb)
    return Timing(**{name: _best(some) for name, some in costs.items()}, peak_mb=peak)


def _best(costs: list[Cost]) -> Cost:
    return Cost(min(c.wall_s for c in costs), min(c.cpu_s for c in costs))


STEPS = {
    "all": [ingest_scenes.__code__],
    "reading": [AlignedRaster.read.__code__],
    "writing": [ShardWriter.append.__code__],
    "statistics": [ChipSums.of.__code__],
    "windows": [chips._windows.__code__],  # noqa: SLF001
    "hashes of the chips": [chip_hashes.__code__],
    "majority labels": [chips.majority_codes.__code__],
    "split and records": [finish_chips.__code__],
}
"""Steps of an ingestion, and the functions that do them."""


def profile_ingestion(args: argparse.Namespace) -> None:
    """Print processor seconds of the steps, in one process; source files are hashed beside it."""
    for name, form in FORMS.items():
        folder = write_archive(args.work / name.replace(", ", "-"), args.size, form, args.seed)
        shutil.rmtree(args.work / "store", ignore_errors=True)
        profile = cProfile.Profile(time.process_time)
        profile.enable()
        ingest_scenes(folder, args.work / "store", chip_px=CHIP_PX, processes=1)
        profile.disable()
        found = {
            step: sum(entry.totaltime for entry in profile.getstats() if entry.code in codes)
            for step, codes in STEPS.items()
        }
        steps = ", ".join(f"{step} {took:.2f} s" for step, took in found.items())
        print(f"{name}: {steps}", flush=True)


def compare_ingestion(args: argparse.Namespace) -> None:
    """Print the table of the scene's forms: wall clock, and processor time in parentheses."""
    size_gb = args.size**2 * BANDS * 2 / 1e9
    print(f"{args.size}×{args.size}×{BANDS} uint16, {size_gb:.2f} GB, {args.processes} processes")
    print("| form | reading, s | and writing, s | ingestion, s | reading / ingestion | peak, MB |")
    print("|---|---|---|---|---|---|")
    for name, form in FORMS.items():
        folder = write_archive(args.work / name.replace(", ", "-"), args.size, form, args.seed)
        took = measure(folder, args.work, args.processes, args.repeats)
        read, copy, ingest = took.read, took.copy, took.ingest
        seconds = " | ".join(f"{c.wall_s:.2f} ({c.cpu_s:.2f})" for c in (read, copy, ingest))
        wall, cpu = read.wall_s / ingest.wall_s, read.cpu_s / ingest.cpu_s
        print(f"| {name} | {seconds} | {wall:.2f} ({cpu:.2f}) | {took.peak_mb:.0f} |", flush=True)
