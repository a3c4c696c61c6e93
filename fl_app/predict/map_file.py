"""Maps as Cloud-Optimized GeoTIFFs: class codes with colors and names, and probabilities."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from data_prep.foreign_errors import cause_of
from data_prep.ingest.grid import Grid
from data_prep.pictures.map_colors import class_colors
from data_prep.rasters import sidecar_path
from fl_app.predict.unfinished import WORK_FILES, UnfinishedMap
from fl_app.predict.windows import WindowAxis
from rsdgc.durable import replace_file, replace_text
from rsdgc.errors import DataError

BLOCK_BYTES = 48 * 2**20
"""Of blended probabilities that are held at once."""
CACHE_BYTES = 2**21
"""Of sums of probabilities that are formed at once: what a processor's cache holds."""
TAG = "RSDGC_PREDICTION"
"""Tag of a map that this program has written; its value identifies model, scene and options."""
_CLASSES = "CLASSES"


@dataclass(frozen=True)
class MapLegend:
    """What the values of a map mean."""

    codes: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def dtype(self) -> str:
        """The smallest type that holds all codes and one more."""
        return "uint8" if max(self.codes) < 255 and min(self.codes) >= 0 else "int32"

    @property
    def nodata(self) -> int:
        """A value that is no class: 0 where that is free."""
        if 0 not in self.codes:
            return 0
        return 255 if self.dtype == "uint8" else -(2**31)

    @property
    def colors(self) -> dict[int, tuple[int, int, int, int]]:
        """RGBA by code, the same as on reports; the nodata value is transparent."""
        colors = class_colors(self.names).tolist()
        table = {code: (*color, 255) for code, color in zip(self.codes, colors, strict=True)}
        return {self.nodata: (0, 0, 0, 0), **table}


@dataclass(frozen=True, eq=False)
class BlendedRows:
    """Some rows of a scene, for which the windows over each pixel have been averaged."""

    first: int
    best: NDArray[np.unsignedinteger[Any]]
    """Of each pixel, the number of its most probable class, or K where nothing is known: [h, w]."""
    probabilities: NDArray[np.float32] | None
    """Of each class and pixel, NaN where nothing is known: [K, h, w]; None if not asked for."""


def blend(
    unfinished: UnfinishedMap, axes: tuple[WindowAxis, WindowAxis], *, probabilities: bool
) -> Iterator[BlendedRows]:
    """Average the windows over each pixel, and yield the result from top to bottom."""
    rows, cols = axes
    classes = unfinished.probabilities.shape[2]
    height = max(1, min(256, BLOCK_BYTES // (4 * (classes + 1) * cols.length)))
    at_once = max(1, CACHE_BYTES // (4 * (classes + 1) * cols.length))
    spread: dict[int, NDArray[np.float32]] = {}
    for first in range(0, rows.length, height):
        stop = min(first + height, rows.length)
        covering = rows.covering(first, stop)
        spread = {
            i: spread[i] if i in spread else cols.spread(*unfinished.row(i)) for i in covering
        }
        best = np.empty((stop - first, cols.length), np.min_scalar_type(classes))
        chances = None
        if probabilities:
            chances = np.empty((classes, stop - first, cols.length), np.float32)
        for begin, end, over in _bands(rows, first, stop, at_once):
            part = slice(begin - first, end - first)
            if not over:  # a stride of more than a window leaves gaps
                best[part] = classes
                continue
            # Under a single row of windows, one line stands for all.
            lines = 1 if len(over) == 1 else end - begin
            weights = [rows.weights(i)[begin - rows.spans[i, 0] :][:lines] for i in over]
            sums = _weighted_sum([spread[i] for i in over], weights)
            best[part] = _largest(sums)
            if chances is not None:
                np.divide(sums[:-1], sums[-1:], out=sums[:-1], where=sums[-1:] > 0)
                chances[:, part] = sums[:-1]
        usable = unfinished.usable(first, stop)
        if not usable.all():
            np.copyto(best, classes, where=~usable)
        if chances is not None:
            chances[:, best == classes] = np.nan
        yield BlendedRows(first, best, chances)


def _bands(
    rows: WindowAxis, first: int, stop: int, at_once: int
) -> Iterator[tuple[int, int, range]]:
    """Divide rows of pixels into bands under the same rows of windows, and yield these, too.

    Under two or more, the weights differ from pixel to pixel: then ``at_once`` rows are a band.
    """
    edges = np.unique(np.clip(rows.spans, first, stop))
    for begin, end in pairwise(np.union1d(edges, [first, stop]).tolist()):
        over = rows.covering(begin, end)
        step = at_once if len(over) > 1 else end - begin
        for start in range(begin, end, step):
            yield start, min(start + step, end), over


def _weighted_sum(
    lines: Sequence[NDArray[np.float32]], weights: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Add lines (K + 1, w), each times a weight in every one of h rows: (K + 1, h, w)."""
    total = lines[0][:, None] * weights[0][:, None]
    product = np.empty_like(total)
    for line, weight in zip(lines[1:], weights[1:], strict=True):
        np.multiply(line[:, None], weight[:, None], out=product)
        total += product
    return total


def _largest(sums: NDArray[np.float32]) -> NDArray[np.unsignedinteger[Any]]:
    """Return the first of the largest of K sums (K + 1, h, w); K where the last, the weight, is 0.

    Class by class, which takes a third of the time of ``argmax`` over an axis that is not the last.
    """
    classes = len(sums) - 1
    best = np.zeros(sums.shape[1:], np.min_scalar_type(classes))
    largest = sums[0].copy()
    for number in range(1, classes):
        np.copyto(best, number, where=sums[number] > largest)
        np.maximum(largest, sums[number], out=largest)
    np.copyto(best, classes, where=sums[-1] <= 0)
    return best


def write_maps(
    target: Path,
    probabilities: Path | None,
    obsolete: Sequence[Path],
    unfinished: UnfinishedMap,
    axes: tuple[WindowAxis, WindowAxis],
    grid: Grid,
    legend: MapLegend,
    tags: dict[str, str],
) -> dict[str, int]:
    """Write the map of classes, and if asked for that of probabilities; return pixels by class.

    Each file appears complete, under its name, or not at all. The ``obsolete`` ones of an earlier
    map are deleted as the new one takes its place.
    """
    values = np.array([*legend.codes, legend.nodata], legend.dtype)
    counts = np.zeros(len(legend.codes), np.int64)
    shape = {"height": axes[0].length, "width": axes[1].length}
    place = {"crs": grid.crs, "transform": grid.transform} if grid.is_placed else {}
    work, work_probabilities = (unfinished.folder / name for name in WORK_FILES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            profile: dict[str, Any] = {"driver": "GTiff", "BIGTIFF": "IF_SAFER", **shape, **place}
            with ExitStack() as opened:
                own = {"count": 1, "dtype": legend.dtype, "nodata": legend.nodata}
                file = opened.enter_context(rasterio.open(work, "w", **own, **profile))
                chances = None
                if probabilities is not None:
                    own = {
                        "count": len(legend.codes),
                        "dtype": "float32",
                        "nodata": float("nan"),
                    }
                    chances = rasterio.open(work_probabilities, "w", **own, **profile)
                    opened.enter_context(chances)
                for rows in blend(unfinished, axes, probabilities=chances is not None):
                    counts += np.bincount(rows.best.ravel(), minlength=len(values))[:-1]
                    window = Window(0, rows.first, shape["width"], len(rows.best))
                    file.write(values[rows.best], 1, window=window)
                    if chances is not None:
                        chances.write(rows.probabilities, window=window)
                if legend.dtype == "uint8":
                    file.write_colormap(1, legend.colors)
                file.set_band_description(1, "class")
                file.update_tags(**tags)
                if chances is not None:
                    for number, name in enumerate(legend.names, start=1):
                        chances.set_band_description(number, name)
                    chances.update_tags(**tags)
            if probabilities is not None:
                _publish(work_probabilities, probabilities, "AVERAGE", predictor="FLOATING_POINT")
            # The names come first: where the map is, they are.
            obsolete = [*obsolete, *_write_sidecar(target, legend)]
            _publish(work, target, "MODE", predictor="NO", obsolete=obsolete)
    except RasterioError as error:
        raise DataError(
            f"{target} cannot be written: {cause_of(error)}: see whether its disk is full; what is "
            "done stays, and the same command goes on"
        ) from error
    return dict(zip(legend.names, counts.tolist(), strict=True))


def _publish(
    work: Path, target: Path, resampling: str, predictor: str, obsolete: Sequence[Path] = ()
) -> None:
    def write(draft: Path) -> None:
        rasterio.shutil.copy(
            work,
            draft,
            driver="COG",
            COMPRESS="DEFLATE",
            PREDICTOR=predictor,
            OVERVIEW_RESAMPLING=resampling,
            NUM_THREADS="ALL_CPUS",
            BIGTIFF="IF_SAFER",
        )
        # Now, when the disk has taken the new map: should it be full, the old one stays whole.
        for path in obsolete:
            path.unlink(missing_ok=True)

    replace_file(target, write)
    work.unlink()


def is_sidecar_of_another(target: Path, legend: MapLegend) -> bool:
    """Return whether there is a sidecar without its map that is not the one of this legend.

    An interrupted prediction may have left the latter, which it writes before its map.
    """
    sidecar = sidecar_path(target)
    if target.exists() or not sidecar.exists():
        return False
    try:
        return sidecar.read_text(encoding="utf-8") != _category_names(legend)
    except (OSError, ValueError):
        return True


def _write_sidecar(target: Path, legend: MapLegend) -> list[Path]:
    """Write the names of classes where GDAL keeps them, for ``category_names`` and QGIS.

    Where there are none to write, an earlier map's is returned: it is obsolete.
    """
    names, sidecar = _category_names(legend), sidecar_path(target)
    if names is None:
        return [sidecar] if _has_written(sidecar, target) else []
    replace_text(sidecar, names)
    return []


def _category_names(legend: MapLegend) -> str | None:
    """Return the content of a map's sidecar; None if there is none for such codes."""
    if min(legend.codes) < 0 or max(legend.codes) > 2**16:
        return None  # GDAL's list has a name for every value from 0
    by_code = dict(zip(legend.codes, legend.names, strict=True))
    names = [escape(by_code.get(code, "")) for code in range(max(legend.codes) + 1)]
    lines = "".join(f"      <Category>{name}</Category>\n" for name in names)
    return (
        '<PAMDataset>\n  <PAMRasterBand band="1">\n    <CategoryNames>\n'
        f"{lines}    </CategoryNames>\n  </PAMRasterBand>\n</PAMDataset>\n"
    )


def _has_written(sidecar: Path, target: Path) -> bool:
    """Return whether a sidecar is, unchanged, the one that was written with the map beside it."""
    file = read_predicted(target)
    if file is None or not sidecar.is_file():
        return False
    try:
        names = {int(code): str(name) for code, name in json.loads(file.tags[_CLASSES]).items()}
        content = sidecar.read_text(encoding="utf-8")
    except (KeyError, ValueError, AttributeError):
        return False
    return bool(names) and content == _category_names(
        MapLegend(tuple(names), tuple(names.values()))
    )


@dataclass(frozen=True)
class PredictedFile:
    """A file that this program has written: a map, or probabilities."""

    key: str
    """Identifies model, scene and options."""
    has_probabilities: bool
    tags: Mapping[str, str]


def read_predicted(path: Path) -> PredictedFile | None:
    """Return what a file says of its prediction; None for one that this program has not written."""
    if not path.is_file():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as source:
                tags, dtype = source.tags(), source.dtypes[0]
    except RasterioError:
        return None
    return PredictedFile(tags[TAG], dtype == "float32", tags) if TAG in tags else None


def class_tags(legend: MapLegend) -> dict[str, str]:
    """Return the tag that names the classes: a JSON object of code and name."""
    return {_CLASSES: json.dumps(dict(zip(map(str, legend.codes), legend.names, strict=True)))}
