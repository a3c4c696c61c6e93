"""Speed of random batches: from a store, within memory, and as windows of a GeoTIFF."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from benchmarks.archives import FORMS, noise_rows, write_scene
from data_prep.dataset import Samples
from data_prep.ingest.scenes import ingest_scenes
from data_prep.store import Store

BANDS, CHIP_PX = 13, 64
PASSES = 4


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
    source = np.ones((chips, BANDS, CHIP_PX, CHIP_PX), np.uint16)
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
    pixels = noise_rows(size, BANDS, args.seed)
    folder = write_scene(
        args.work / "loader", size, pixels, FORMS[form], bands=BANDS, label_px=CHIP_PX
    )
    if not (args.work / "loader-store").is_dir():
        ingest_scenes(folder, args.work / "loader-store", chip_px=CHIP_PX, processes=args.processes)
    store = Store.open(args.work / "loader-store")
    for batch in (32, 256):
        print(
            f"store, batches of {batch}, {BANDS} × {CHIP_PX} × {CHIP_PX} uint16: "
            f"{store_rate(store, batch, args.seed):,.0f} chips/CPU s "
            f"(copies within memory: {memory_rate(batch, args.seed):,.0f})"
        )
    rate = window_rate(folder / "optical.tif", args.seed)
    print(f"windows of the GeoTIFF ({form}): {rate:,.0f} chips/CPU s")
