"""How fast chips become batches: from a store, within memory, and as windows of a GeoTIFF."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from benchmarks.archives import LOADER_SHAPE, write_loader_archive
from data_prep.dataset import Samples
from data_prep.ingest import ingest_scenes
from data_prep.store import Store


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
