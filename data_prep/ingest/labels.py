"""The labels of a scene: which formats there are, and which file is read in which.

Rasters are in :mod:`data_prep.ingest.raster_labels`, polygons in
:mod:`data_prep.ingest.polygons`; the contract of both is
:class:`data_prep.ingest.label_format.LabelFormat`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from data_prep.ingest.archive import Archive
from data_prep.ingest.label_format import LabelFormat
from data_prep.ingest.options import SceneOptions
from data_prep.ingest.polygons import PolygonLabels
from data_prep.ingest.raster_labels import RasterLabels
from data_prep.ingest.sensors import date_of
from rsdgc.errors import DataError
from rsdgc.registry import Registry

DEFAULT_LABELS = "labels"
#: Stems of label files that no option names.
DEFAULT_NAME = re.compile(r"^labels(?:[_\-. ]?(?P<year>(?:19|20)\d{2}))?$", re.IGNORECASE)
#: What stands for the year in the name of a label file.
YEAR = "{year}"


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
        candidates = _default_candidates(archive, folder, names, options)
        wanted, remedy = "labels.tif", "name the label raster with --labels FILE"
    else:
        wanted = _of_year(options.labels, archive, folder, names, options)
        candidates = _named_candidates(archive, folder, names, wanted)
        remedy = "--labels takes a file name found in each scene, or the path of one file"
    if not candidates:
        raise DataError(f"{archive.path(folder)} has no label file {wanted}: {remedy}")
    return read_labels(candidates[0], options)


def shared_labels(archive: Archive, options: SceneOptions) -> list[Path]:
    """List the files of labels of many scenes: those that the option names by a path."""
    if options.labels is None:
        return []
    if YEAR not in options.labels:
        return [Path(options.labels), archive.src / options.labels]
    named = PurePosixPath(options.labels)
    glob = named.name.replace(YEAR, "[12][0-9][0-9][0-9]")
    folders = (Path(named.parent), archive.src / named.parent)
    return [path for parent in folders if parent.is_dir() for path in parent.glob(glob)]


def _default_candidates(
    archive: Archive, folder: str, names: Sequence[str], options: SceneOptions
) -> list[Path]:
    """List the files named ``labels``, or ``labels_2019`` of the year that the option names."""
    by_year: dict[str, list[Path]] = {}
    for name in names:
        match = DEFAULT_NAME.match(PurePosixPath(name).stem)
        if match and holds_labels(archive.path(name), options):
            by_year.setdefault(match["year"] or "", []).append(archive.path(name))
    year = "" if options.label_year is None else str(options.label_year)
    years = ", ".join(sorted(filter(None, by_year)))
    if year and year not in by_year:
        raise DataError(
            f"{archive.path(folder)} has no label file labels_{year}.tif"
            + (f": choose a --label-year of {years}" if years else ": leave --label-year out")
        )
    if year not in by_year and len(by_year) > 1:
        raise DataError(
            f"{archive.path(folder)} has label files of the years {years}: choose one with "
            "--label-year"
        )
    candidates = by_year.get(year) or next(iter(by_year.values()), [])
    # the same labels may be there as a raster and as polygons
    suited = [kind for kind in formats_for(options) if kind.suits(options)]
    return sorted(candidates, key=lambda path: not any(kind.recognizes(path) for kind in suited))


def _of_year(
    wanted: str, archive: Archive, folder: str, names: Sequence[str], options: SceneOptions
) -> str:
    """Put the year into the name of a label file: the option's, or that of the scene's date."""
    if YEAR not in wanted:
        return wanted
    year = "" if options.label_year is None else str(options.label_year)
    if not year:
        parts = reversed(PurePosixPath(folder).parts)
        year = date_of([*parts, *(PurePosixPath(name).stem for name in names)])[:4]
    if not year:
        raise DataError(
            f"{archive.path(folder)} has no date, so {{year}} of --labels is unknown: name it with "
            "--label-year"
        )
    return wanted.replace(YEAR, year)


def _named_candidates(
    archive: Archive, folder: str, names: Sequence[str], wanted: str
) -> list[Path]:
    """List the files that the option may mean, the scene's own first."""
    if any(sign in wanted for sign in "*?"):
        matching = [name for name in names if fnmatch.fnmatch(PurePosixPath(name).name, wanted)]
        if len(matching) > 1:
            raise DataError(
                f"{archive.path(folder)} has several files like {wanted} "
                f"({', '.join(PurePosixPath(name).name for name in matching)}): make --labels "
                "match one"
            )
        return [archive.path(name) for name in matching]
    inside = f"{folder}/{wanted}" if folder else wanted
    candidates = [archive.path(name) for name in names if name == inside]
    candidates += [path for path in (Path(wanted), archive.src / wanted) if path.is_file()]
    candidates += [archive.path(n) for n in archive.files.get("", ()) if n == wanted]
    return [*candidates, Path(wanted)] if wanted.startswith("/vsi") else candidates
