"""How fast scenes become chips, and chips become batches, beside plain rasterio.

Writes a scene of 10,000 × 10,000 pixels and four bands of uint16 (smooth fields with sensor noise)
as deflated tiles, deflated strips and bare tiles, ingests each with chips of 64 px, and reads every
block of the same files once with rasterio in as many processes. Then it takes random batches from
a store of 13 × 64 × 64 uint16, and random windows from GeoTIFFs as torchgeo's samplers do.

    python -m benchmarks.ingest work/ --processes 2
    python -m benchmarks.ingest work/ --size 2000 --chips 2000        # small, to try it out
    python -m benchmarks.ingest work/ --profile                       # where the time goes
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import multiprocessing
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.windows import Window

from data_prep.ingest import chips, ingest_scenes
from data_prep.ingest.aligned import AlignedRaster
from data_prep.ingest.finish import finish_chips
from data_prep.samples import Samples
from data_prep.shards import ShardWriter
from data_prep.statistics import ChipSums
from data_prep.store import Store
from data_prep.writer import chip_hashes

BANDS = 4
CHIP_PX = 64
LOADER_SHAPE = (13, 64, 64)
FORMS: dict[str, dict[str, Any]] = {
    "tiles, deflate": {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "deflate"},
    "strips, deflate": {"blockysize": 8, "compress": "deflate"},
    "tiles, bare": {"tiled": True, "blockxsize": 512, "blockysize": 512},
}


@dataclass(frozen=True)
class Cost:
    """Wall clock, and processor time of this process and its children, in seconds."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True)
class Timing:
    """Costs of the ingestion and of plain reading, and the ingestion's peak memory in MB."""

    ingest: Cost
    read: Cost
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


def write_archive(folder: Path, size: int, form: dict[str, Any], seed: int) -> Path:
    """Write one scene and its labels; a scene that is there is kept."""
    if (folder / "done").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000)}
    shape = {"height": size, "width": size}
    predictor = {"predictor": 2} if "compress" in form else {}
    with rasterio.open(
        folder / "optical.tif",
        "w",
        driver="GTiff",
        dtype="uint16",
        count=BANDS,
        interleave="pixel",
        **shape,
        **place,
        **form,
        **predictor,
    ) as target:
        for start, rows in _fields(size, seed):
            target.write(rows, window=Window(0, start, size, rows.shape[1]))
    with rasterio.open(
        folder / "labels.tif", "w", driver="GTiff", dtype="uint8", count=1, **shape, **place, **form
    ) as target:
        for start in range(0, size, 512):
            stop = min(start + 512, size)
            row, col = np.mgrid[start:stop, :size] // 200
            target.write(
                (1 + (row * 3 + col) % 5).astype("uint8"), 1, window=((start, stop), (0, size))
            )
    (folder / "done").write_text("")
    return folder


def _fields(size: int, seed: int) -> Iterator[tuple[int, NDArray[np.uint16]]]:
    """Bands of 512 rows: reflectances in counts, smooth over 40 px, with noise of 20 counts."""
    rng = np.random.default_rng(seed)
    cells = size // 40 + 2
    coarse = rng.normal(1500, 400, (BANDS, cells, cells)).astype(np.float32)
    x = np.arange(size) / 40
    low, part = x.astype(int), (x % 1).astype(np.float32)
    for start in range(0, size, 512):
        here = slice(start, min(start + 512, size))
        down = part[here][:, None]
        rows = coarse[:, low[here]] * (1 - down) + coarse[:, low[here] + 1] * down
        rows = rows[:, :, low] * (1 - part) + rows[:, :, low + 1] * part
        rows += rng.normal(0, 20, rows.shape).astype(np.float32)
        yield start, rows.clip(1, 65_534).astype(np.uint16)


def read_blocks(job: tuple[Path, int, int]) -> int:
    """Read every block of some rows of blocks once; return the bytes."""
    path, first, stop = job
    total = 0
    with rasterio.open(path) as source:
        for (row, _), window in source.block_windows(1):
            if first <= row < stop:
                total += source.read(window=window).nbytes
    return total


def plain_reading(folder: Path, processes: int) -> None:
    """Read every block of an archive's files once, in several processes."""
    jobs = []
    for name in ("optical.tif", "labels.tif"):
        with rasterio.open(folder / name) as source:
            blocks = -(-source.height // source.block_shapes[0][0])
        edges = np.linspace(0, blocks, processes * 4 + 1).astype(int)
        jobs += [(folder / name, int(a), int(b)) for a, b in itertools.pairwise(edges)]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        list(pool.map(read_blocks, jobs))


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


def measure(folder: Path, out: Path, processes: int, repeats: int) -> Timing:
    """Time both by turns, and keep the best of each."""
    read: list[Cost] = []
    ingest: list[Cost] = []
    plain_reading(folder, processes)
    peak = 0.0
    for _ in range(repeats):
        with costing(read):
            plain_reading(folder, processes)
        shutil.rmtree(out, ignore_errors=True)
        with PeakMemory() as memory, costing(ingest):
            ingest_scenes(folder, out, chip_px=CHIP_PX, processes=processes)
        peak = max(peak, memory.mb)
    return Timing(_best(ingest), _best(read), peak)


def _best(costs: list[Cost]) -> Cost:
    return Cost(min(c.wall_s for c in costs), min(c.cpu_s for c in costs))


def write_loader_archive(folder: Path, chips: int, seed: int) -> Path:
    """Write a scene of 13 bands, deflated tiles, and its labels."""
    if (folder / "done").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    across = int(np.ceil(np.sqrt(chips)))
    size = across * 64
    rng = np.random.default_rng(seed)
    place = {"crs": "EPSG:32633", "transform": Affine(10, 0, 500_000, 0, -10, 5_000_000)}
    form = FORMS["tiles, deflate"] | {"height": size, "width": size} | place
    with rasterio.open(
        folder / "optical.tif", "w", driver="GTiff", dtype="uint16", count=13, **form
    ) as target:
        for start in range(0, size, 512):
            rows = min(512, size - start)
            values = rng.integers(1000, 1256, (13, rows, size), dtype=np.uint16)
            target.write(values, window=Window(0, start, size, rows))
    with rasterio.open(
        folder / "labels.tif", "w", driver="GTiff", dtype="uint8", count=1, **form
    ) as target:
        target.write(1 + np.add.outer(np.arange(size), np.arange(size)).astype("uint8") // 64, 1)
    (folder / "done").write_text("")
    return folder


def batches_per_second(store: Store, batch: int, seed: int) -> float:
    """Chips a second of one core's time, in random batches; the page cache is warm."""
    samples = Samples(store, np.arange(len(store)), np.zeros(len(store), np.int64))
    order = np.random.default_rng(seed).permutation(len(store))
    best = 0.0
    for _ in range(4):
        begin = time.process_time()
        for start in range(0, len(order), batch):
            samples.__getitems__(order[start : start + batch].tolist())
        best = max(best, len(order) / (time.process_time() - begin))
    return best


def copies_per_second(batch: int, seed: int, chips: int = 2000) -> float:
    """Chips a second of one core's time, copied at random within memory: what cannot be beaten."""
    source = np.ones((chips, *LOADER_SHAPE), np.uint16)
    out = np.empty((batch, *LOADER_SHAPE), np.uint16)
    order = np.random.default_rng(seed).permutation(chips // batch * batch).reshape(-1, batch)
    best = 0.0
    for _ in range(4):
        begin = time.process_time()
        for rows in order:
            np.take(source, rows, axis=0, out=out, mode="clip")
        best = max(best, order.size / (time.process_time() - begin))
    return best


def windows_per_second(path: Path, seed: int, count: int = 400) -> float:
    """Windows a second of one core's time, at random places of a GeoTIFF that is kept open."""
    rng = np.random.default_rng(seed)
    with rasterio.open(path) as source:
        places = rng.integers(0, source.height - 64, (count, 2))
        begin = time.process_time()
        for row, col in places.tolist():
            source.read(window=Window(col, row, 64, 64))
        return count / (time.process_time() - begin)


def main() -> None:
    """Run all measurements and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("work", type=Path, help="folder for scenes and stores; kept for reuse")
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--chips", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loader-only", action="store_true", help="leave the scenes out")
    parser.add_argument("--profile", action="store_true", help="profile, and nothing else")
    args = parser.parse_args()
    if args.profile:
        profile_ingestion(args)
        return
    if not args.loader_only:
        compare_ingestion(args)
    compare_loading(args)


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
    """Print the table of the scene's forms."""
    size_gb = args.size**2 * BANDS * 2 / 1e9
    print(f"{args.size}×{args.size}×{BANDS} uint16, {size_gb:.2f} GB, {args.processes} processes")
    print("| form | reading, s (CPU s) | ingestion, s (CPU s) | reading / ingestion | peak, MB |")
    print("|---|---|---|---|---|")
    for name, form in FORMS.items():
        folder = write_archive(args.work / name.replace(", ", "-"), args.size, form, args.seed)
        took = measure(folder, args.work / "store", args.processes, args.repeats)
        read, ingest = took.read, took.ingest
        wall, cpu = read.wall_s / ingest.wall_s, read.cpu_s / ingest.cpu_s
        print(
            f"| {name} | {read.wall_s:.1f} ({read.cpu_s:.1f}) | {ingest.wall_s:.1f} "
            f"({ingest.cpu_s:.1f}) | {wall:.2f} ({cpu:.2f}) | {took.peak_mb:.0f} |",
            flush=True,
        )


def compare_loading(args: argparse.Namespace) -> None:
    """Print the rates of random batches, and of random windows."""
    folder = write_loader_archive(args.work / "loader", args.chips, args.seed)
    if not (args.work / "loader-store").is_dir():
        ingest_scenes(folder, args.work / "loader-store", chip_px=64, processes=args.processes)
    store = Store.open(args.work / "loader-store")
    for batch in (32, 256):
        rate = batches_per_second(store, batch, args.seed)
        copies = copies_per_second(batch, args.seed)
        print(
            f"store, batches of {batch}, {LOADER_SHAPE} uint16: {rate:,.0f} chips/CPU s "
            f"(copies within memory: {copies:,.0f})"
        )
    rate = windows_per_second(folder / "optical.tif", args.seed)
    print(f"windows of the GeoTIFF (tiles, deflate): {rate:,.0f} chips/CPU s")


if __name__ == "__main__":
    main()
