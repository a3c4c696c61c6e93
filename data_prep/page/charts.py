"""Small charts as SVG, and pictures as data URIs."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from data_prep.statistics import valid_mask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from data_prep.store import Store

#: Colors of classes and of sites: distinct also next to each other, and repeated if need be.
COLORS = (
    "#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#9c755f", "#76b7b2", "#edc948",
    "#ff9da7", "#86bc86", "#a0cbe8", "#d37295", "#8cd17d", "#b6992d", "#499894", "#79706e",
    "#ffbe7d", "#d4a6c8", "#f1ce63", "#bab0ac",
)  # fmt: skip
SPLIT_COLORS = {"train": "#4e79a7", "val": "#edc948", "test": "#e15759", "buffer": "#9a9a9a"}
#: Train chips whose pixels make the histograms, and the bars of one.
SAMPLED = 400
BINS = 48
EXAMPLES = 8
EXAMPLE_PX = 72


def color_of(number: int) -> str:
    """Color of a class or site."""
    return COLORS[number % len(COLORS)]


def as_png(pixels: NDArray[np.uint8]) -> str:
    """Return an image [H, W, 3 or 4] as a data URI."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def histograms(store: Store, train: NDArray[np.int64], seed: int = 0) -> list[list[str]]:
    """Histograms of the valid values of each band, as SVG, by modality.

    They are of some train samples; the axis goes from the 0.5th to the 99.5th percentile.
    """
    chosen = train
    if len(train) > SAMPLED:
        chosen = np.sort(np.random.default_rng(seed).choice(train, SAMPLED, replace=False))
    arrays = store.take(chosen)
    charts = []
    for values, meta in zip(arrays, store.meta.modalities, strict=True):
        valid = valid_mask(values, meta.nodata)
        charts.append([_bars(values[:, i][valid[:, i]]) for i in range(min(values.shape[1], 60))])
    return charts


def _bars(values: NDArray[Any]) -> str:
    width, height = 144, 30
    if not len(values):
        return ""
    low, high = np.percentile(values, [0.5, 99.5])
    edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
    counts = np.histogram(values, edges)[0]
    tall = counts / max(1, counts.max()) * height
    step = width / BINS
    path = "".join(
        f"M{i * step:.1f} {height}v{-h:.1f}h{step:.1f}v{h:.1f}z" for i, h in enumerate(tall) if h
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="from {low:.4g} to {high:.4g}"><path d="{path}" fill="currentColor"/></svg>'
    )


def example_sheet(store: Store, samples: Sequence[int], modality: int, bands: Sequence[int]) -> str:
    """Put examples side by side, stretched by the statistics of their bands; a data URI."""
    meta = store.meta.modalities[modality]
    values = store.take(list(samples))[modality][:, list(bands)].astype(np.float32)
    if meta.nodata is not None:
        values[values == np.float32(meta.nodata)] = np.nan
    mean, std = (np.array(some)[list(bands), None, None] for some in (meta.mean, meta.std))
    tiles = []
    for chip in values:
        scaled = (np.nan_to_num((chip - mean) / np.maximum(std, 1e-9), nan=-2.0) + 2) / 4.5
        image = (scaled.clip(0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
        image = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
        sharp = Image.Resampling.NEAREST if image.shape[0] < EXAMPLE_PX else Image.Resampling.BOX
        tiles.append(np.asarray(Image.fromarray(image).resize((EXAMPLE_PX, EXAMPLE_PX), sharp)))
    gap = np.full((EXAMPLE_PX, 4, 3), 255, np.uint8)
    strip = [part for tile in tiles for part in (tile, gap)][:-1]
    return as_png(np.concatenate(strip, axis=1))
