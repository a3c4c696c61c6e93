"""Labels in a raster: codes of classes, or their colors.

Values of labels are no measurements: integers stay exact, and what has no class is named with its
number of pixels.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.warp import transform_bounds

from data_prep.ingest.aligned import AlignedRaster, Band, RowSource, read_step
from data_prep.ingest.archive import is_raster
from data_prep.ingest.class_list import (
    NO_CODE,
    ClassList,
    UnknownLabelError,
    raster_classes,
    whole_codes,
)
from data_prep.ingest.grid import Grid, bounds_of, is_on_grid, share_outside
from data_prep.ingest.label_format import LabelFormat, LabelRules
from data_prep.ingest.label_majority import MajorityRows, covered
from data_prep.ingest.label_values import Color, LabelValue, hex_color, parse_color
from data_prep.ingest.losses import counts_text
from data_prep.ingest.options import SceneOptions
from data_prep.ingest.turned import turns
from data_prep.rasters import RasterFile, open_raster, read_header
from rsdgc.errors import DataError

#: How many times as wide as a label's pixel one of the grid is, from which on labels are brought to
#: it by majority. Below it, a pixel covers hardly more than one.
FINER = 1.2


@dataclass(frozen=True)
class RasterLabels(LabelFormat):
    """Label codes in the only band of a raster, or colors of classes in three.

    Off the grid, a pixel takes the nearest one's code. Where the raster is finer than the grid, it
    takes the commonest class of those that it covers.
    """

    file: RasterFile
    no_label: frozenset[LabelValue] = frozenset()  #: values that mean no label
    #: Indices and their colors, of a raster with a color table.
    palette: tuple[tuple[int, Color], ...] = ()

    @classmethod
    def recognizes(cls, path: Path) -> bool:
        """Tell by its name whether a file is read as a raster."""
        return is_raster(path.name)

    @classmethod
    def suits(cls, options: SceneOptions) -> bool:
        """Rasters come first, unless a class column is named, which only polygons have."""
        return options.label_column is None

    @classmethod
    def from_file(cls, path: Path, options: SceneOptions) -> Self:
        """Read the header of a raster of one band, or of three of 8 bits."""
        file = read_header(path, crs=options.label_crs)
        if file.bands not in (1, 3) or (file.bands == 3 and file.source_dtype != "uint8"):
            raise DataError(
                f"{path} has {file.bands} bands of {file.source_dtype}, and a label raster has one "
                "of codes, or three of uint8 with the classes' colors: choose another file with "
                "--labels"
            )
        # codes are not measurements: float32 would not hold one such as 20000001
        file = replace(file, dtype=file.source_dtype)
        values = options.no_label_values
        if len(values) == 1 and file.nodatas == (None,):
            # as the file's own: a warp then marks with it what the raster does not cover
            file = file.with_nodata(next(iter(_numbers(values)), None))
        return cls(path, file, values, _palette(file))

    @classmethod
    def implied_classes(cls, files: Sequence[Self], *, pixels: bool) -> ClassList:
        """Return the category names of the first raster."""
        return raster_classes(files[0].path, pixels=pixels)

    @property
    def rasters(self) -> tuple[RasterFile, ...]:
        """The raster itself."""
        return (self.file,)

    @property
    def painted(self) -> bool:
        """Whether pixels hold their class's color."""
        return self.file.bands == 3

    def check(self, grid: Grid, rules: LabelRules) -> list[str]:
        """Check that colors have classes; note whether they or the codes decide."""
        if self.painted and not _color_codes(rules.classes):
            raise UnknownLabelError(
                f"{self.path} has 3 bands, colors of classes: give each class its color in the "
                'file of --classes, {"1": {"name": "water", "color": "#0000ff"}, …}, or with '
                "--remap 'water=#0000ff'"
            )
        if rules.classes.remap is None and _by_color(self, rules.classes):
            return [
                f"{self.path.name} has a color table: classes are those of its colors, as the "
                "class list has the same colors under other codes"
            ]
        return []

    def resampling(self, grid: Grid) -> str:
        """``mode`` where the raster is finer than the grid."""
        if self.file.crs is None or is_on_grid(self.file, grid):
            return "nearest"
        return "mode" if is_finer(self.file, grid) else "nearest"

    @classmethod
    def outside_notes(cls, placed: Sequence[tuple[Self, Grid]]) -> list[str]:
        """Note the share of each raster that lies in no scene."""
        grids: dict[RasterFile, list[Grid]] = defaultdict(list)
        for labels, grid in placed:
            grids[labels.file].append(grid)
        shares = {file.path.name: share_outside(file, of_file) for file, of_file in grids.items()}
        return [
            f"{name}: {min(s, 0.99):.0%} of it lies in no scene"
            for name, s in shares.items()
            if s > 0.005
        ]

    def row_step(self, width: int, unit: int) -> int:
        """Rows of whole blocks of the file."""
        row_bytes = width * self.file.bands * np.dtype(self.file.source_dtype).itemsize
        return read_step(row_bytes, self.file.block_height, unit)

    def open(
        self, stack: ExitStack, grid: Grid, cols: tuple[int, int], rules: LabelRules
    ) -> RowSource:
        """Open the raster on the grid."""
        mode = self.resampling(grid) == "mode"
        if mode and self._counts_classes(rules.classes):
            return self._majority(stack, grid, cols, rules)
        raster = AlignedRaster(stack, self.file, grid, nearest=True, mode=mode, cols=cols)
        return CodedRows(raster, self, rules.classes, exact=is_on_grid(self.file, grid))

    def _counts_classes(self, classes: ClassList) -> bool:
        """Tell whether classes have to be counted, because values of a pixel do not say enough."""
        unlabeled = {float(value) for value in _numbers(self.no_label)}
        return _table(self, classes) is not None or not unlabeled <= set(self.file.nodatas)

    def _majority(
        self, stack: ExitStack, grid: Grid, cols: tuple[int, int], rules: LabelRules
    ) -> MajorityRows:
        file = self.file
        # where it lies by the longitudes of the grid
        place = Affine.translation(turns(file, grid)[0], 0.0) @ file.transform
        fine = Grid(file.crs, place, file.height, file.width)
        _, fine_cols = covered(fine, grid, (0, grid.height), cols)
        if fine_cols[1] <= fine_cols[0]:
            fine_cols = (0, 1)  # nothing of it is read
        raster = AlignedRaster(stack, file, fine, nearest=True, cols=fine_cols)
        coded = CodedRows(raster, self, rules.classes, exact=True)
        return MajorityRows(coded, fine, grid, cols, fine_cols[0])


def is_finer(file: RasterFile, grid: Grid) -> bool:
    """Tell whether a raster's pixels are clearly smaller than a grid's."""
    bounds = bounds_of(file.transform, file.height, file.width)
    left, bottom, right, top = transform_bounds(file.crs, grid.crs, *bounds)
    # areas, because a pixel of degrees is no square of meters
    pixel = (right - left) * (top - bottom) / (file.width * file.height)
    return bool(pixel * FINER**2 < abs(grid.transform.a * grid.transform.e))


class CodedRows:
    """Class codes of the values of a label raster, a source of rows.

    ``unknown`` counts the values without a class, where these are ignored.
    """

    def __init__(
        self, raster: AlignedRaster, labels: RasterLabels, classes: ClassList, *, exact: bool
    ) -> None:
        self.unknown: Counter[str] = Counter()
        self._raster = raster
        self._labels = labels
        self._classes = classes
        self._exact = exact
        self._table = _table(labels, classes)
        self._by_color = labels.painted or bool(_by_color(labels, classes))
        if labels.painted:
            colors = [parse_color(str(v)) for v in labels.no_label if str(v).startswith("#")]
            self._no_label: list[float] = [_packed(color) for color in colors]
        else:
            of_colors = (i for i, c in labels.palette if hex_color(c) in labels.no_label)
            self._no_label = [*_numbers(labels.no_label), *of_colors]

    def read(self, start: int, stop: int) -> Band:
        """Read codes (1, h, W) of rows [start, stop), and which pixels have one."""
        values, valid = self._values(self._raster, start, stop)
        if self._table is None:
            return values, valid
        keys, codes = self._table
        place = np.searchsorted(keys, values).clip(max=len(keys) - 1)
        known = keys[place] == values
        unknown = ~known if valid is None else valid & ~known
        if unknown.any():
            if not self._classes.ignore_unknown:
                raise self._unknown_error()
            self.unknown.update(self._counted(values[unknown]))
        translated = codes[place]
        has_code = known & (translated != NO_CODE)
        return translated, has_code if valid is None else valid & has_code

    def _values(self, raster: AlignedRaster, start: int, stop: int) -> Band:
        """Read whole numbers (1, h, W): codes, or packed colors."""
        values, valid = raster.read(start, stop)
        if self._labels.painted:
            # the file's nodata is one of each band: a color is no label where all bands have it
            valid = None if valid is None else np.asarray(valid.any(axis=0, keepdims=True))
            values = _packed(values.astype(np.int64))[None]
        if self._no_label:
            labeled = np.isin(values, self._no_label, invert=True)
            valid = labeled if valid is None else valid & labeled
        codes = whole_codes(values, valid, self._labels.path)
        if not self._exact and codes.dtype == np.int64:
            largest = np.abs(codes if valid is None else codes[valid]).max(initial=0)
            if largest > 2**53:
                raise DataError(
                    f"{self._labels.path} has the code {largest}, which a warp does not keep: "
                    "bring the labels to the images' grid, or write them with smaller codes"
                )
        return codes, valid

    def _counted(self, values: NDArray[np.integer[Any]]) -> Counter[str]:
        distinct_values, counts = np.unique(values, return_counts=True)
        colors = {index: hex_color(color) for index, color in self._labels.palette}
        total: Counter[str] = Counter()
        for value, count in zip(distinct_values.tolist(), counts.tolist(), strict=True):
            text = f"#{value:06x}" if self._labels.painted else str(value)
            # several indices may have one color
            total[colors.get(value, text) if self._by_color else text] += count
        return total

    def _unknown_error(self) -> UnknownLabelError:
        """Count the values without a class over the whole file."""
        labels, table = self._labels, self._table
        assert table is not None
        file = labels.file
        total: Counter[str] = Counter()
        with ExitStack() as stack:
            grid = Grid(file.crs, file.transform, file.height, file.width)
            raster = AlignedRaster(stack, file, grid, nearest=True)
            step = labels.row_step(file.width, 1)
            for start in range(0, file.height, step):
                values, valid = self._values(raster, start, min(start + step, file.height))
                unknown = ~np.isin(values, table[0])
                total.update(self._counted(values[unknown if valid is None else unknown & valid]))
        what = "colors that no class has" if self._by_color else "codes that no --remap names"
        first = total.most_common(1)[0][0]
        return UnknownLabelError(
            f"{labels.path} has {what}: {counts_text(total)}: give them a class with "
            f"{'--classes or ' if self._by_color else ''}--remap, mark them with "
            f"--label-nodata '{first}', or use --unknown ignore"
        )


def _table(
    labels: RasterLabels, classes: ClassList
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return the values that have a class, rising, and their codes; None where values are codes."""
    if labels.painted:
        codes = _color_codes(classes)
    else:
        codes = _by_color(labels, classes)
        if not codes and classes.remap is None:
            return None
        given = (classes.remap or {}).items()
        codes |= {value: code for value, code in given if isinstance(value, int)}
        if classes.zero_is_unlabeled:
            codes.setdefault(0, NO_CODE)
    pairs = sorted(codes.items()) or [(NO_CODE, NO_CODE)]
    keys, values = zip(*pairs, strict=True)
    return np.array(keys, np.int64), np.array(values, np.int64)


def _palette(file: RasterFile) -> tuple[tuple[int, Color], ...]:
    """Read the color table of a label raster; empty without one."""
    if not file.palette:
        return ()
    with open_raster(file.path, file.opened) as source:
        return tuple((i, (r, g, b)) for i, (r, g, b, _) in sorted(source.colormap(1).items()))


def _by_color(labels: RasterLabels, classes: ClassList) -> dict[int, int]:
    """Return the codes of a color table's indices, where colors decide and not the indices.

    They do where ``--remap`` names colors, and where the class list has the table's colors under
    other codes than the table: programs number the colors of a picture as they like.
    """
    codes = _color_codes(classes)
    of_index = {i: codes[_packed(c)] for i, c in labels.palette if _packed(c) in codes}
    if classes.remap is not None:
        return of_index
    is_whole = set(of_index.values()) == set(classes.names)
    differ = any(of_index.get(code) != code for code in classes.names)
    return of_index if is_whole and differ else {}


def _color_codes(classes: ClassList) -> dict[int, int]:
    """Return the codes of colors, which are packed."""
    named: Mapping[LabelValue, int] = classes.remap or {
        hex_color(color): code for code, color in classes.colors.items()
    }
    return {
        _packed(parse_color(value)): code
        for value, code in named.items()
        if isinstance(value, str) and value.startswith("#")
    }


def _packed(color: Any) -> Any:
    """Return red, green and blue (also arrays) as one number: 0xrrggbb."""
    return (color[0] << 16) | (color[1] << 8) | color[2]


def _numbers(values: Iterable[LabelValue]) -> list[float]:
    """Return the values that are numbers, integers exactly."""
    numbers: list[float] = []
    for value in values:
        try:
            numbers.append(value if isinstance(value, int) else float(value))
        except ValueError:
            continue  # a text of a class column, or a color
    return numbers
