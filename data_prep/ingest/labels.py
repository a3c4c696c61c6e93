"""The labels of a scene: which formats there are, and which file is read in which.

Rasters are in :mod:`data_prep.ingest.raster_labels`, polygons in
:mod:`data_prep.ingest.polygons`; the contract of both is
:class:`data_prep.ingest.label_format.LabelFormat`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from data_prep.ingest.archive import Archive
from data_prep.ingest.label_format import LabelFormat
from data_prep.ingest.options import SceneOptions
from data_prep.ingest.polygons import PolygonLabels
from data_prep.ingest.raster_labels import RasterLabels
from rsdgc.errors import DataError
from rsdgc.registry import Registry

DEFAULT_LABELS = "labels"


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
    kinds = formats_for(options)
    if not kinds[0].in_file:
        name = f"{DEFAULT_LABELS}.tif"
        return kinds[0].from_file(archive.path(f"{folder}/{name}" if folder else name), options)
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
