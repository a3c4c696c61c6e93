"""Pictures of a scene: its layers put together from the samples, and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.manifest import column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from data_prep.schema import ModalityMeta
    from data_prep.store import Store

#: Longest side of a picture.
CANVAS_PX = 900
#: Chips that are read at once.
BATCH = 256
#: Names of bands that make a picture, by how likely they are true or familiar colors.
FAMILIAR = (
    ("red", "green", "blue"),
    ("B04", "B03", "B02"),
    ("b4", "b3", "b2"),
    ("B4", "B3", "B2"),
)


@dataclass(frozen=True)
class SceneMap:
    """Where the samples of a scene lie on its picture.

    Attributes
    ----------
    name
        Of the scene.
    samples : int64 [n]
        Rows of the manifest.
    rows, cols : int64 [n]
        Top left of each sample on the picture, in its pixels.
    side
        Pixels of the picture that stand for a sample.
    shape
        Height and width of the picture.
    step
        Pixels of the scene to one of the picture.
    """

    name: str
    samples: NDArray[np.int64]
    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    side: int
    shape: tuple[int, int]
    step: int


def scene_maps(store: Store, most: int) -> list[SceneMap]:
    """Lay out the scenes with most samples; none for single images."""
    if not store.meta.scenes:
        return []
    names = column(store.manifest, "scene")
    rows, cols = (column(store.manifest, n).astype(np.int64) for n in ("row", "col"))
    pixels = store.meta.kind == "pixels"
    chip = 1 if pixels else store.meta.chip_px
    maps = []
    for scene in store.meta.scenes:
        here = np.flatnonzero(names == scene.name)
        if not len(here):
            continue
        step = -(-max(scene.height, scene.width) // CANVAS_PX)
        if not pixels:
            step = _divisor(chip, step)
        side = max(1, chip // step)
        height = max(-(-scene.height // step), int(rows[here].max()) // step + side)
        width = max(-(-scene.width // step), int(cols[here].max()) // step + side)
        maps.append(
            SceneMap(
                scene.name,
                here,
                rows[here] // step,
                cols[here] // step,
                side,
                (height, width),
                step,
            )
        )
    return sorted(maps, key=lambda scene: -len(scene.samples))[:most]


def _divisor(chip: int, wanted: int) -> int:
    """Least divisor of a chip's side that is at least as large as wanted; else the side itself."""
    return next(d for d in range(1, chip + 1) if chip % d == 0 and (d >= wanted or d == chip))


def picture_bands(bands: Sequence[str]) -> list[int]:
    """Bands of a picture: red, green and blue where their names tell, else the first ones."""
    for names in FAMILIAR:
        if all(name in bands for name in names):
            return [list(bands).index(name) for name in names]
    if len(bands) > 20:
        # of a spectrum: a third from the red end, the middle, and the blue end
        return [len(bands) // 4, len(bands) // 8, len(bands) // 16]
    return [0, 1, 2] if len(bands) >= 3 else [0]


def mosaic(store: Store, scene: SceneMap, modality: int) -> NDArray[np.float32]:
    """Put a layer of a scene together.

    Returns
    -------
    float32 [H, W, 1 or 3]
        NaN where there is no sample or no data.
    """
    meta = store.meta.modalities[modality]
    bands = picture_bands(meta.bands)
    canvas = np.full((*scene.shape, len(bands)), np.nan, np.float32)
    inside = np.arange(scene.side)
    for start in range(0, len(scene.samples), BATCH):
        some = slice(start, start + BATCH)
        values = store.take(scene.samples[some])[modality][:, bands]
        if store.meta.kind == "pixels":
            middle = values.shape[2] // 2
            chips = values[:, :, middle : middle + 1, middle : middle + 1]
        else:
            chips = _thinned(values, scene.side)
        down = scene.rows[some, None, None] + inside[:, None]
        across = scene.cols[some, None, None] + inside[None, :]
        canvas[down, across] = _clean(chips, meta).transpose(0, 2, 3, 1)
    return canvas


def _thinned(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Pick pixels of (n, C, s, s) so that chips have the wished side; coarse ones are repeated."""
    places = (np.arange(side) + 0.5) * values.shape[2] / side
    picked = places.astype(np.int64)
    return values[:, :, picked[:, None], picked]


def _clean(values: NDArray[Any], meta: ModalityMeta) -> NDArray[np.float32]:
    out = values.astype(np.float32)
    if meta.nodata is not None:
        out[values == values.dtype.type(meta.nodata)] = np.nan
    out[~np.isfinite(out)] = np.nan
    return out


def stretch(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Bring values [H, W, 1 or 3] to bytes [H, W, 4], 2 to 98 % of each band; NaN is clear."""
    out = np.zeros((*values.shape[:2], 4), np.uint8)
    known = np.isfinite(values).all(axis=-1)
    for i in range(values.shape[2]):
        band = values[..., i]
        low, high = np.percentile(band[known], [2, 98]) if known.any() else (0.0, 1.0)
        scaled = (band - low) / max(float(high - low), 1e-9)
        out[..., i] = np.where(known, scaled.clip(0, 1) * 255, 0).astype(np.uint8)
    if values.shape[2] == 1:
        out[..., 1] = out[..., 2] = out[..., 0]
    out[..., 3] = known * 255
    return out


def paint(
    scene: SceneMap, codes: NDArray[np.int64], colors: Sequence[str], opacity: int
) -> NDArray[np.uint8]:
    """Fill each sample with the color of its code, bytes [H, W, 4]; codes below 0 are clear."""
    table = np.array([[*_rgb(color), opacity] for color in colors], np.uint8)
    canvas = np.zeros((*scene.shape, 4), np.uint8)
    inside = np.arange(scene.side)
    shown = codes >= 0
    down = scene.rows[shown, None, None] + inside[:, None]
    across = scene.cols[shown, None, None] + inside[None, :]
    canvas[down, across] = table[codes[shown]][:, None, None]
    return canvas


def outline(scene: SceneMap, units: NDArray[Any]) -> NDArray[np.uint8]:
    """Draw a line wherever the unit (block, field) changes, bytes [H, W, 4]."""
    number = np.unique(units.astype(str), return_inverse=True)[1].astype(np.int64)
    laid = np.full(scene.shape, -1, np.int64)
    inside = np.arange(scene.side)
    down = scene.rows[:, None, None] + inside[:, None]
    laid[down, scene.cols[:, None, None] + inside[None, :]] = number[:, None, None]
    edge = np.zeros(scene.shape, np.bool_)
    edge[1:] |= laid[1:] != laid[:-1]
    edge[:, 1:] |= laid[:, 1:] != laid[:, :-1]
    canvas = np.zeros((*scene.shape, 4), np.uint8)
    canvas[edge] = (0, 0, 0, 200)
    return canvas


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)
