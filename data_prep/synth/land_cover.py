"""Land cover of a scene: patches of classes that suit the terrain and the river, and roads."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.features import rasterize
from shapely.geometry import LineString

from data_prep.synth.landscapes import Cover
from data_prep.synth.random_fields import F32, FieldMaker
from data_prep.synth.terrain import PIXEL_M, River

#: Side of a patch: about three chips of 64 pixels, so that many chips have one class.
PATCH_PX = 190
#: Side of a cell of the grid on which roads look for their way.
CELL_PX = 12

Cell = tuple[int, int]


@dataclass(frozen=True)
class Patches:
    """A division of the scene into patches of one class each."""

    covers: NDArray[np.int64]  #: class code (patches,)
    centers: F32  #: column and row (patches, 2) of the point that a patch grew round
    angles: F32  #: direction (patches,) of rows, streets or ridges in radians
    scales: F32  #: random number (patches,) in [0, 1) that varies the pattern of a class
    number: NDArray[np.int32]  #: patch of every pixel (px, px)
    inside: F32  #: distance (px, px) from the border with another class in pixels


def patches_across(px: int) -> int:
    """Return how many patches lie along a scene's side of ``px`` pixels: at least 2."""
    return max(2, round(px / PATCH_PX))


def grow_patches(
    maker: FieldMaker, covers: NDArray[np.int64], elevation: F32, river: River
) -> Patches:
    """Grow patches: Voronoi cells of jittered seeds, seen through a noise that bends their borders.

    ``covers`` (patches,) are the class codes to place, a square number of them; each goes to a
    seed whose height and distance from the river suit it.
    """
    across = round(len(covers) ** 0.5)
    grid = np.stack(np.meshgrid(np.arange(across), np.arange(across)), axis=-1).reshape(-1, 2)
    jitter = maker.rng.uniform(0.12, 0.88, size=grid.shape)
    centers = ((grid + jitter) * (maker.px / across)).astype(np.float32)
    covers = _fit_covers(covers, centers, elevation, river, maker.rng)
    number, inside = _nearest_seed(maker, centers, covers)
    # Rows and streets of neighboring patches are often parallel: land is surveyed in pieces.
    survey = maker.rng.uniform(0, np.pi, size=2)
    angles = survey[maker.rng.integers(2, size=len(covers))]
    angles = angles + maker.rng.normal(0, 0.12, len(covers))
    scales = maker.rng.random(len(covers))
    return Patches(
        covers, centers, angles.astype(np.float32), scales.astype(np.float32), number, inside
    )


def _fit_covers(
    covers: NDArray[np.int64], centers: F32, elevation: F32, river: River, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Give each class to the free seed whose height and distance from the river suit it best."""
    count = len(covers)
    column, row = np.minimum(centers.astype(int), len(elevation) - 1).T
    # ranks from 0 to 1
    height = elevation[row, column].argsort().argsort() / max(count - 1, 1)
    away = river.valley[row, column].argsort().argsort() / max(count - 1, 1)
    anywhere = np.zeros(count)
    # in the order of choice: the most particular classes come first
    affinity = {
        Cover.WATER: -1.6 * height,
        Cover.WETLAND: -0.8 * height - 1.2 * away,
        Cover.BUILT_UP: -0.5 * height - 0.6 * away,
        Cover.QUARRY: 1.6 * away,
        Cover.CONIFER: 1.3 * height,
        Cover.BARE: 0.7 * height,
        Cover.CROPLAND: -0.7 * height,
        Cover.ORCHARD: anywhere,
        Cover.BROADLEAF: anywhere,
        Cover.GRASSLAND: anywhere,
    }
    placed = np.zeros(count, dtype=np.int64)
    for code in sorted(covers, key=list(affinity).index):
        suitability = affinity[Cover(code)] + rng.normal(0, 0.4, count)
        placed[np.where(placed == 0, suitability, -np.inf).argmax()] = code
    return placed


def _nearest_seed(
    maker: FieldMaker, centers: F32, covers: NDArray[np.int64]
) -> tuple[NDArray[np.int32], F32]:
    """Return each pixel's nearest seed, and its distance to the border with another class."""
    y, x = np.mgrid[: maker.px, : maker.px].astype(np.float32)
    x = x + 17 * maker.smooth(75) + 2.2 * maker.band(17)
    y = y + 17 * maker.smooth(75) + 2.2 * maker.band(17)
    nearest = np.zeros(x.shape, dtype=np.int32)
    least = np.full(x.shape, np.float32(2 * maker.px))
    by_class = {code: least.copy() for code in covers}
    by_class.setdefault(0, least.copy())  # so that there is a second one in a scene of one class
    for index, ((column, row), code) in enumerate(zip(centers, covers, strict=True)):
        distance = np.hypot(x - column, y - row)
        nearest[distance < least] = index
        np.minimum(least, distance, out=least)
        np.minimum(by_class[code], distance, out=by_class[code])
    first_two = np.partition(np.stack(list(by_class.values())), 1, axis=0)
    return nearest, (first_two[1] - first_two[0]) / 2


def label_pixels(patches: Patches, river: River, roads: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the class code of every pixel: patch, then river, then roads (mapped as built-up)."""
    labels = patches.covers[patches.number].astype(np.uint8)
    labels[np.abs(river.across) < 1] = Cover.WATER
    labels[roads] = Cover.BUILT_UP
    return labels


def draw_roads(patches: Patches, elevation: F32, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw a main road across the scene and roads that link its towns to it, bool (px, px).

    Roads are two to four pixels wide, go round steep ground, and stop at a lake's shore.
    """
    px = len(elevation)
    # a cell costs 1 on level land, more on slopes, most on lakes
    middle = slice(CELL_PX // 2, None, CELL_PX)
    north, east = np.gradient(elevation[middle, middle].astype(np.float64), CELL_PX * PIXEL_M)
    avoided = np.isin(patches.covers, (Cover.WATER, Cover.WETLAND, Cover.QUARRY))
    slope_cost: NDArray[np.float64] = 1 + 25 * np.hypot(north, east)
    cost = slope_cost + 15 * avoided[patches.number[middle, middle]]
    last = len(cost) - 1
    start, end = (int(v) for v in rng.integers(last // 5, last - last // 5 + 1, size=2))
    north_south = rng.random() < 0.5
    ends = ((0, start), (last, end)) if north_south else ((start, 0), (end, last))
    main = _cheapest_path(cost, ends[0], {ends[1]})
    network = set(main)
    shapes = [(_smooth_line([*main, ends[0]], px).buffer(1.7), 1)]
    for town in np.flatnonzero(patches.covers == Cover.BUILT_UP):
        column, row = (min(int(v) // CELL_PX, last) for v in patches.centers[town])
        branch = _cheapest_path(cost, (row, column), network)
        network.update(branch)
        if len(branch) > 1:
            shapes.append((_smooth_line(branch, px).buffer(1.1), 1))
    roads: NDArray[np.bool_] = rasterize(shapes, out_shape=(px, px), dtype="uint8").astype(bool)
    roads &= ~(patches.covers == Cover.WATER)[patches.number]
    return roads


def _cheapest_path(cost: NDArray[np.float64], start: Cell, goals: set[Cell]) -> list[Cell]:
    """Return the cheapest eight-way path from any goal back to ``start`` (Dijkstra)."""
    rows, columns = cost.shape
    best = {start: 0.0}
    came_from: dict[Cell, Cell] = {}
    queue = [(0.0, start)]
    while queue:
        spent, cell = heapq.heappop(queue)
        if cell in goals:
            path = [cell]
            while path[-1] in came_from:
                path.append(came_from[path[-1]])
            return path
        if spent > best[cell]:
            continue
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                step = (cell[0] + dy, cell[1] + dx)
                if step == cell or not (0 <= step[0] < rows and 0 <= step[1] < columns):
                    continue
                total = spent + cost[step] * (1.41 if dy and dx else 1.0)
                if total < best.get(step, np.inf):
                    best[step], came_from[step] = total, cell
                    heapq.heappush(queue, (total, step))
    return [start]


def _smooth_line(path: list[Cell], px: int) -> LineString:
    """Turn cells into a line in pixels, rounded off (Chaikin) and drawn out to the scene's edge."""
    points = np.array(path, dtype=np.float64)[:, ::-1]
    last = max(1, (px - CELL_PX // 2 - 1) // CELL_PX)
    points = np.where(points == 0, -0.5, np.where(points == last, last + 1.0, points))
    points = (points + 0.5) * CELL_PX
    if len(points) > 5:
        # a third of the points, or the steps of the grid would show
        points = np.concatenate([points[:1], points[2:-2:3], points[-1:]])
    for _ in range(4):
        if len(points) > 2:
            near = 0.75 * points[:-1] + 0.25 * points[1:]
            far = 0.25 * points[:-1] + 0.75 * points[1:]
            middle = np.stack([near, far], axis=1).reshape(-1, 2)
            points = np.concatenate([points[:1], middle, points[-1:]])
    return LineString(points)
