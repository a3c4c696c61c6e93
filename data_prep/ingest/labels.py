"""The labels of a scene: which formats there are, and which file is read in which.

Rasters of codes are here, polygons in :mod:`data_prep.ingest.polygons`; the contract of both is
:class:`data_prep.ingest.label_format.LabelFormat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Self

import numpy as np

from data_prep.ingest.aligned import AlignedRaster, RowSource, read_step
from data_prep.ingest.archive import Archive, is_raster
from data_prep.ingest.class_list import ClassList, raster_classes
from data_prep.ingest.grid import Grid
from data_prep.ingest.label_format import LabelFormat, LabelRules
from data_prep.ingest.options import SceneOptions
from data_prep.ingest.polygons import PolygonLabels
from data_prep.rasters import RasterFile, read_header
from rsdgc.errors import DataError
from rsdgc.registry import Registry

DEFAULT_LABELS = "labels"


@dataclass(frozen=True)
class RasterLabels(LabelFormat):
    """Label codes in the only band of a raster; off the grid, the nearest pixel's code."""

    file: RasterFile

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """Tell by its name whether a file is read as a raster."""
        return is_raster(path.name)

    @classmethod
    def suits(cls, options: SceneOptions) -> bool:
        """Rasters come first, unless a class column is named, which only polygons have."""
        return options.label_column is None

    @classmethod
    def from_file(cls, path: Path, options: SceneOptions) -> Self:  # noqa: ARG003 - needs none
        """Read the header of a raster of one band."""
        file = read_header(path)
        if file.bands != 1:
            raise DataError(f"{path} has {file.bands} bands: a label raster has one")
        return cls(path, file)

    @classmethod
    def implied_classes(cls, files: Sequence[Self], *, pixels: bool) -> ClassList:
        """Return the category names of the first raster."""
        return raster_classes(files[0].path, pixels=pixels)

    @property
    def rasters(self) -> tuple[RasterFile, ...]:
        """The raster itself."""
        return (self.file,)

    def row_step(self, width: int, unit: int) -> int:
        """Rows of whole blocks of the file."""
        row_bytes = width * np.dtype(self.file.source_dtype).itemsize
        return read_step(row_bytes, self.file.block_height, unit)

    def open(
        self, stack: ExitStack, grid: Grid, cols: tuple[int, int], rules: LabelRules
    ) -> RowSource:
        """Open the raster on the grid, by nearest neighbor."""
        return AlignedRaster(stack, self.file, grid, nearest=True, cols=cols)


#: Formats in the order in which they are asked whether they recognize a file.
LABEL_FORMATS: Registry[type[LabelFormat]] = Registry("label format")
LABEL_FORMATS.register("raster")(RasterLabels)
LABEL_FORMATS.register("polygons")(PolygonLabels)


def formats_for(options: SceneOptions) -> list[type[LabelFormat]]:
    """Return the formats that are tried: the one that the options name, else all."""
    if options.label_format is not None:
        return [LABEL_FORMATS[options.label_format]]
    return [LABEL_FORMATS[name] for name in LABEL_FORMATS]


def holds_labels(path: Path, options: SceneOptions) -> bool:
    """Tell by its name whether a file may hold labels."""
    return any(kind.recognizes(path) for kind in formats_for(options))


def read_labels(path: Path, options: SceneOptions) -> LabelFormat:
    """Read the header of a file of labels."""
    kinds = formats_for(options)
    # GDAL reads more formats than there are suffixes to list: what no format knows may be a raster
    fallback = kinds[0] if options.label_format is not None else RasterLabels
    kind = next((kind for kind in kinds if kind.recognizes(path)), fallback)
    return kind.from_file(path, options)


def find_labels(
    archive: Archive, folder: str, names: Sequence[str], options: SceneOptions
) -> LabelFormat:
    """Find the labels of the scene in a folder, which has files of some names; read their header.

    Files of the scene come first, then those that the option names by a path, then the archive's.
    """
    if options.labels is None:
        candidates = [
            archive.path(name)
            for name in names
            if PurePosixPath(name).stem.lower() == DEFAULT_LABELS
            and holds_labels(archive.path(name), options)
        ]
        # the same labels may be there as a raster and as polygons
        suited = [kind for kind in formats_for(options) if kind.suits(options)]
        candidates.sort(key=lambda path: not any(kind.recognizes(path) for kind in suited))
        wanted, remedy = "labels.tif", "name the label raster with --labels FILE"
    else:
        wanted = options.labels
        inside = f"{folder}/{wanted}" if folder else wanted
        candidates = [archive.path(name) for name in names if name == inside]
        paths = (Path(wanted), archive.src / wanted)
        candidates += [path for path in paths if path.is_file()]
        candidates += [archive.path(n) for n in archive.files.get("", ()) if n == wanted]
        if wanted.startswith("/vsi"):
            candidates.append(Path(wanted))
        remedy = "--labels takes a file name found in each scene, or the path of one file"
    if not candidates:
        raise DataError(f"{archive.path(folder)} has no label file {wanted}: {remedy}")
    return read_labels(candidates[0], options)
