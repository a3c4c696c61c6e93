"""Where samples lie: the manifest's columns of scene and place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from data_prep.manifest import Columns, texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_prep.ingest.grid import Grid
    from data_prep.ingest.scene import Scene


def place_columns(
    scene: Scene, grid: Grid, rows: NDArray[np.int64], cols: NDArray[np.int64], side: int
) -> Columns:
    """Where windows of `side` pixels lie; ``x`` and ``y`` are their centers, NaN without a CRS."""
    boxes = grid.boxes(rows, cols, side)
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    if grid.crs is None:
        centers = np.full_like(centers, np.nan)
    count = len(rows)
    return {
        "scene": texts(scene.name, count),
        "folder": texts(scene.folder, count),
        "date": texts(scene.date, count),
        "row": rows,
        "col": cols,
        "x": centers[:, 0],
        "y": centers[:, 1],
        "crs": texts(grid.crs_text, count),
    }
