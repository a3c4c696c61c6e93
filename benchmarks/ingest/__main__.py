"""Speed at which scenes become chips, and chips become batches, compared with plain rasterio.

Writes a scene of 10,000 × 10,000 pixels and four bands of uint16 (smooth, with sensor noise) as
deflated tiles, deflated strips and bare tiles. Ingests each with chips of 64 px. Compares that with
reading every block of the same files once in as many processes, and with also writing every pixel
to a file. Then compares random batches of 13 × 64 × 64 uint16 from a store with random windows of a
GeoTIFF, as torchgeo's samplers read them.

    python -m benchmarks.ingest work/ --processes 2
    python -m benchmarks.ingest work/ --size 2000 --chips 2000        # small, to try it
    python -m benchmarks.ingest work/ --profile                       # where the time goes
"""

# This is a package's __main__ because processes that multiprocessing spawns import a main module
# of any other name: each would wait for all imports below, which none of them needs.

from __future__ import annotations

import argparse
import cProfile
import math
import multiprocessing
import resource
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rasterio
from rasterio.windows import Window

from benchmarks.archives import FORMS, noise_rows, smooth_rows, write_scene
from benchmarks.ingest.plain_reading import plain_reading
from data_prep.dataset import Samples
from data_prep.ingest import chips
from data_prep.ingest.aligned import AlignedRaster
from data_prep.ingest.finalize import finish_chips
from data_prep.ingest.scenes import ingest_scenes
from data_prep.shards import ShardWriter
from data_prep.statistics import ChipSums
from data_prep.store import Store
from data_prep.store_writer import chip_hashes

BANDS, BATCH_BANDS, CHIP_PX = 4, 13, 64
PASSES = 4
STEPS = {
    "all": ingest_scenes.__code__,
    "reading": AlignedRaster.read.__code__,
    "writing": ShardWriter.append.__code__,
    "statistics": ChipSums.of.__code__,
    "windows": chips._windows.__code__,  # noqa: SLF001
    "hashes of the chips": chip_hashes.__code__,
    "majority labels": chips.majority_codes.__code__,
    "split and records": finish_chips.__code__,
}
"""Steps of an ingestion, and the function that does each."""


@dataclass(frozen=True)
class Cost:
    """Wall clock, and processor time of this process and its children, in seconds."""

    wall_s: float
    cpu_s: float


@contextmanager
def add_cost(costs: list[Cost]) -> Iterator[None]:
    """Measure a block and add its cost to a list."""
    wall, cpu = time.perf_counter(), _cpu_s()
    yield
    costs.append(Cost(time.perf_counter() - wall, _cpu_s() - cpu))


def _cpu_s() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


@contextmanager
def add_peak_memory(peaks_mb: list[float]) -> Iterator[None]:
    """Sample the memory of this process and its children in a block; add the peak to a list."""
    samples, stop = [0.0], threading.Event()

    def sample() -> None:
        while not stop.wait(0.1):
            children = [process.pid for process in multiprocessing.active_children()]
            samples.append(sum(_anonymous_mb(pid) for pid in [None, *children]))

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    yield
    stop.set()
    sampler.join()
    peaks_mb.append(max(samples))


def _anonymous_mb(pid: int | None) -> float:
    # Without the pages of mapped files: they are the page cache, which the system can take back.
    with suppress(psutil.Error):  # the process may have ended
        memory = psutil.Process(pid).memory_info()
        return float(memory.rss - memory.shared) / 2**20
    return 0.0


def _scene(form: str, args: argparse.Namespace) -> Path:
    options: dict[str, Any] = {"interleave": "pixel"}
    if "compress" in FORMS[form]:
        options["predictor"] = 2
    folder, pixels = args.work / form.replace(", ", "-"), smooth_rows(args.size, BANDS, args.seed)
    return write_scene(folder, args.size, pixels, FORMS[form], bands=BANDS, label_px=200, **options)


def compare_ingestion(args: argparse.Namespace) -> None:
    """Print the table of the scene's forms: wall clock, and processor time in parentheses."""
    size_gb = args.size**2 * BANDS * 2 / 1e9
    print(f"{args.size}×{args.size}×{BANDS} uint16, {size_gb:.2f} GB, {args.processes} processes")
    print("| form | reading, s | and writing, s | ingestion, s | reading / ingestion | peak, MB |")
    print("|---|---|---|---|---|---|")
    copies, store = args.work / "copies", args.work / "store"
    for form in FORMS:
        folder = _scene(form, args)
        for leftover in (copies, store):
            shutil.rmtree(leftover, ignore_errors=True)
        plain_reading(folder, args.processes)  # warms the page cache
        costs: list[list[Cost]] = [[], [], []]
        reading, writing, ingestion = costs
        peaks_mb: list[float] = []
        # In alternation: a slow minute of a shared machine then hits all three.
        for _ in range(args.repeats):
            with add_cost(reading):
                plain_reading(folder, args.processes)
            copies.mkdir(exist_ok=True)
            with add_cost(writing):
                plain_reading(folder, args.processes, copies)
            shutil.rmtree(copies)
            with add_peak_memory(peaks_mb), add_cost(ingestion):
                ingest_scenes(folder, store, chip_px=CHIP_PX, processes=args.processes)
            shutil.rmtree(store)
        best = [Cost(min(c.wall_s for c in run), min(c.cpu_s for c in run)) for run in costs]
        seconds = " | ".join(f"{cost.wall_s:.2f} ({cost.cpu_s:.2f})" for cost in best)
        wall, cpu = best[0].wall_s / best[2].wall_s, best[0].cpu_s / best[2].cpu_s
        print(f"| {form} | {seconds} | {wall:.2f} ({cpu:.2f}) | {max(peaks_mb):.0f} |", flush=True)


def profile_ingestion(args: argparse.Namespace) -> None:
    """Print processor seconds of the steps, in one process."""
    for form in FORMS:
        folder = _scene(form, args)
        shutil.rmtree(args.work / "store", ignore_errors=True)
        profile = cProfile.Profile(time.process_time)
        profile.enable()
        ingest_scenes(folder, args.work / "store", chip_px=CHIP_PX, processes=1)
        profile.disable()
        totals = {
            step: sum(entry.totaltime for entry in profile.getstats() if entry.code is code)
            for step, code in STEPS.items()
        }
        print(f"{form}: {', '.join(f'{step} {s:.2f} s' for step, s in totals.items())}", flush=True)


def best_rate(chips: int, run: Callable[[], object]) -> float:
    """Return chips per second of one core's time, the best of several passes."""
    seconds = []
    for _ in range(PASSES):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return chips / min(seconds)


def store_rate(store: Store, batch: int, seed: int) -> float:
    """Chips per second of one core's time in random batches; the page cache is warm."""
    samples = Samples(store, np.arange(len(store)), np.zeros(len(store), np.int64))
    order = np.random.default_rng(seed).permutation(len(store))

    def run() -> None:
        for start in range(0, len(order), batch):
            samples.__getitems__(order[start : start + batch].tolist())

    return best_rate(len(order), run)


def memory_rate(batch: int, seed: int, chips: int = 2000) -> float:
    """Chips per second of one core's time copied at random within memory: the upper limit."""
    source = np.ones((chips, BATCH_BANDS, CHIP_PX, CHIP_PX), np.uint16)
    out = np.empty((batch, *source.shape[1:]), np.uint16)
    order = np.random.default_rng(seed).permutation(chips // batch * batch).reshape(-1, batch)

    def run() -> None:
        for positions in order:
            np.take(source, positions, axis=0, out=out, mode="clip")

    return best_rate(order.size, run)


def window_rate(path: Path, seed: int, count: int = 400) -> float:
    """Windows per second of one core's time, at random positions of an open GeoTIFF."""
    rng = np.random.default_rng(seed)
    with rasterio.open(path) as source:
        corners = rng.integers(0, source.height - CHIP_PX, (count, 2)).tolist()
        start = time.process_time()
        for row, column in corners:
            source.read(window=Window(column, row, CHIP_PX, CHIP_PX))
        return count / (time.process_time() - start)


def compare_batches(args: argparse.Namespace) -> None:
    """Print the rates of random batches and of random windows."""
    form, size = "tiles, deflate", math.ceil(math.sqrt(args.chips)) * CHIP_PX
    folder, target = args.work / "loader", args.work / "loader-store"
    pixels = noise_rows(size, BATCH_BANDS, args.seed)
    write_scene(folder, size, pixels, FORMS[form], bands=BATCH_BANDS, label_px=CHIP_PX)
    if not target.is_dir():
        ingest_scenes(folder, target, chip_px=CHIP_PX, processes=args.processes)
    store = Store.open(target)
    for batch in (32, 256):
        print(
            f"store, batches of {batch}, {BATCH_BANDS} × {CHIP_PX} × {CHIP_PX} uint16: "
            f"{store_rate(store, batch, args.seed):,.0f} chips/CPU s "
            f"(copies within memory: {memory_rate(batch, args.seed):,.0f})"
        )
    rate = window_rate(folder / "optical.tif", args.seed)
    print(f"windows of the GeoTIFF ({form}): {rate:,.0f} chips/CPU s")


def main() -> None:
    """Run all measurements and print the tables."""
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
    compare_batches(args)


if __name__ == "__main__":
    main()
