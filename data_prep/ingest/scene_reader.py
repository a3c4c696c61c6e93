"""All modalities, masks and labels of a scene, read together in bands of rows on its grid.

A scene is read from top to bottom in bands of rows, because files are stored in strips or in rows
of tiles: each block is decoded once, and memory does not grow with the scene.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.ingest.aligned import (
    AlignedRaster,
    Band,
    RowWindow,
    fill_invalid,
    joined,
    read_step,
)
from data_prep.ingest.class_list import whole_codes
from data_prep.ingest.grid import Grid
from data_prep.ingest.label_format import LABEL_ROWS, LabelRules
from data_prep.ingest.label_majority import MajorityRows
from data_prep.ingest.losses import Losses
from data_prep.ingest.modalities import band_order, with_override
from data_prep.ingest.options import Nodata
from data_prep.ingest.polygons import BurntPolygons, PolygonFile, projected, read_polygons
from data_prep.ingest.raster_labels import CodedRows
from data_prep.ingest.scene import Scene
from data_prep.manifest import Columns, text_column
from data_prep.rasters import RasterFile
from data_prep.schema import ModalityMeta, SceneMeta


@dataclass(frozen=True)
class SceneSource:
    """A scene and everything that reading it takes; jobs carry it to other processes."""

    scene: Scene
    grid: Grid
    modalities: tuple[ModalityMeta, ...]  #: the store's; a coarser one has a ``factor``
    label_rules: LabelRules
    nodata: Nodata = None  #: values in place of what the files declare
    area: PolygonFile | None = None  #: polygons outside of which pixels count as invalid

    @property
    def meta(self) -> SceneMeta:
        """The scene as ``meta.json`` describes it."""
        scene, grid = self.scene, self.grid
        return SceneMeta(
            name=scene.name,
            folder=scene.folder,
            height=grid.height,
            width=grid.width,
            transform=tuple(grid.transform)[:6],
            crs=grid.crs_text,
            date=scene.date,
        )

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of the grid, over all modalities."""
        total = 0.0
        for modality in self.modalities:
            item = np.dtype(modality.dtype).itemsize
            total += self.grid.width * len(modality.bands) * item / modality.factor**2
        return max(1, int(total))

    def places(self, rows: NDArray[np.int64], cols: NDArray[np.int64], side: int) -> Columns:
        """Say where windows of ``side`` pixels lie; ``x`` and ``y`` are centers, NaN without CRS.

        The windows are given by their first rows and columns.
        """
        scene, grid, count = self.scene, self.grid, len(rows)
        x = y = np.full(count, np.nan)
        if grid.crs is not None:
            t = grid.transform
            left, top = t.c + t.a * cols, t.f + t.e * rows
            # the mean of the edges: other orders of these sums round differently
            x, y = (left + (left + t.a * side)) / 2, ((top + t.e * side) + top) / 2
        return {
            "scene": text_column(scene.name, count),
            "folder": text_column(scene.folder, count),
            "date": text_column(scene.date, count),
            "row": rows,
            "col": cols,
            "x": x,
            "y": y,
            "crs": text_column(grid.crs_text, count),
        }


@dataclass
class Rows:
    """Rows of all modalities: values and validity (C, h, w) of each, None where all are valid.

    ``usable`` (h, w) marks the pixels of the scene's grid that are valid in every band of every
    modality, not masked, and inside the area of interest.
    """

    images: list[NDArray[Any]]
    valid: list[NDArray[np.bool_] | None]
    usable: NDArray[np.bool_]


class SceneReader:
    """Reads a scene, or some columns of it, from top to bottom.

    ``cols``, the first column and the one after the last, may reach beyond the right edge, and
    rows beyond the lower one: those pixels are filled by reflection, and invalid. ``unit`` are the
    rows from one call to the next: reads are of multiples of it where they can be.
    """

    def __init__(
        self,
        stack: ExitStack,
        source: SceneSource,
        cols: tuple[int, int] | None = None,
        unit: int = 1,
    ) -> None:
        self._unit = unit
        self._rasters: list[AlignedRaster] = []
        self.scene = source.scene
        self.grid = source.grid
        self.source = source
        first, stop = cols or (0, source.grid.width)
        self._cols = (first, min(stop, source.grid.width))
        self._missing_cols = max(0, stop - source.grid.width)
        modalities = {modality.name: modality for modality in self.scene.modalities}
        self._modalities = []
        for meta in source.modalities:
            files = [
                self._raster(stack, part, meta.factor)
                for file in modalities[meta.name].files
                for part in with_override(file, meta.name, source.nodata).by_nodata()
            ]
            self._modalities.append((files, band_order(modalities[meta.name], meta.bands), meta))
        self._masks = [
            (self._raster(stack, mask.file, nearest=True), mask.rule) for mask in self.scene.masks
        ]
        self._area = None
        if source.area is not None:
            shapes = projected(read_polygons(source.area), self.grid, source.area.path)
            inside = BurntPolygons(shapes, np.ones(len(shapes), np.int64), self.grid, self._cols)
            self._area = RowWindow(inside, self.grid.height, LABEL_ROWS)
        labels = self.scene.labels
        self._label_source = labels.open(stack, self.grid, self._cols, source.label_rules)
        self._losses = Losses()
        self._labels = RowWindow(
            self._label_source,
            self.grid.height,
            labels.row_step(self._cols[1] - self._cols[0], max(1, unit)),
        )

    def rows(self, start: int, stop: int) -> Rows:
        """Read rows of all modalities; both ends are multiples of every modality's factor."""
        height, width = stop - start, self._cols[1] - self._cols[0] + self._missing_cols
        usable = np.ones((height, width), np.bool_)
        images: list[NDArray[Any]] = []
        valid: list[NDArray[np.bool_] | None] = []
        for files, order, meta in self._modalities:
            factor = meta.factor
            values, seen = self._modality(files, order, start // factor, stop // factor, factor)
            if seen is None or seen.all():
                # the common case: None spares every later step the mask
                images.append(values)
                valid.append(None)
                continue
            images.append(fill_invalid(values, seen, meta.nodata))
            valid.append(seen)
            every: NDArray[np.bool_] = np.asarray(seen.all(axis=0))
            usable &= self._on_grid(every, factor, start, usable.shape)
        # masks, the area and labels end with the grid, and are extended like the modalities
        last = min(stop, self.grid.height)
        for window, rule in self._masks:
            codes, seen = self._extended(*window.rows(start, last), height)
            usable &= rule.valid(codes[0]) & _mask(codes, seen)
        if self._area is not None:
            codes, seen = self._extended(*self._area.rows(start, last), height)
            usable &= _mask(codes, seen)
        return Rows(images, valid, usable)

    def labels(self, start: int, stop: int) -> tuple[NDArray[np.integer[Any]], NDArray[np.bool_]]:
        """Read rows of the labels: codes (h, w) in whole numbers, and which pixels have one."""
        values, valid = self._labels.rows(start, min(stop, self.grid.height))
        values, seen = self._extended(values, valid, stop - start)
        valid = _mask(values, seen)
        classes, path = self.source.label_rules.classes, self.scene.labels.path
        codes = whole_codes(values[0], valid, path)
        labeled = classes.labeled(codes, valid, path)
        if classes.ignore_unknown:
            lost = valid & ~labeled & ((codes != 0) | (not classes.zero_is_unlabeled))
            occurring, counts = np.unique(codes[lost], return_counts=True)
            pixels = dict(zip(map(str, occurring.tolist()), counts.tolist(), strict=True))
            self._losses.add_unknown(path.name, pixels)
        return codes, labeled

    def take_losses(self) -> Losses:
        """Return what was lost since the last call."""
        losses, self._losses = self._losses, Losses()
        if isinstance(self._label_source, (CodedRows, MajorityRows)):
            losses.add_unknown(self.scene.labels.path.name, self._label_source.unknown)
            self._label_source.unknown.clear()
        for raster in self._rasters:
            if raster.overflow:
                losses.add_overflow(raster.file.path.name, raster.overflow)
        return losses

    def drain(self, start: int) -> None:
        """Read on to the end: a file that is cut short opens without complaint and fails here."""
        for files, _, meta in self._modalities:
            for window in files:
                window.drain(start // meta.factor)

    def _modality(
        self, files: list[RowWindow], order: list[int] | None, start: int, stop: int, factor: int
    ) -> Band:
        last = min(stop, self.grid.height // factor)
        parts = [file.rows(start, last) for file in files]
        values, valid = parts[0]
        if len(parts) > 1:
            arrays = [part[0] for part in parts]
            values, valid = np.concatenate(arrays), joined(arrays, [part[1] for part in parts])
        if order is not None:
            values, valid = values[order], None if valid is None else valid[order]
        return self._extended(values, valid, stop - start, factor)

    def _on_grid(
        self, valid: NDArray[np.bool_], factor: int, start: int, shape: tuple[int, ...]
    ) -> NDArray[np.bool_]:
        """Spread the validity of a modality's pixels (h, w) over those of the grid.

        Where the grid's side is no multiple of the factor, its last pixels, fewer than one of the
        modality's, are as their neighbors.
        """
        if factor == 1:
            return valid
        result = np.zeros(shape, np.bool_)
        spread = valid.repeat(factor, axis=0).repeat(factor, axis=1)
        result[: spread.shape[0], : spread.shape[1]] = spread[: shape[0], : shape[1]]
        bottom, right = self.grid.height - start, self.grid.width - self._cols[0]
        covered = bottom - self.grid.height % factor
        result[covered:bottom] = result[covered - 1 : covered]
        covered = right - self.grid.width % factor
        result[:, covered:right] = result[:, covered - 1 : covered]
        return result

    def _extended(
        self, values: NDArray[Any], valid: NDArray[np.bool_] | None, height: int, factor: int = 1
    ) -> Band:
        """Fill what lies beyond the lower and right edges by reflection, as invalid pixels."""
        width = (self._cols[1] - self._cols[0] + self._missing_cols) // factor
        missing = (0, height - values.shape[1]), (0, width - values.shape[2])
        if not any(map(sum, missing)):
            return values, valid
        margins = [(0, 0), *missing]
        valid = np.ones(values.shape, np.bool_) if valid is None else valid
        return np.pad(values, margins, mode="symmetric"), np.pad(valid, margins)

    def _raster(
        self, stack: ExitStack, file: RasterFile, factor: int = 1, *, nearest: bool = False
    ) -> RowWindow:
        grid = self.grid.coarser(factor)
        cols = (self._cols[0] // factor, self._cols[1] // factor)
        raster = AlignedRaster(stack, file, grid, nearest=nearest, cols=cols)
        self._rasters.append(raster)
        row_bytes = (cols[1] - cols[0]) * file.bands * np.dtype(file.source_dtype).itemsize
        step = read_step(row_bytes, file.block_height, max(1, self._unit // factor))
        return RowWindow(raster, grid.height, step)


def _mask(values: NDArray[Any], valid: NDArray[np.bool_] | None) -> NDArray[np.bool_]:
    """Return the validity (h, w) of a single band."""
    return np.ones(values.shape[1:], np.bool_) if valid is None else valid[0]
