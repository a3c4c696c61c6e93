"""Read every block of some rasters once, with rasterio in several processes.

This module imports only NumPy and rasterio, so that its processes start as fast as they can.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import rasterio

NAMES = ("optical.tif", "labels.tif")


def read_blocks(raster: Path, first: int, stop: int, copy: Path | None) -> None:
    """Read the blocks of some rows of blocks, and write them to a file if one is given."""
    with rasterio.open(raster) as source, open(copy or os.devnull, "wb", buffering=0) as target:
        for (row, _), window in source.block_windows(1):
            if first <= row < stop:
                values = source.read(window=window)
                if copy is not None:
                    target.write(values.data)


def plain_reading(folder: Path, processes: int, copies: Path | None = None) -> None:
    """Read every block of an archive's files once, in several processes.

    If ``copies`` is a folder, the pixels are also written there: the least that an ingestion must
    do.
    """
    # Not fork: a child must pay for its own imports, as a process of the ingestion does.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        jobs = []
        for name in NAMES:
            with rasterio.open(folder / name) as source:
                rows = -(-source.height // source.block_shapes[0][0])
            # Four jobs per process, so that none waits long for the last one.
            edges = np.linspace(0, rows, processes * 4 + 1).astype(int).tolist()
            for first, stop in itertools.pairwise(edges):
                copy = None if copies is None else copies / f"{name}-{first}"
                jobs.append(pool.submit(read_blocks, folder / name, first, stop, copy))
        for job in jobs:
            job.result()
