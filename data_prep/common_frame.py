"""Ground of several CRSs in one frame, so that splits compare what scenes of two zones show.

Scenes at the border of two UTM zones, or one scene delivered in two CRSs, show the same ground in
planes of their own. Planes whose chips come within the buffer of each other are joined: the chips
are placed in the CRS of most of them. A box there is the envelope of the chip, so it is never
smaller than its ground, and distances are never overestimated. All other planes stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

from data_prep.crs import transform_positions
from data_prep.footprints import Footprints
from data_prep.schema import SceneMeta

#: Side of the cells, in chips, in which planes are compared before their chips are.
CELL_CHIPS = 32

Boxes = NDArray[np.float64]


def common_frame(
    ground: Footprints, scenes: Sequence[SceneMeta], chip_px: int, buffer_px: int
) -> Footprints:
    """Join the planes whose chips come within the buffer of each other.

    Parameters
    ----------
    ground
        Chips in the planes of ``scenes``, as :meth:`data_prep.footprints.Footprints.of` numbers
        them.
    chip_px, buffer_px
        Side of a chip; least gap between chips of different splits.
    """
    # in the order in which planes are numbered
    keys = dict.fromkeys(scene.crs or f"scene {scene.name}" for scene in scenes)
    texts = {scene.crs for scene in scenes if scene.crs}
    crs_of = {i: CRS.from_user_input(key) for i, key in enumerate(keys) if key in texts}
    planes = [plane for plane in np.unique(ground.plane).tolist() if plane in crs_of]
    root = {plane: plane for plane in planes}
    for i, first in enumerate(planes):
        for second in planes[i + 1 :]:
            if root[first] != root[second] and _meet(
                ground, (first, second), (crs_of[first], crs_of[second]), chip_px, buffer_px
            ):
                old = root[second]
                root = {plane: root[first] if r == old else r for plane, r in root.items()}
    for group in {r: [p for p in planes if root[p] == r] for r in root.values()}.values():
        if len(group) > 1:
            ground = _joined(ground, group, crs_of, chip_px)
    return ground


def _meet(
    ground: Footprints,
    planes: tuple[int, int],
    crs: tuple[CRS, CRS],
    chip_px: int,
    buffer_px: int,
) -> bool:
    """Tell whether chips of two planes come within the buffer of each other."""
    first, second = (np.flatnonzero(ground.plane == plane) for plane in planes)
    reach = (buffer_px - 1e-3) * float(ground.pixel[second].max())
    cells = [_cells(ground, members, chip_px) for members in (first, second)]
    if not _near(moved_boxes(cells[0], *crs), cells[1], reach):
        return False
    return _near(moved_boxes(ground.boxes[first], *crs), ground.boxes[second], reach)


def _cells(ground: Footprints, members: NDArray[np.int64], chip_px: int) -> Boxes:
    """Return the boxes of square cells that hold some chips."""
    side = CELL_CHIPS * chip_px * float(ground.pixel[members].max())
    corners = ground.boxes[members]
    cell = np.unique(np.floor(ground.centers()[members] / side), axis=0)
    margin = float(np.max(corners[:, 2:] - corners[:, :2]))
    return np.concatenate([cell * side - margin, (cell + 1) * side + margin], axis=1)


def _near(boxes: Boxes, others: Boxes, reach: float) -> bool:
    """Tell whether a box comes within a distance of one of the others."""
    known = boxes[np.isfinite(boxes).all(axis=1)]
    tree = shapely.STRtree(shapely.box(*(others + reach * np.array([-1, -1, 1, 1])).T))
    return bool(len(known)) and tree.query(shapely.box(*known.T)).size > 0


def _joined(
    ground: Footprints, planes: Sequence[int], crs_of: dict[int, CRS], chip_px: int
) -> Footprints:
    """Place the chips of some planes in the CRS of one of them; as they are if none has room."""
    # degrees are of different lengths north and east; of the others the one of most chips
    order = sorted(
        planes, key=lambda p: (crs_of[p].is_geographic, -int((ground.plane == p).sum()), p)
    )
    for target in order:
        boxes, pixel, plane = ground.boxes.copy(), ground.pixel.copy(), ground.plane.copy()
        for source in planes:
            if source == target:
                continue
            members = ground.plane == source
            moved = moved_boxes(ground.boxes[members], crs_of[source], crs_of[target])
            boxes[members] = moved
            pixel[members] = (moved[:, 2:] - moved[:, :2]).max(axis=1) / chip_px
            plane[members] = target
        if np.isfinite(boxes).all():
            return replace(ground, boxes=boxes, pixel=pixel, plane=plane)
    return ground


def moved_boxes(boxes: Boxes, source: CRS, target: CRS) -> Boxes:
    """Return the envelopes of boxes [n, 4] in another CRS; NaN where a box has no place there."""
    left, bottom, right, top = boxes.T
    across, along = (left + right) / 2, (bottom + top) / 2
    x = np.stack([left, across, right, right, right, across, left, left])
    y = np.stack([top, top, top, along, bottom, bottom, bottom, along])
    places = np.stack([x.ravel(), y.ravel()])
    there = transform_positions(source, target, places)
    known = np.isfinite(there).all(axis=0)
    # far from its zone a projection still gives numbers, but they do not lead back
    back = np.full_like(places, np.inf)
    back[:, known] = transform_positions(target, source, there[:, known])
    sides = np.minimum(right - left, top - bottom)
    astray = np.abs(back - places).max(axis=0).reshape(x.shape) > 0.01 * sides
    x, y = there.reshape(2, *x.shape)
    moved = np.stack([x.min(axis=0), y.min(axis=0), x.max(axis=0), y.max(axis=0)], axis=1)
    moved[astray.any(axis=0)] = np.nan
    return moved
