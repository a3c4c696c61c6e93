"""Reading of rasters and their headers, and writing of GeoTIFFs, through GDAL."""

from __future__ import annotations

import math
import os
import re
import struct
import threading
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from rasterio.warp import calculate_default_transform

from data_prep.crs import horizontal_crs, meters_per_unit, parse_crs, pixel_on_ground
from data_prep.foreign_errors import reading
from rsdgc.errors import DataError
from rsdgc.plain_text import MAX_NAME, plain_line

#: Suffixes of files that are read as rasters without being named.
RASTER_SUFFIXES = frozenset(
    (
        *(".tif", ".tiff", ".jp2", ".j2k", ".img", ".vrt", ".png", ".jpg", ".jpeg", ".nc"),
        *(".bil", ".bip", ".bsq", ".asc", ".hgt", ".dt0", ".dt1", ".dt2", ".ers", ".pix"),
    )
)
#: And of pictures that may be samples of a class, but are no band of a scene.
PICTURE_SUFFIXES = frozenset((".bmp", ".gif", ".webp"))
#: How complex numbers become real ones: amplitude, or 20·log10 of it.
COMPLEX_MODES = ("amp", "db")
#: Names of the bands of an image in colors, and of those that a color table is expanded to.
COLOR_NAMES = ("red", "green", "blue")
#: Bytes of decoded blocks that GDAL keeps in one process; its own default is a share of the RAM.
CACHE_BYTES = 64 * 2**20
#: Number of the tag in which GDAL writes a GeoTIFF's nodata value, as text.
NODATA_TAG = 42113
_OPENING = threading.Lock()


_SPELLINGS = {
    **dict.fromkeys(("m", "metre", "metres", "meter", "meters"), "m"),
    **dict.fromkeys(("ft", "foot", "feet"), "ft"),
}
"""GDAL writes ``metre`` for the unit of a vertical CRS, and files have any of these spellings."""


@dataclass(frozen=True)
class RasterFile:
    """Header of a raster: which of its bands are used, and how their values are stored.

    Bands are those read: without an alpha band, and the three colors of an expanded color table.
    The stored type is the file's, but float32 for float64 and for complex numbers, and uint8 for an
    expanded color table. ``crs`` is None where the file has none or no position in it, and has no
    vertical part. For a file that is placed by ground control points, CRS, transform and size are
    of the north-up grid that it is warped to.
    """

    path: Path
    indexes: tuple[int, ...]  #: numbers of the bands in the file, from 1
    names: tuple[str, ...]  #: of the bands
    source_dtype: str  #: NumPy name of the file's type
    dtype: str  #: and of the stored one
    #: of the bands; None also where the type cannot hold it, an integer where no float is equal
    nodatas: tuple[float | int | None, ...]
    crs: Any
    transform: Any
    height: int
    width: int
    alpha: bool = False  #: there is an alpha band
    palette: bool = False  #: the values are indices into a color table
    expand: bool = False  #: and are replaced by its colors
    gcps: bool = False  #: placed by ground control points
    complex_mode: str = ""  #: how complex values become real ones; empty where they are real
    scales: tuple[float, ...] = ()  #: ``value * scale + offset`` is physical; empty if undeclared
    offsets: tuple[float, ...] = ()
    units: tuple[str, ...] = ()  #: of the physical values, by band, or ""; empty if undeclared
    block_height: int = 1  #: rows of a tile or strip
    tiled: bool = False  #: stored in tiles; strips are slow to read in windows
    #: What GDAL opens in place of the path: a subdataset, or a mosaic of several files.
    opened: str = ""
    pieces: tuple[Path, ...] = ()  #: files of the mosaic
    notes: tuple[str, ...] = ()  #: what the header declares that is not used

    @property
    def is_placed(self) -> bool:
        """Whether the file says where its pixels lie, if not always in which CRS."""
        return not self.transform.is_identity

    @property
    def stored_nodatas(self) -> tuple[float | int | None, ...]:
        """Nodata values of the bands as they are stored: None where the stored type has none."""
        if self.expand or self.complex_mode:
            return (None,) * self.bands
        return tuple(usable_nodata(value, self.dtype) for value in self.nodatas)

    @property
    def nodata(self) -> float | int | None:
        """The value that marks invalid pixels of all bands as they are stored, or None."""
        return shared_nodata([self])

    @property
    def bands(self) -> int:
        """Number of bands that reading returns."""
        return len(self.names)

    @property
    def resolution(self) -> float:
        """Pixel size in CRS units, or 1 without a CRS."""
        if self.crs is None:
            return 1.0
        return float(np.hypot(self.transform.a, self.transform.d))

    @property
    def resolution_m(self) -> float:
        """Pixel size in meters, in degrees as at the equator: the same wherever the file lies."""
        return self.resolution * meters_per_unit(self.crs)

    @property
    def ground_m(self) -> float:
        """Pixel size in meters on the ground at the file's center, whatever its CRS is."""
        return pixel_on_ground(self.crs, self.transform, self.height, self.width)

    def with_nodata(self, nodata: float | int | None) -> RasterFile:
        """Return the header with another nodata value for all bands."""
        value = usable_nodata(nodata, self.source_dtype)
        return replace(self, nodatas=(value,) * len(self.indexes))

    def as_amplitudes(self) -> RasterFile:
        """Return the header of a complex file that is read as its amplitudes, to be warped."""
        nodatas = tuple(None if value is None else abs(value) for value in self.nodatas)
        return replace(self, source_dtype="float32", nodatas=nodatas)

    def by_nodata(self) -> list[RasterFile]:
        """Divide a file whose bands have several nodata values: a warp takes one for all bands."""
        if len(set(self.nodatas)) == 1:
            return [self]
        return [
            replace(self, indexes=(index,), names=(name,), nodatas=(nodata,), scales=(), offsets=())
            for index, name, nodata in zip(self.indexes, self.names, self.nodatas, strict=True)
        ]

    def expanded(self) -> RasterFile:
        """Return the header of an image whose color table is replaced by its colors."""
        if not self.palette:
            return self
        return replace(self, expand=True, names=COLOR_NAMES, dtype="uint8", units=())

    def with_colors(self) -> RasterFile:
        """Return the header with the bands of a PNG or JPEG, which have no names but a known order.

        So are named the bands of any file of three bytes a pixel that has no names for them.
        """
        if self.dtype != "uint8" or self.names != ("band1", "band2", "band3"):
            return self
        return replace(self, names=COLOR_NAMES)


def gdal_environment() -> Any:
    """Return a context in which many rasters are opened: with a bounded cache, and set up once."""
    return rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES)


def open_dataset(path: str | os.PathLike[str], opened: str = "") -> Any:
    """Open a raster as :func:`open_raster` does; errors of later reading stay what they are."""
    # warning filters belong to the process, and changing them in two threads mixes them up
    with reading(path), _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(opened or path)


@contextmanager
def open_raster(path: str | os.PathLike[str], opened: str = "") -> Iterator[Any]:
    """Open a raster with rasterio; failures to open or to read become DataError.

    ``opened`` is what GDAL opens in place of the path: a subdataset, or a mosaic of several files.
    """
    with reading(path), open_dataset(path, opened) as dataset:
        yield dataset


def read_header(
    path: Path, complex_mode: str | None = None, crs: str | None = None, *, opened: str = ""
) -> RasterFile:
    """Read the header of a raster of any format that GDAL reads, and no pixels.

    ``opened`` is as in :func:`open_raster`. Complex values need a ``complex_mode`` of
    :data:`COMPLEX_MODES`. A ``crs`` replaces what the file declares. A DataError also names bands
    of several types.
    """
    with open_raster(path, opened) as source:
        if not source.count:
            raise _no_bands(path, source)
        colors = source.colorinterp
        indexes = tuple(i for i in source.indexes if colors[i - 1] != ColorInterp.alpha)
        dtypes = {source.dtypes[i - 1] for i in indexes}
        if len(dtypes) != 1:
            raise DataError(
                f"{path} has bands of types {sorted(dtypes)}: write them in one type, as with rio "
                "convert --dtype"
            )
        dtype = dtypes.pop()
        is_complex = dtype.startswith("complex")
        if is_complex and complex_mode is None:
            raise DataError(f"{path} is of type {dtype}: choose --complex amp or --complex db")
        native = "complex64" if dtype == "complex_int16" else dtype
        place = _georeference(source, parse_crs(crs))
        notes = list(place.notes)
        palette = ColorInterp.palette in colors
        if palette and not _has_color_table(source):
            palette = False
            notes.append("declares a color table and has none: values are read as they are")
        descriptions = _descriptions(source)
        if descriptions is None:
            descriptions = (None,) * source.count
            notes.append("has band names that are not UTF-8: bands are named by number")
        scales = tuple(float(source.scales[i - 1]) for i in indexes)
        offsets = tuple(float(source.offsets[i - 1]) for i in indexes)
        if not np.isfinite((*scales, *offsets)).all() or 0 in scales:
            scales = offsets = ()
            notes.append("declares a scale of 0 or one that is no number: values are as stored")
        # GDAL has 1 and 0 where a file declares nothing
        if all(scale == 1 for scale in scales) and not any(offsets):
            scales = offsets = ()
        return RasterFile(
            path=path,
            indexes=indexes,
            names=tuple(_band_name(descriptions[i - 1], i) for i in indexes),
            source_dtype=native,
            dtype="float32" if is_complex or native == "float64" else native,
            nodatas=tuple(usable_nodata(_declared_nodata(source, i), native) for i in indexes),
            crs=place.crs,
            transform=place.transform,
            height=place.height,
            width=place.width,
            alpha=len(indexes) < source.count,
            palette=palette,
            gcps=place.gcps,
            complex_mode=(complex_mode or "") if is_complex else "",
            scales=scales,
            offsets=offsets,
            units=_units(source, indexes),
            block_height=int(source.block_shapes[0][0]),
            tiled=source.block_shapes[0][1] < source.width or source.height == 1,
            opened=opened,
            notes=tuple(f"{path.name} {note}" for note in notes),
        )


def subdataset_name(opened: str) -> str:
    """Return the name of a subdataset, without GDAL's prefix and the path of the file."""
    return opened.rpartition(":")[2].strip("/")


def find_subdataset(path: Path, name: str) -> str:
    """Return what GDAL opens to read a subdataset of a file, given by its name."""
    with open_raster(path) as dataset:
        sources = {subdataset_name(source): source for source in dataset.subdatasets}
        only = dataset.tags(1).get("NETCDF_VARNAME", "") if dataset.count else ""
    if name in sources:
        return str(sources[name])
    if name == only and not sources:
        return f'netcdf:"{path}":{name}'
    known = ", ".join(sources) or only or "none that GDAL can read"
    raise DataError(f"{path} has no subdataset {name}: choose from {known}")


def _no_bands(path: Path, dataset: Any) -> DataError:
    names = [subdataset_name(source) for source in dataset.subdatasets]
    if not names:
        return DataError(f"{path} has no bands: leave it out, or write it again")
    return DataError(
        f"{path} holds {len(names)} subdatasets ({', '.join(names[:20])}): name one with "
        f"--modality NAME=GLOB:SUBDATASET, as in --modality {names[0].rpartition('/')[2]}="
        f"{path.name}:{names[0]}"
    )


@dataclass(frozen=True)
class _Place:
    """Where a raster lies."""

    crs: CRS | None
    transform: Any
    height: int
    width: int
    gcps: bool = False
    notes: tuple[str, ...] = ()


def _georeference(source: Any, given: CRS | None) -> _Place:
    """Return the place of a raster; with control points, that of the warped image."""
    height, width = source.height, source.width
    if not np.isfinite(source.transform).all() or source.transform.is_degenerate:
        raise DataError(
            f"{source.name} has pixels without a size: correct its geotransform, as with rio "
            "edit-info --transform"
        )
    if not source.transform.is_identity:
        # GDAL as well prefers a geotransform to control points
        return _Place(given or horizontal_crs(source.crs), source.transform, height, width)
    points, points_crs = source.gcps
    crs = given or horizontal_crs(points_crs) or horizontal_crs(source.crs)
    if points and crs is not None:
        transform, width, height = calculate_default_transform(crs, crs, width, height, gcps=points)
        return _Place(crs, transform, int(height), int(width), gcps=True)
    if given is not None:
        raise DataError(
            f"{source.name} has no geotransform, so that a CRS does not place it: add a world "
            "file, or leave out --crs and --label-crs"
        )
    notes = []
    if points:
        notes.append("has ground control points without a CRS, not applied: name it with --crs")
    if source.rpcs is not None:
        notes.append("has RPCs, which are not applied: orthorectify it, as with gdalwarp -rpc")
    if source.crs is not None:
        notes.append("has a CRS and no position in it: taken pixel by pixel")
    return _Place(None, Affine.identity(), height, width, notes=tuple(notes))


def _has_color_table(source: Any) -> bool:
    try:
        return bool(source.colormap(1))
    except ValueError:  # "NULL color table"
        return False


def _band_name(description: str | None, number: int) -> str:
    """Name a band as records do, which hold a short line."""
    return plain_line(description or "", MAX_NAME) or f"band{number}"


def _descriptions(source: Any) -> tuple[str | None, ...] | None:
    try:
        return tuple(source.descriptions)
    except UnicodeDecodeError:  # ENVI's headers are often in Latin-1
        return None


def _units(source: Any, indexes: Sequence[int]) -> tuple[str, ...]:
    """Return the units of bands, of one spelling; empty where none is declared."""
    try:
        declared = [plain_line(source.units[i - 1] or "", MAX_NAME) for i in indexes]
    except UnicodeDecodeError:
        return ()
    units = tuple(_SPELLINGS.get(unit.casefold(), unit) for unit in declared)
    return units if any(units) else ()


def shared_nodata(files: Iterable[RasterFile]) -> float | int | None:
    """Return the nodata value of all bands of files as they are stored; None if they differ.

    Where one file declares 0 and another does not, zeros of the other are data.
    """
    values = {value for file in files for value in file.stored_nodatas}
    return values.pop() if len(values) == 1 else None


def _declared_nodata(source: Any, band: int) -> float | int | None:
    """Return a band's nodata value; of 64-bit integers the exact one, which rasterio rounds."""
    value: float | None = source.nodatavals[band - 1]
    if source.dtypes[band - 1] not in ("int64", "uint64"):
        return value
    written = _nodata_tag(source.name)
    if re.search(r"[.eE]", written):
        # rasterio writes the least int64 as -9.22e+18, of which GDAL reads -9
        limits = np.iinfo(source.dtypes[band - 1])
        return min(max(int(float(written)), int(limits.min)), int(limits.max))
    root = ET.fromstring(vrt_text(source))  # noqa: S314 - GDAL wrote it
    text = root.findtext(f"VRTRasterBand[@band='{band}']/NoDataValue")
    return int(text) if text and re.fullmatch(r"[+-]?\d+", text.strip()) else value


def _nodata_tag(path: str) -> str:
    """Return the text of a GeoTIFF's nodata tag if it is a long one; empty for other files."""
    with suppress(OSError, struct.error, UnicodeError, ValueError), Path(path).open("rb") as file:
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2], "")
        is_big = bool(order) and struct.unpack(f"{order}H", head[2:4]) == (43,)
        start, number, entry = (
            (head[8:16], f"{order}Q", f"{order}HHQQ")
            if is_big
            else (head[4:8], f"{order}H", f"{order}HHII")
        )
        if order:
            file.seek(*struct.unpack(f"{order}{'Q' if is_big else 'I'}", start))
            (count,) = struct.unpack(number, file.read(struct.calcsize(number)))
            table = file.read(count * struct.calcsize(entry))
            for tag, _, length, place in struct.iter_unpack(entry, table):
                # shorter texts stand in the place of their own position
                if tag == NODATA_TAG and length > struct.calcsize(f"{entry[:1]}{entry[-1]}"):
                    file.seek(place)
                    text = file.read(min(length, 64)).decode("ascii").strip("\0 ")
                    return text if math.isfinite(float(text)) else ""
    return ""


def vrt_text(source: Any) -> str:
    """Describe a raster in GDAL's XML."""
    with MemoryFile(ext=".vrt") as memory:
        rasterio.shutil.copy(source, memory.name, driver="VRT")
        return str(memory.read().decode())


def with_geotransform(text: str, transform: Any) -> str:
    """Return a description of a raster, as :func:`vrt_text` gives it, with another geotransform."""
    numbers = ", ".join(f"{value:.17g}" for value in transform.to_gdal())
    element = f"<GeoTransform>{numbers}</GeoTransform>"
    return re.sub(r"<GeoTransform>.*?</GeoTransform>", element, text, count=1, flags=re.DOTALL)


def amplitude_text(source: Any) -> str:
    """Return what GDAL opens to read the amplitudes of a complex raster, float32 as its bands.

    A warp of complex numbers would average their phases, which differ from pixel to pixel.
    """
    band = (
        r'<VRTRasterBand dataType="Float32"\1 subClass="VRTDerivedRasterBand">'
        "<PixelFunctionType>mod</PixelFunctionType><SourceTransferType>CFloat32"
        "</SourceTransferType>"
    )
    text = re.sub(r'<VRTRasterBand dataType="C\w+"([^>]*)>', band, vrt_text(source))
    # the amplitude of a nodata value is no data
    return re.sub(r"<NoDataValue>-", "<NoDataValue>", text)


def without_geotransform(source: Any) -> str:
    """Return what GDAL opens to read a raster without its geotransform: control points stay."""
    text = vrt_text(source)
    for tag in ("SRS", "GeoTransform"):
        text = re.sub(rf"<{tag}\b.*?</{tag}>", "", text, count=1, flags=re.DOTALL)
    return text


def usable_nodata(nodata: float | int | None, dtype: str) -> float | int | None:
    """Return a nodata value as a type holds it; None if it cannot, or for NaN, never valid."""
    if nodata is None or not math.isfinite(nodata):
        return None
    kind = np.dtype(dtype)
    if kind.kind in "fc":
        if kind.itemsize != 4:
            return float(nodata)
        # files declare -3.4028235e38, the lowest float32, with more or fewer digits than it has
        limit = float(np.finfo(np.float32).max)
        if limit < abs(nodata) < 1.001 * limit:
            return math.copysign(limit, nodata)
        return float(np.float32(nodata)) if abs(nodata) <= limit else None
    limits = np.iinfo(kind)
    whole = int(nodata)
    if whole != nodata or not int(limits.min) <= whole <= int(limits.max):
        return None
    return float(whole) if int(float(whole)) == whole else whole


def real_values(values: NDArray[Any], file: RasterFile) -> NDArray[Any]:
    """Convert values as read to the stored type: float64 to float32, complex to real."""
    if file.complex_mode:
        amplitude: NDArray[np.float32] = np.abs(values).astype(np.float32)
        if file.complex_mode == "amp":
            return amplitude
        with np.errstate(divide="ignore"):
            return np.asarray(20 * np.log10(amplitude), np.float32)
    with np.errstate(over="ignore"):
        return values.astype(file.dtype, copy=False)


def color_table(source: Any) -> NDArray[np.uint8]:
    """Return the colors of a raster's first band: uint8 [256 or more, 4], red, green, blue, alpha.

    Indices that the table does not have are transparent.
    """
    table = source.colormap(1)
    colors = np.zeros((max(256, max(table) + 1), 4), np.uint8)
    for index, color in table.items():
        colors[index] = color
    return colors


def sidecar_path(path: Path) -> Path:
    """Return where GDAL keeps what a raster's own format has no place for."""
    return path.with_name(path.name + ".aux.xml")


def category_names(path: Path) -> dict[int, str]:
    """Read a label raster's category names, by code, from its ``.aux.xml``, if it has one."""
    side = sidecar_path(path)
    if not side.is_file():
        return {}
    try:
        root = ET.parse(side).getroot()  # noqa: S314 - the site's own file; expat caps expansion
    except ET.ParseError:
        return {}
    names = [node.text or "" for node in root.iterfind(".//CategoryNames/Category")]
    return {code: name.strip() for code, name in enumerate(names) if name.strip()}


def natural_key(text: str) -> list[tuple[int, int | str]]:
    """Return a sort key that puts ``b2`` before ``b10``."""
    parts = re.split(r"(\d+)", text.lower())
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts if part]


def write_geotiff(
    path: Path,
    bands: NDArray[Any],
    band_names: tuple[str, ...] = (),
    colors: Mapping[int, tuple[int, int, int, int]] | None = None,
    *,
    tags: Mapping[str, str],
    block_px: int,
    units: tuple[str, ...] = (),
    **profile: Any,
) -> None:
    """Write bands (C, H, W) as a tiled, deflated GeoTIFF.

    ``colors`` (RGBA by value) are the color table of the first band, ``units`` those of the bands;
    ``profile`` has what else rasterio takes: CRS, transform, nodata, creation options.
    """
    count, height, width = bands.shape
    profile |= {"count": count, "height": height, "width": width, "dtype": bands.dtype.name}
    profile |= {"tiled": True, "blockxsize": block_px, "blockysize": block_px}
    # differences of neighbors deflate better; floating point has a predictor of its own
    predictor = 3 if bands.dtype.kind == "f" else 2 if bands.dtype.itemsize > 1 else 1
    profile |= {"compress": "deflate", "predictor": predictor}
    with rasterio.open(path, "w", driver="GTiff", **profile) as target:
        target.write(bands)
        target.update_tags(**tags)
        for number, name in enumerate(band_names, start=1):
            target.set_band_description(number, name)
        for number, unit in enumerate(units, start=1):
            target.set_band_unit(number, unit)
        if colors:
            target.write_colormap(1, colors)
