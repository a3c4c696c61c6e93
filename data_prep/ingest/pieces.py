"""Images in pieces: tiles of one grid, read as one raster.

The mosaic is a VRT, GDAL's description of a raster that lies in other files, and is nowhere
written: GDAL opens the text itself. Ground that no piece covers is invalid. Where pieces overlap,
the last one counts.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import shapely

from data_prep.ingest.grid import TOLERANCE, bounds_of
from data_prep.rasters import RasterFile, open_raster, read_header
from rsdgc.errors import DataError

#: Least share of a mosaic's extent that its pieces cover, if nothing says that they are pieces.
LEAST_COVERED = 0.25
#: GDAL's names of types.
GDAL_TYPES = {
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "uint64": "UInt64",
    "int64": "Int64",
    "float32": "Float32",
    "float64": "Float64",
    "complex64": "CFloat32",
    "complex128": "CFloat64",
}


def are_pieces(files: Sequence[RasterFile]) -> bool:
    """Tell whether files are alike but show different ground, so that they are no bands."""
    first = files[0]
    if len(files) < 2 or first.crs is None:
        return False
    kinds = {(file.bands, file.source_dtype, str(file.crs)) for file in files}
    boxes = shapely.box(*np.transpose([_bounds(file) for file in files]))
    overlap = shapely.area(boxes).sum() - shapely.area(shapely.union_all(boxes))
    return len(kinds) == 1 and bool(overlap < first.resolution**2)


def join_pieces(files: Sequence[RasterFile]) -> RasterFile:
    """Return the header of the mosaic of some files; DataError if they do not share a grid."""
    first = files[0]
    for file in files[1:]:
        if fault := _fault(first, file):
            raise DataError(
                f"{first.path} and {file.path} are no pieces of one image: {fault}: make them "
                "alike, or tell them apart with --pattern or --modality"
            )
    paths = tuple(file.path for file in files)
    header = read_header(first.path, first.complex_mode or None, opened=_vrt(files))
    return replace(header, pieces=paths)


def pieces_of(mosaics: Iterable[Path], files: Sequence[RasterFile]) -> dict[Path, Path]:
    """Return which of some files are in a mosaic or a stack of bands (VRT), and in which.

    A VRT that computes something else of its sources does not replace them.
    """
    by_path = {_absolute(file.path): file for file in files}
    pieces: dict[Path, Path] = {}
    for mosaic in mosaics:
        if mosaic.suffix.lower() != ".vrt":
            continue
        with open_raster(mosaic) as dataset:
            own = _absolute(mosaic)
            paths = [_absolute(Path(name)) for name in dataset.files]
            sources = [by_path[path] for path in paths if path in by_path and path != own]
            bands, box = dataset.count, shapely.box(*dataset.bounds)
        if len(sources) < 2:
            continue
        is_stack = sum(file.bands for file in sources) == bands
        larger = all(shapely.box(*_bounds(f)).area < box.area * (1 - 1e-6) for f in sources)
        if is_stack or (larger and {file.bands for file in sources} == {bands}):
            pieces |= dict.fromkeys((file.path for file in sources), mosaic)
    return pieces


def join_alike(files: Sequence[RasterFile]) -> list[tuple[str, RasterFile]]:
    """Join files that are alike but show different ground; each comes with its stem.

    Such files in one folder cannot be modalities of one scene. Tiles of one grid are one image;
    DataError for others.
    """
    kinds: dict[tuple[object, ...], list[RasterFile]] = defaultdict(list)
    for file in files:
        kinds[file.bands, file.source_dtype, str(file.crs)].append(file)
    joined: list[tuple[str, RasterFile]] = []
    for alike in kinds.values():
        if not are_pieces(alike):
            joined += [(file.path.stem, file) for file in alike]
            continue
        start = _common_start([file.path.stem for file in alike])
        boxes = np.array([_bounds(file) for file in alike])
        low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
        covered = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).sum() / np.prod(high - low)
        if covered < LEAST_COVERED or any(_fault(alike[0], file) for file in alike[1:]):
            first, second = alike[0].path, alike[1].path
            raise DataError(
                f"{first} and {second.name} show different ground, but lie in one folder as if "
                "they were modalities of one scene: if each is a scene of its own, write "
                f"--pattern '{start}{{scene}}{first.suffix}'"
            )
        joined.append((start.rstrip("_-. ") or alike[0].path.stem, join_pieces(alike)))
    # in the order of the files
    order = {file.path: number for number, file in enumerate(files)}
    return sorted(joined, key=lambda item: order[item[1].path])


def _common_start(stems: Sequence[str]) -> str:
    length = 0
    while all(stem[: length + 1] == stems[0][: length + 1] for stem in stems):
        length += 1
        if length > min(map(len, stems)):
            break
    return stems[0][: min(length, *map(len, stems))]


def _fault(first: RasterFile, file: RasterFile) -> str:
    """Say why a file is no piece of the image that another is of; empty if it may be."""
    t, other = first.transform, file.transform
    if first.gcps or file.gcps or any((t.b, t.d, other.b, other.d)):
        return "they are not north-up"
    for what, value, theirs in (
        ("bands", first.names, file.names),
        ("type", first.source_dtype, file.source_dtype),
        ("nodata value", first.nodatas, file.nodatas),
        ("CRS", first.crs, file.crs),
        ("scale and offset", (first.scales, first.offsets), (file.scales, file.offsets)),
    ):
        if value != theirs:
            return f"they differ in {what}"
    if first.palette or file.palette:
        return "they have color tables"
    shift = np.array([(other.c - t.c) / t.a, (other.f - t.f) / t.e])
    close = np.abs(shift - np.round(shift)).max() < 10 * TOLERANCE
    if not (close and np.allclose((t.a, t.e), (other.a, other.e), rtol=1e-6)):
        return "their pixels do not lie on one grid"
    if np.allclose(_bounds(first), _bounds(file), rtol=0, atol=first.resolution / 2):
        return "they show the same ground"
    return ""


def _bounds(file: RasterFile) -> tuple[float, float, float, float]:
    return bounds_of(file.transform, file.height, file.width)


def _vrt(files: Sequence[RasterFile]) -> str:
    """Describe the mosaic of files of one grid in GDAL's XML."""
    first = files[0]
    bounds = np.array([_bounds(file) for file in files])
    left, top = float(bounds[:, 0].min()), float(bounds[:, 3].max())
    dx, dy = first.transform.a, first.transform.e
    width, height = round((bounds[:, 2].max() - left) / dx), round((bounds[:, 1].min() - top) / dy)
    places = [(round((b[0] - left) / dx), round((b[3] - top) / dy)) for b in bounds]
    bands = []
    for i, index in enumerate(first.indexes):
        nodata = first.nodatas[i]
        lines = [f"<Description>{escape(first.names[i])}</Description>"]
        lines += [] if nodata is None else [f"<NoDataValue>{nodata!r}</NoDataValue>"]
        if first.scales:
            lines.append(f"<Scale>{first.scales[i]!r}</Scale><Offset>{first.offsets[i]!r}</Offset>")
        pieces = zip(files, places, strict=True)
        lines += [_piece(file, str(index), place, nodata) for file, place in pieces]
        kind = quoteattr(GDAL_TYPES[first.source_dtype])
        bands.append(f"<VRTRasterBand dataType={kind} band='{i + 1}'>{''.join(lines)}")
        bands.append("</VRTRasterBand>")
    if any(nodata is None for nodata in first.nodatas):
        # each piece's own mask (alpha, .msk), which is 0 where there is no piece
        masks = [_piece(f, "mask,1", p, None) for f, p in zip(files, places, strict=True)]
        band = f"<VRTRasterBand dataType='Byte'>{''.join(masks)}</VRTRasterBand>"
        bands.append(f"<MaskBand>{band}</MaskBand>")
    srs = "" if first.crs is None else f"<SRS>{escape(first.crs.to_wkt())}</SRS>"
    geo = f"<GeoTransform>{left!r},{dx!r},0,{top!r},0,{dy!r}</GeoTransform>"
    size = f"rasterXSize='{width}' rasterYSize='{height}'"
    return f"<VRTDataset {size}>{srs}{geo}{''.join(bands)}</VRTDataset>"


def _piece(file: RasterFile, band: str, place: tuple[int, int], nodata: float | None) -> str:
    kind = "SimpleSource" if nodata is None else "ComplexSource"
    size = f"xSize='{file.width}' ySize='{file.height}'"
    return (
        f"<{kind}><SourceFilename relativeToVRT='0'>{escape(_absolute(file.path))}</SourceFilename>"
        f"<SourceBand>{band}</SourceBand><SrcRect xOff='0' yOff='0' {size}/>"
        f"<DstRect xOff='{place[0]}' yOff='{place[1]}' {size}/>"
        f"{'' if nodata is None else f'<NODATA>{nodata!r}</NODATA>'}</{kind}>"
    )


def _absolute(path: Path) -> str:
    return str(path) if path.as_posix().startswith("/vsi") else os.path.abspath(path)
