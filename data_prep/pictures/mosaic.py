"""Pixels of a store, ready to be shown: a scene put together from its chips, and single chips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from data_prep.pictures.band_choice import picture_bands, picture_modality
from data_prep.pictures.images import stretch
from data_prep.pictures.scene_grid import SceneGrid
from data_prep.store import Store

#: Longest side of a mosaic: twice what a page shows, so that bringing it down averages pixels.
MAX_PX = 1400
#: Longest side of a single chip's picture.
THUMB_PX = 96
# Chips read at a time: enough for fast reads, few enough to keep memory small.
_BATCH = 256


def mosaic(store: Store, grid: SceneGrid, modality: int) -> NDArray[np.float32]:
    """Put one modality of a scene together from its samples.

    The mosaic, [H, W, 3], covers the ground of the grid and has at most :data:`MAX_PX` a side. It
    is NaN where there is no sample or no data.
    """
    # A pixel sample's patch is its neighborhood; on the map it stands for its middle pixel alone.
    pixels = store.meta.kind == "pixels"
    chip_px = 1 if pixels else store.chip_px
    extent = [side * grid.cell_px for side in grid.shape]
    step = -(-max(extent) // MAX_PX)
    if not pixels:
        # The step divides the chip, or the seams between chips would jitter.
        step = next(d for d in range(min(step, chip_px), chip_px + 1) if chip_px % d == 0)
    side = max(1, chip_px // step)
    # Where chips overlap, a cell shows the middle of its chip.
    margin = max(0, chip_px - grid.sample_px) // 2 // step
    shape = [length // step for length in extent]
    canvas = np.full((*(length + 2 * margin + side for length in shape), 3), np.nan, np.float32)
    inside = np.arange(side)
    for start in range(0, len(grid.samples), _BATCH):
        batch = slice(start, start + _BATCH)
        values = _three_bands(store, grid.samples[batch], modality)
        if pixels:
            middle = values.shape[1] // 2
            values = values[:, middle : middle + 1, middle : middle + 1]
        rows = (grid.top[batch] // step)[:, None, None] + inside[:, None]
        cols = (grid.left[batch] // step)[:, None, None] + inside[None, :]
        canvas[rows, cols] = _thinned(values, side)
    return canvas[margin : margin + max(1, shape[0]), margin : margin + max(1, shape[1])]


def chip_pictures(store: Store, chips: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return RGBA pictures of single chips, [n, H, W, 4], transparent where there is no data.

    8-bit imagery is shown as it is; any other is stretched by the same limits for all chips, so
    that they can be compared.
    """
    modality = picture_modality(store.meta.modalities)
    meta = store.meta.modalities[modality]
    batches = [
        _averaged(_three_bands(store, chips[start : start + _BATCH], modality))
        for start in range(0, len(chips), _BATCH)
    ]
    limits = (0.0, 255.0) if meta.dtype == "uint8" else None
    return stretch(np.concatenate(batches), limits)


def _three_bands(store: Store, chips: NDArray[np.int64], modality: int) -> NDArray[np.float32]:
    """Return the bands of a picture of chips, float32 [n, h, w, 3]; nodata becomes NaN."""
    samples = store.take(chips)
    values, valid = samples[modality], store.valid(chips, samples)[modality]
    bands = list(picture_bands(store.meta.modalities[modality].bands))
    pixels = np.where(valid[:, bands], values[:, bands], np.nan)
    return pixels.transpose(0, 2, 3, 1).astype(np.float32)


def _averaged(chips: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average blocks of pixels, so that many large chips [n, s, s, 3] fit into memory at once."""
    count, side = chips.shape[:2]
    block = max(1, side // THUMB_PX)
    cut = side // block * block
    blocks = chips[:, :cut, :cut].reshape(count, cut // block, block, cut // block, block, 3)
    averages: NDArray[np.float32] = blocks.mean(axis=(2, 4))
    return averages


def _thinned(values: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Pick pixels of chips [n, s, s, 3] so that they have ``side`` of them, repeating coarse ones.

    Chips of a coarser modality have fewer pixels than those of the scene's grid.
    """
    positions = ((np.arange(side) + 0.5) * values.shape[1] / side).astype(np.int64)
    return values[:, positions[:, None], positions]
