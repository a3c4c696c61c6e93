"""Roads between the towns of a scene that go round lakes and steep ground."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np
from rasterio.features import rasterize
from shapely.geometry import LineString

from data_prep.synth.cover_classes import Cover

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_prep.synth.landcover import Patches
    from data_prep.synth.random_fields import F32

_CELL_PX = 12
_STEPS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if dy or dx]

Cell = tuple[int, int]


def draw_roads(patches: Patches, elevation: F32, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw a main road across the scene and roads that link its towns to it.

    Parameters
    ----------
    patches : Patches
        Towns are linked; lakes are avoided.
    elevation : float32 array, (px, px)
        Metres; climbing costs.
    rng : numpy.random.Generator
        Chooses where the main road enters and leaves.

    Returns
    -------
    bool array, (px, px)
        True on a road, two to four pixels wide; a road stops at a lake's shore.
    """
    px = len(elevation)
    cost = _travel_cost(patches, elevation)
    last = len(cost) - 1
    start, end = (int(v) for v in rng.integers(last // 5, last - last // 5 + 1, size=2))
    across = rng.random() < 0.5
    ends = ((0, start), (last, end)) if across else ((start, 0), (end, last))
    main = _cheapest_path(cost, ends[0], {ends[1]})
    network = set(main)
    shapes = [(_as_curve([*main, ends[0]], px).buffer(1.7), 1)]
    for town in np.flatnonzero(patches.covers == Cover.BUILT_UP):
        column, row = (min(int(v) // _CELL_PX, last) for v in patches.centres[town])
        branch = _cheapest_path(cost, (row, column), network)
        network.update(branch)
        if len(branch) > 1:
            shapes.append((_as_curve(branch, px).buffer(1.1), 1))
    roads: NDArray[np.bool_] = rasterize(shapes, out_shape=(px, px), dtype="uint8").astype(bool)
    lakes = patches.covers == Cover.WATER
    roads &= ~lakes[patches.number]
    return roads


def _travel_cost(patches: Patches, elevation: F32) -> NDArray[np.float64]:
    """Return the cost of each coarse cell: 1 on level land, more on slopes, most on lakes."""
    middle = slice(_CELL_PX // 2, None, _CELL_PX)
    coarse = elevation[middle, middle]
    north, east = np.gradient(coarse.astype(np.float64), _CELL_PX * 10.0)
    wet = np.isin(patches.covers, (Cover.WATER, Cover.WETLAND, Cover.QUARRY))
    cost: NDArray[np.float64] = 1 + 25 * np.hypot(north, east)
    return cost + 15 * wet[patches.number[middle, middle]]


def _cheapest_path(cost: NDArray[np.float64], start: Cell, goals: set[Cell]) -> list[Cell]:
    """Return the cells of the cheapest eight-way path from `start` to any goal (Dijkstra)."""
    rows, columns = cost.shape
    best = {start: 0.0}
    came_from: dict[Cell, Cell] = {}
    queue = [(0.0, start)]
    while queue:
        spent, cell = heapq.heappop(queue)
        if cell in goals:
            return _walk_back(came_from, cell)
        if spent > best[cell]:
            continue
        for dy, dx in _STEPS:
            step = (cell[0] + dy, cell[1] + dx)
            if 0 <= step[0] < rows and 0 <= step[1] < columns:
                total = spent + cost[step] * (1.41 if dy and dx else 1.0)
                if total < best.get(step, np.inf):
                    best[step], came_from[step] = total, cell
                    heapq.heappush(queue, (total, step))
    return [start]


def _walk_back(came_from: dict[Cell, Cell], cell: Cell) -> list[Cell]:
    """Return the path that led to `cell`, from its end to its start."""
    path = [cell]
    while cell in came_from:
        cell = came_from[cell]
        path.append(cell)
    return path


def _as_curve(path: list[Cell], px: int) -> LineString:
    """Round a path of cells off (Chaikin), in pixel coordinates, stretched to the scene's edge."""
    points = np.array(path, dtype=np.float64)[:, ::-1]
    last = max(1, (px - _CELL_PX // 2 - 1) // _CELL_PX)
    points = np.where(points == 0, -0.5, np.where(points == last, last + 1.0, points))
    points = (points + 0.5) * _CELL_PX
    if len(points) > 5:
        points = np.concatenate([points[:1], points[2:-2:3], points[-1:]])
    for _ in range(4):
        if len(points) > 2:
            near = 0.75 * points[:-1] + 0.25 * points[1:]
            far = 0.25 * points[:-1] + 0.75 * points[1:]
            middle = np.stack([near, far], axis=1).reshape(-1, 2)
            points = np.concatenate([points[:1], middle, points[-1:]])
    return LineString(points)
