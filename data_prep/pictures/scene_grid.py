"""Where the samples of a scene lie: a grid of cells, and outlines of its regions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from data_prep.manifest import column
from data_prep.pictures.images import cells_uri
from data_prep.store import Store

#: Longest side of a grid. It is shown at 360 to 560 px, where more cells could not be told apart.
MAX_CELLS = 1000


@dataclass(frozen=True)
class SceneGrid:
    """The samples of one scene, and the cells that they cover."""

    name: str
    samples: NDArray[np.int64]  #: int64 [n]: rows of the store's manifest
    #: top, left, int64 [n]: corner of each sample, in pixels from the first one's
    top: NDArray[np.int64]
    left: NDArray[np.int64]
    sample_px: int  #: side of the ground that a sample stands for: the stride, as chips may overlap
    #: side of a cell in pixels. Where samples lie at equal distances, a sample is one cell.
    cell_px: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        rows, cols = (int(edges.max()) // self.cell_px for edges in (self.top, self.left))
        return rows + self._sample_cells, cols + self._sample_cells

    @property
    def _sample_cells(self) -> int:
        return max(1, self.sample_px // self.cell_px)

    def fill(self, values: NDArray[Any], empty: float = 0) -> NDArray[Any]:
        """Lay one value (or color) a sample on the grid, ``[n, …]`` to ``[rows, columns, …]``."""
        grid = np.full((*self.shape, *values.shape[1:]), empty, values.dtype)
        inside = np.arange(self._sample_cells)
        rows = (self.top // self.cell_px)[:, None, None] + inside[:, None]
        cols = (self.left // self.cell_px)[:, None, None] + inside[None, :]
        grid[rows, cols] = values[:, None, None]
        return grid

    def paint(self, colors: NDArray[np.uint8], opacity: ArrayLike = 255) -> str:
        """Return a picture, as a data URI, with one RGB color [n, 3] and opacity [n] a sample."""
        alpha = np.broadcast_to(np.asarray(opacity, np.uint8), len(colors))
        return cells_uri(self.fill(np.column_stack([colors, alpha])))


def samples_by_scene(store: Store) -> dict[str, NDArray[np.int64]]:
    """Return the rows of the manifest, ascending, of each scene by its name."""
    names, scene_of = np.unique(column(store.manifest, "scene").astype(str), return_inverse=True)
    # One sort instead of a comparison per scene: archives may have a scene for every chip.
    order = np.argsort(scene_of, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(scene_of))[:-1])
    return dict(zip(names.tolist(), groups, strict=True))


def lay_out(store: Store, name: str, samples: NDArray[np.int64]) -> SceneGrid:
    """Lay samples of one scene, at least one, on a grid of at most 1000 × 1000 cells."""
    rows, cols = (column(store.manifest, axis)[samples].astype(np.int64) for axis in ("row", "col"))
    top, left = rows - rows.min(), cols - cols.min()
    sample_px = store.meta.stride_px
    # Windows at a scene's edge may be shifted inward, so that the stride is no common measure.
    spacing = int(np.gcd.reduce(np.concatenate([top, left]))) or sample_px
    cells = (max(int(top.max()), int(left.max())) + sample_px) / spacing
    thinning = max(1, int(np.ceil(cells / MAX_CELLS)))
    return SceneGrid(name, samples, top, left, sample_px, spacing * thinning)


def outline_path(regions: NDArray[Any]) -> str:
    """Draw the borders of regions as an SVG path, with one stroke for each straight run.

    ``regions`` [H, W] numbers the region of each cell; 0 (False) is outside. The path's unit is a
    cell, its origin the top left.
    """
    padded = np.pad(regions, 1)
    across = padded[1:, 1:-1] != padded[:-1, 1:-1]
    down = (padded[1:-1, 1:] != padded[1:-1, :-1]).T
    strokes = [f"M{x} {y}h{length}" for y, x, length in _runs(across)]
    strokes += [f"M{x} {y}v{length}" for x, y, length in _runs(down)]
    return "".join(strokes)


def _runs(edges: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Return line, start and length of each run of true values along the second axis."""
    steps = np.diff(np.pad(edges, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    lines, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    return list(zip(lines.tolist(), starts.tolist(), (ends - starts).tolist(), strict=True))
