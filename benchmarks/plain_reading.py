"""Every block of some rasters read once with rasterio in several processes, beside ingestion.

Nothing but NumPy and rasterio is imported here, so that the processes start as fast as they can.
"""

from __future__ import annotations

import itertools
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import rasterio

NAMES = ("optical.tif", "labels.tif")


def read_blocks(job: tuple[Path, int, int, Path | None]) -> int:
    """Read every block of some rows of blocks once, and write them if that is asked for."""
    path, first, stop, copy = job
    total = 0
    with rasterio.open(path) as source, open(copy or "/dev/null", "wb", buffering=0) as target:
        for (row, _), window in source.block_windows(1):
            if first <= row < stop:
                values = source.read(window=window)
                total += values.nbytes
                if copy is not None:
                    target.write(values.data)
    return total


def plain_reading(folder: Path, processes: int, copies: Path | None = None) -> None:
    """Read every block of an archive's files once, in several processes.

    With ``copies``, a folder, the pixels are also written there as they are read: an ingestion
    cannot do less.
    """
    jobs = []
    for name in NAMES:
        with rasterio.open(folder / name) as source:
            blocks = -(-source.height // source.block_shapes[0][0])
        edges = np.linspace(0, blocks, processes * 4 + 1).astype(int).tolist()
        for first, stop in itertools.pairwise(edges):
            copy = None if copies is None else copies / f"{name}-{first}"
            jobs.append((folder / name, first, stop, copy))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        list(pool.map(read_blocks, jobs))
