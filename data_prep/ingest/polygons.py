"""Polygons as labels and as areas of interest: read once, projected to the grid, burnt in rows.

A pixel belongs to the polygon that holds its center, or with ``--all-touched`` to one that touches
it. Where polygons overlap, the one of the higher priority wins, else the later one in the file.
"""

from __future__ import annotations

import glob
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.features import rasterize

from data_prep.crs import are_related, crs_name, parse_crs, transform_positions
from data_prep.foreign_errors import reading
from data_prep.ingest.aligned import Band, RowSource
from data_prep.ingest.class_list import NO_CODE, ClassList, named_classes
from data_prep.ingest.grid import Grid
from data_prep.ingest.label_format import LabelFormat, LabelRules
from data_prep.ingest.label_values import LabelValue, label_value, normal_name
from data_prep.ingest.options import SceneOptions
from data_prep.number_format import plural
from rsdgc.errors import DataError

POLYGON_SUFFIXES = frozenset((".gpkg", ".geojson", ".json", ".shp", ".fgb", ".kml", ".gml"))
#: Polygons up to which overlaps of different classes are searched: the search intersects every
#: pair of neighbors, and a note is not worth minutes of that.
MOST_COMPARED = 20_000
#: Shapely's numbers of the geometries that have an area: polygon and multipolygon.
AREAL_TYPES = (3, 6)
#: And of the one that may hold some.
COLLECTION = 7


@dataclass(frozen=True)
class PolygonFile:
    """A file of polygons: a GeoPackage, GeoJSON, Shapefile, or another format that OGR reads."""

    path: Path
    column: str | None = None  #: field of the class; None for an area of interest
    layer: str | None = None  #: None for the only one of the file
    no_class: frozenset[LabelValue] = frozenset()  #: values of the class that mean no label
    changed_ns: int = 0  #: time of the last change: part of the key under which it is cached
    crs: str | None = None  #: in place of what the file declares


def polygon_file(
    path: Path,
    column: str | None = None,
    layer: str | None = None,
    no_class: frozenset[LabelValue] = frozenset(),
    crs: str | None = None,
) -> PolygonFile:
    """Describe a file of polygons as it is now, and check that it can be read."""
    changed_ns = path.stat().st_mtime_ns if path.exists() else 0
    file = PolygonFile(path, column, layer, no_class, changed_ns, crs)
    read_polygons(file)
    return file


@dataclass(frozen=True, eq=False)
class Polygons:
    """Polygons of a file, with one value each."""

    shapes: NDArray[Any]  #: shapely geometries [n]
    values: NDArray[Any]  #: texts or ints [n]; None without a column
    crs: CRS | None
    notes: tuple[str, ...]  #: what was left out


# a file is read for the plan, for the checks of each scene and for each job of a process; 32 files
# are more than most archives have, and few enough for the memory
@lru_cache(maxsize=32)
def read_polygons(file: PolygonFile) -> Polygons:
    """Read a file's polygons; broken rings are repaired, and features without a class left out."""
    path = file.path
    with reading(path):
        with _readable_path(path) as readable:
            layer = _layer(file, readable)
            fields = [str(name) for name in pyogrio.read_info(readable, layer=layer)["fields"]]
            if file.column is not None and file.column not in fields:
                raise DataError(
                    f"{path} has no column {file.column}: choose a --label-column from "
                    f"{', '.join(fields)}"
                )
            columns = [] if file.column is None else [file.column]
            # heights of corners say nothing about the area; pyogrio makes curves linear
            about, _, geometry, data = pyogrio.raw.read(
                readable, layer=layer, columns=columns, force_2d=True
            )
        shapes = shapely.from_wkb(geometry, on_invalid="ignore")
        values = _values(file, data[0]) if columns else np.full(len(shapes), None, dtype=object)
        crs = parse_crs(file.crs) or _crs_of(about["crs"])
        return _usable(file, shapes, values, crs)


@contextmanager
def _readable_path(path: Path) -> Iterator[Path]:
    """Yield a path of the file that pyogrio takes for a path: of a ``!`` it makes a zip file's."""
    if "!" not in str(path) or str(path).startswith("/vsi"):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        # a Shapefile is several files of one stem
        for part in path.parent.glob(f"{glob.escape(path.stem)}.*"):
            (Path(folder) / f"polygons{part.name[len(path.stem) :]}").symlink_to(part.resolve())
        yield Path(folder) / f"polygons{path.suffix}"


def _crs_of(text: str | None) -> CRS | None:
    try:
        return CRS.from_user_input(text) if text else None
    except CRSError:
        return None


def _layer(file: PolygonFile, readable: Path) -> str:
    """Return the layer that is read: the one that is named, or the only one."""
    path = file.path
    layers = [str(name) for name in pyogrio.list_layers(readable)[:, 0]]
    if file.layer is not None:
        if file.layer not in layers:
            raise DataError(
                f"{path} has no layer {file.layer}: choose a --label-layer from {', '.join(layers)}"
            )
        return file.layer
    if len(layers) != 1:
        raise DataError(
            f"{path} has the layers {', '.join(layers)}: choose one with --label-layer (an --aoi "
            "file must have a single one)"
        )
    return layers[0]


def _values(file: PolygonFile, raw: NDArray[Any]) -> NDArray[Any]:
    """Class values as texts or ints; None where there is none."""
    values = np.full(len(raw), None, dtype=object)
    for i, value in enumerate(raw.tolist()):
        if isinstance(value, float):
            if math.isnan(value):
                continue  # what OGR has where a field of numbers is empty
            if not value.is_integer():
                raise DataError(
                    f"{file.path} has the class {value} in {file.column}: use names or whole "
                    "numbers, or choose another --label-column"
                )
        if isinstance(value, (bool, int, float)):
            values[i] = int(value)
        elif value is not None and str(value).strip():
            values[i] = normal_name(str(value))
        if file.no_class and values[i] is not None and label_value(values[i]) in file.no_class:
            values[i] = None
    return values


def _usable(
    file: PolygonFile, shapes: NDArray[Any], values: NDArray[Any], crs: CRS | None
) -> Polygons:
    path, notes = file.path, []
    shapes = areal_parts(shapes)
    areal = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    if not areal.any():
        raise DataError(
            f"{path} holds no polygon: choose another file with --labels, or a --label-layer of "
            "polygons"
        )
    if not areal.all():
        notes.append(f"{path.name}: {plural(int((~areal).sum()), 'feature')} other than polygons")
    known = np.array([value is not None for value in values]) | (file.column is None)
    if unknown := int((areal & ~known).sum()):
        notes.append(f"{path.name}: {plural(unknown, 'polygon')} without {file.column}")
    keep = areal & known
    if not keep.any():
        raise DataError(f"{path} has no class in {file.column}: choose another --label-column")
    shapes = shapes[keep]
    # GEOS refuses to intersect polygons whose rings cross themselves
    broken = ~shapely.is_valid(shapes)
    # what is left of a ring may be a line beside polygons
    shapes[broken] = areal_parts(shapely.make_valid(shapes[broken]))
    flat = shapely.is_missing(shapes)
    if flat.all():
        raise DataError(f"{path} holds no polygon with an area: correct its rings")
    if flat.any():
        notes.append(f"{path.name}: {plural(int(flat.sum()), 'polygon')} without an area")
    return Polygons(shapes[~flat], values[keep][~flat], crs, tuple(notes))


def areal_parts(shapes: NDArray[Any]) -> NDArray[Any]:
    """Return the polygons of geometries [n]: those within collections, None where there is none."""
    kinds = shapely.get_type_id(shapes)
    parts: NDArray[Any] = shapes.copy()
    parts[~np.isin(kinds, AREAL_TYPES)] = None
    for i in np.flatnonzero(kinds == COLLECTION):
        # collections may hold collections
        held = shapely.get_parts(shapes[i : i + 1])
        while (nested := shapely.get_type_id(held) == COLLECTION).any():
            held = np.concatenate([held[~nested], shapely.get_parts(held[nested])])
        polygons = held[np.isin(shapely.get_type_id(held), AREAL_TYPES)]
        if len(polygons):
            parts[i] = shapely.multipolygons(shapely.get_parts(polygons))
    return parts


#: How polygons are given a CRS: labels, and an area of interest.
NAME_LABEL_CRS = "name it with --label-crs"
WRITE_CRS = "write it with a CRS, as with ogr2ogr -a_srs EPSG:4326"


def _turned(shapes: NDArray[Any], grid: Grid) -> NDArray[Any]:
    """Add the parts of polygons that a grid's longitudes show a turn farther east or west."""
    left, right = grid.bounds[::2]
    low, high = shapely.total_bounds(shapes)[::2]
    for degrees in (360.0, -360.0):
        if low + degrees < right and high + degrees > left:
            east = np.array((degrees, 0.0))
            moved = shapely.transform(shapes, lambda places, east=east: places + east)
            meets = shapely.intersects(moved, shapely.box(*grid.bounds))
            shapes = np.where(meets, shapely.union(shapes, moved), shapes)
    return shapes


def projected(
    polygons: Polygons, grid: Grid, path: Path, *, remedy: str = NAME_LABEL_CRS
) -> NDArray[Any]:
    """Bring polygons to a grid's CRS; DataError if that cannot be done, or if none meets it.

    ``remedy`` says how to give the polygons another CRS.
    """
    if (polygons.crs is None) != (grid.crs is None):
        which = path
        if grid.crs is None:
            which, remedy = Path("the scene"), "name it with --crs"
        raise DataError(f"{path} cannot be placed on the scene: {which} has no CRS: {remedy}")
    if not are_related(polygons.crs, grid.crs):
        raise DataError(
            f"{path} cannot be placed on the scene: no transformation from "
            f"{crs_name(polygons.crs)} to {crs_name(grid.crs)} is known: for the polygons, "
            f"{remedy}; for the scene, name it with --crs"
        )
    shapes = polygons.shapes
    if grid.crs is not None and polygons.crs != grid.crs:

        def move(points: NDArray[np.float64]) -> NDArray[np.float64]:
            return transform_positions(polygons.crs, grid.crs, points.T).T

        shapes = shapely.transform(shapes, move)
    if grid.crs is not None and grid.crs.is_geographic:
        shapes = _turned(shapes, grid)
    if not shapely.intersects(shapes, shapely.box(*grid.bounds)).any():
        raise grid.no_overlap(path, shapely.total_bounds(shapes))
    return shapes


def _outside(file: PolygonFile, grids: Sequence[Grid]) -> int:
    """Count the polygons that meet none of some grids; their outlines are transformed, as few."""
    polygons = read_polygons(file)
    tree = shapely.STRtree(polygons.shapes)
    met = np.zeros(len(polygons.shapes), np.bool_)
    for grid in grids:
        edge = shapely.segmentize(shapely.box(*grid.bounds), (grid.width * grid.transform.a) / 16)
        ring = transform_positions(grid.crs, polygons.crs, shapely.get_coordinates(edge).T).T
        if not np.isfinite(ring).all():
            return 0  # part of the scene is off the globe
        turns = [0.0]
        if polygons.crs is not None and polygons.crs.is_geographic:
            # a ring across the antimeridian goes on beyond 180 degrees
            ring[:, 0] -= 360 * np.round((ring[:, 0] - ring[0, 0]) / 360)
            turns = [0.0, 360.0, -360.0]
        for degrees in turns:
            scene = shapely.make_valid(shapely.polygons(ring + np.array((degrees, 0.0))))
            met[tree.query(scene, predicate="intersects")] = True
    return int((~met).sum())


class BurntPolygons:
    """Codes of polygons on some columns of a grid, read in rows.

    ``shapes`` and ``codes`` [n] are in burning order: a later polygon replaces an earlier one.
    """

    def __init__(
        self,
        shapes: NDArray[Any],
        codes: NDArray[np.int64],
        grid: Grid,
        cols: tuple[int, int],
        *,
        all_touched: bool = False,
    ) -> None:
        self._shapes = shapes
        # numbers are burnt, which GDAL holds in 32 bits, in place of larger codes
        wide = len(codes) and max(abs(int(codes.min())), abs(int(codes.max()))) >= 2**31
        self._table: NDArray[np.int64] | None = None
        self._codes = codes
        if wide:
            self._table, self._codes = np.unique(codes, return_inverse=True)
        self._grid = grid
        self._cols = cols
        self._all_touched = all_touched
        self._tree = shapely.STRtree(shapes)

    def read(self, start: int, stop: int) -> Band:
        """Return codes (1, h, w) of rows [start, stop), int32 or int64, and where a polygon is."""
        t = self._grid.transform
        shape = (stop - start, self._cols[1] - self._cols[0])
        x = (t.c + t.a * self._cols[0], t.c + t.a * self._cols[1])
        y = (t.f + t.e * start, t.f + t.e * stop)
        window = shapely.box(min(x), min(y), max(x), max(y))
        # sorted, because the order of the polygons decides which one wins
        inside = np.sort(self._tree.query(window, predicate="intersects"))
        if not len(inside):
            return np.full((1, *shape), NO_CODE, np.int32), np.zeros((1, *shape), np.bool_)
        burnt = rasterize(
            zip(self._shapes[inside], self._codes[inside].tolist(), strict=True),
            out_shape=shape,
            transform=self._grid.window_transform(start, self._cols[0]),
            fill=NO_CODE,
            all_touched=self._all_touched,
            # uint8, the default, would clamp codes above 255
            dtype="int32",
        )
        seen = (burnt != NO_CODE)[None]
        if self._table is None:
            return burnt[None], seen
        return np.where(seen, self._table[np.where(seen, burnt, 0)], 0), seen


def burning_order(codes: NDArray[np.int64], priority: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the order that burns codes of a higher priority (named earlier) later."""
    rank = {code: number for number, code in enumerate(reversed(priority), start=1)}
    ranks = np.array([rank.get(int(code), 0) for code in codes])
    return np.argsort(ranks, kind="stable")


def label_codes(polygons: Polygons, classes: ClassList, path: Path) -> NDArray[np.int64]:
    """Codes of the polygons' classes; :data:`NO_CODE` for those that the class list ignores."""
    code_of = {value: classes.code_of(value, path) for value in dict.fromkeys(polygons.values)}
    if wrong := [code for code in code_of.values() if abs(code) >= 2**63]:
        raise DataError(
            f"{path} has the class code {wrong[0]}, which does not fit 64 bits: "
            f"leave it out with --label-nodata {wrong[0]}"
        )
    return np.array([code_of[value] for value in polygons.values], np.int64)


def overlapping(shapes: NDArray[Any], codes: NDArray[np.int64]) -> int:
    """Count the polygons that overlap one of another class."""
    if len(shapes) > MOST_COMPARED or len(np.unique(codes)) < 2:
        return 0
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    rivals = (first < second) & (codes[first] != codes[second])
    first, second = first[rivals], second[rivals]
    shared = shapely.area(shapely.intersection(shapes[first], shapes[second])) > 0
    return len(np.unique(np.concatenate([first[shared], second[shared]])))


@dataclass(frozen=True)
class PolygonLabels(LabelFormat):
    """Polygons with a class column, burnt onto the scene's grid."""

    file: PolygonFile

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """Tell by its suffix whether a file holds polygons."""
        return path.suffix.lower() in POLYGON_SUFFIXES

    @classmethod
    def suits(cls, options: SceneOptions) -> bool:
        """Polygons come first where a class column is named."""
        return options.label_column is not None

    @classmethod
    def from_file(cls, path: Path, options: SceneOptions) -> Self:
        """Read the polygons; they stay in memory for the checks of every scene."""
        if options.label_column is None:
            raise DataError(f"{path} holds polygons: name the column of the class, --label-column")
        column, layer = options.label_column, options.label_layer
        return cls(
            path, polygon_file(path, column, layer, options.no_label_values, options.label_crs)
        )

    @classmethod
    def implied_classes(
        cls,
        files: Sequence[Self],
        *,
        pixels: bool,  # noqa: ARG003 - a pixel outside all polygons has no code, not code 0
    ) -> ClassList:
        """Return the values of the class column over all files."""
        return named_classes(v for labels in set(files) for v in read_polygons(labels.file).values)

    def check(self, grid: Grid, rules: LabelRules) -> list[str]:
        """Check classes and position; note what is reprojected and what overlaps."""
        polygons = read_polygons(self.file)
        codes = label_codes(polygons, rules.classes, self.path)
        projected(polygons, grid, self.path)
        notes = list(polygons.notes)
        if polygons.crs is not None and grid.crs is not None and polygons.crs != grid.crs:
            notes.append(f"{self.path.name} brought to {grid.crs_text}")
        rivals = 0 if rules.priority else overlapping(polygons.shapes, codes)
        if rivals:
            notes.append(
                f"{self.path.name}: {rivals} polygons overlap one of another class, the later "
                "wins: name the order with --priority"
            )
        return notes

    @classmethod
    def outside_notes(cls, placed: Sequence[tuple[Self, Grid]]) -> list[str]:
        """Note how many polygons of each file lie in no scene."""
        grids: dict[PolygonFile, list[Grid]] = defaultdict(list)
        for labels, grid in placed:
            grids[labels.file].append(grid)
        counts = {
            file.path.name: (file, _outside(file, of_file)) for file, of_file in grids.items()
        }
        return [
            f"{name}: {count} of {len(read_polygons(file).shapes)} polygons lie in no scene"
            for name, (file, count) in counts.items()
            if count
        ]

    def open(
        self, stack: ExitStack, grid: Grid, cols: tuple[int, int], rules: LabelRules
    ) -> RowSource:
        """Burn the polygons, those of a higher priority last; without those of no class."""
        polygons = read_polygons(self.file)
        codes = label_codes(polygons, rules.classes, self.path)
        shapes = projected(polygons, grid, self.path)
        order = burning_order(codes, rules.priority)
        order = order[codes[order] != NO_CODE]
        return BurntPolygons(shapes[order], codes[order], grid, cols, all_touched=rules.all_touched)
