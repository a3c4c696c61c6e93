"""Options of an ingestion, checked before anything is read.

Each field is an option of ``rsdgc ingest``, and errors name it so.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.choices import Edge, SplitBy, Unknown
from data_prep.crs import parse_crs
from data_prep.ingest.label_values import LabelValue, label_value, parse_remap
from data_prep.ingest.name_pattern import NamePattern
from data_prep.rasters import COMPLEX_MODES
from data_prep.splits import check_shares
from rsdgc.errors import DataError, SettingError

#: Highest bit of a mask: the one above it is the sign of 64-bit integers.
MAX_BIT = 62
Nodata = float | Mapping[str, float] | None


@dataclass(frozen=True)
class MaskRule:
    """Which files are masks, and which of their values (or bits) mean invalid."""

    pattern: str
    values: tuple[int, ...]
    bits: bool = False

    def matches(self, name: str) -> bool:
        """Tell by its name whether a file is such a mask; the suffix may be left out."""
        path = PurePosixPath(name)
        return any(fnmatch.fnmatch(text, self.pattern) for text in (path.name, path.stem))

    def valid(self, codes: NDArray[Any]) -> NDArray[np.bool_]:
        """Mark the pixels that the mask leaves."""
        if not self.bits:
            return ~np.isin(codes, self.values)
        if codes.dtype.kind == "f" and (codes != np.round(codes)).any():
            raise DataError(
                f"the mask {self.pattern} has fractions, which have no bits: name its values, as "
                f"in --mask {self.pattern}=1"
            )
        flags = sum(1 << bit for bit in self.values)
        clear: NDArray[np.bool_] = (codes.astype(np.int64) & flags) == 0
        return clear


def parse_mask(text: str) -> MaskRule:
    """Read ``glob=3,8,9`` or ``glob=bits:3,4``."""
    match = re.fullmatch(r"([^=]+)=(bits:)?(\d+(?:,\d+)*)", text)
    if match is None:
        raise SettingError(f"--mask {text!r} is not GLOB=VALUES: write *_SCL=3,8,9 or *QA=bits:3,4")
    values = tuple(int(number) for number in match[3].split(","))
    if match[2] is not None and max(values) > MAX_BIT:
        raise SettingError(
            f"--mask {text!r} has the bit {max(values)}: bits are numbered from 0 to {MAX_BIT}"
        )
    return MaskRule(match[1], values, bits=match[2] is not None)


@dataclass(frozen=True)
class ChipRules:
    """Which windows become chips; see :class:`SceneOptions`."""

    chip_px: int
    stride_px: int
    min_valid: float
    min_label: float
    edge: str = "drop"

    def __post_init__(self) -> None:
        for name, pixels in (("chip", self.chip_px), ("stride", self.stride_px)):
            if pixels < 1:
                raise SettingError(f"--{name} is {pixels}: choose at least 1 px")
        for name, share in (("min-valid", self.min_valid), ("min-label", self.min_label)):
            if not 0 <= share <= 1:
                raise SettingError(f"--{name} is {share}: choose a share from 0 to 1")
        _check_choice("edge", self.edge, list(Edge))


@dataclass(frozen=True, kw_only=True)
class IngestOptions:
    """Options of every layout.

    Attributes
    ----------
    classes
        Class codes and names, or the path of a JSON or CSV file of them: one list for all sites. A
        class may be a mapping of ``name`` and ``color``. Default: what the archive implies.
    unknown
        ``error`` or ``ignore``: what a label outside a given class list is.
    test_share, val_share, seed
        Shares of the samples, and the seed of the choice.
    nodata
        Value (of scenes also by modality) that marks invalid pixels, in place of what the files
        declare.
    complex_mode
        ``amp`` or ``db``: what complex values become.
    strict
        Fail at the first file or scene that cannot be used, instead of listing it in
        ``meta.json``.
    name, synthetic
        Name of the data in reports (default: the archive's), and whether it is synthetic
        (default: what ``archive.json`` says).
    """

    classes: str | Path | Mapping[int, Any] | None = None
    unknown: str = "error"
    test_share: float = 0.2
    val_share: float = 0.0
    seed: int = 0
    nodata: Nodata = None
    complex_mode: str | None = None
    strict: bool = False
    name: str | None = None
    synthetic: bool | None = None

    def __post_init__(self) -> None:
        check_shares(self.test_share, self.val_share)
        if self.seed < 0:
            raise SettingError(f"--seed is {self.seed}: choose 0 or more")
        _check_choice("unknown", self.unknown, list(Unknown))
        if self.complex_mode is not None:
            _check_choice("complex", self.complex_mode, COMPLEX_MODES)

    @property
    def shares(self) -> dict[str, Any]:
        """Arguments that every split takes."""
        return {"test_share": self.test_share, "val_share": self.val_share, "seed": self.seed}


@dataclass(frozen=True, kw_only=True)
class ImageOptions(IngestOptions):
    """Options of :func:`data_prep.ingest.class_folders.ingest_class_folders`.

    The shares of :class:`IngestOptions` are of each class, at each site. Images of equal content
    go to one split. A CSV file with a column ``split`` decides itself.

    Attributes
    ----------
    chip_px
        Side of the chips; default: the common side, where nothing is resampled.
    """

    chip_px: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.chip_px is not None and self.chip_px < 1:
            raise SettingError(f"--chip is {self.chip_px}: choose at least 1 px")


@dataclass(frozen=True, kw_only=True)
class SceneOptions(IngestOptions):
    """Options of :func:`data_prep.ingest.scenes.ingest_scenes`.

    ::

        SceneOptions(chip_px=64)                                labels.tif in each scene folder
        SceneOptions(labels="landuse.gpkg", label_column="fclass")            polygons
        SceneOptions(modalities=["optical=S2_*.tif", "dem=srtm*.tif"])        files by modality
        SceneOptions(masks=["*_SCL=3,8,9,10"], min_valid=0.9)   clouds are invalid pixels
        SceneOptions(patch_px=11)                               a patch round each labeled pixel

    The class list of :class:`IngestOptions` is by default ``classes.json`` of the archive, else
    the category names of the label raster. A given list is closed: other codes are an error, and
    code 0, if the list does not have it, means unlabeled.

    Attributes
    ----------
    labels
        Name of the label file in each scene folder (also a glob that one file matches), the path of
        one for all scenes, or the name of a folder of labels beside folders of images. Default:
        ``labels`` with any suffix.
    label_format
        Name of a label format, or its place as ``package.module:Class``; see
        :mod:`data_prep.ingest.label_format`. Default: the first that recognizes the file.
    label_year
        Year of the label file, where several are named alike but for the year. It also stands for
        ``{year}`` in ``labels``, which is the year of the scene's date by default.
    label_nodata
        Values of the labels that mean no label, besides what files declare: codes, texts of a class
        column, or colors ``#rrggbb``.
    remap
        ``class=values`` texts or CSV files that give values of the labels a class; see
        :mod:`data_prep.ingest.label_values`.
    label_column, label_layer
        Of polygons: the field of the class, and the layer of the file where it has several.
    priority
        Classes by falling priority: where polygons overlap, the class named first wins; the rest
        come after, the later one in the file first.
    all_touched
        Polygons take all pixels that they touch, not only those whose center they hold.
    modalities
        ``name=glob`` for each modality, matched against the file names of a scene folder, instead
        of grouping by names; ``name=glob:subdataset`` for one of several rasters of a file.
    patterns
        What the names of files mean, such as ``{scene}_{band}.tif``; see
        :mod:`data_prep.ingest.name_pattern`.
    masks
        ``glob=1,2,3`` (values) or ``glob=bits:3,4`` of files that mark invalid pixels, such as
        clouds.
    mask_clouds
        Clouds and their shadows are invalid pixels, as the quality files of known sensors say:
        Landsat's ``QA_PIXEL``, Sentinel-2's ``SCL``, HLS's ``Fmask``.
    aoi
        Polygons outside of which pixels count as invalid.
    crs, label_crs
        CRS of all images and masks, and of the labels, in place of what the files declare: an EPSG
        code, WKT, or the path of a ``.prj`` file. Of images also by modality, under the empty name
        for all others.
    chip_px, stride_px
        Side of a chip, and step from one to the next (default: the side).
    edge
        What becomes of windows that would leave the scene. ``drop`` leaves them out, ``pad`` fills
        them by reflection, which counts as invalid, and ``shift`` moves them back to the edge,
        where they overlap their neighbors.
    patch_px
        Pixel mode: a sample is a labeled pixel with the patch of this odd side round it.
    buffer_px
        Least gap between chips of different splits; default half a chip, which sets aside one
        ring of chips round each test block. In pixel mode the distance that pixels of different
        splits must exceed: at least the patch radius, which is the default.
    block_px
        Side of the blocks that are split; default: the best of several. Not for pixel mode, where
        whole fields are split.
    split_by
        ``blocks`` of ground, whole scenes (``scene``), the latest dates (``date``), or as a
        description or folders ``train`` and ``test`` say (``given``). Default: ``given`` where
        there are such folders, else ``blocks``, which in pixel mode are whole fields.
    min_valid, min_label
        Least share of a chip's pixels that are valid in all bands, and that have a label.
    """

    labels: str | None = None
    label_format: str | None = None
    label_year: int | None = None
    label_nodata: Sequence[str] = ()
    remap: Sequence[str] = ()
    label_column: str | None = None
    label_layer: str | None = None
    priority: Sequence[str] = ()
    all_touched: bool = False
    modalities: Sequence[str] | None = None
    patterns: Sequence[str] = ()
    masks: Sequence[str] = ()
    mask_clouds: bool = False
    aoi: str | Path | None = None
    crs: str | Mapping[str, str] | None = None
    label_crs: str | None = None
    chip_px: int = 64
    stride_px: int | None = None
    edge: str = "drop"
    patch_px: int | None = None
    buffer_px: int | None = None
    block_px: int | None = None
    split_by: str | None = None
    min_valid: float = 0.5
    min_label: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        # all check what they are made of
        _ = self.name_patterns, self.rules, self.mask_rules, self.remap_table
        for text in (*self._crs_texts.values(), self.label_crs):
            parse_crs(text)
        if self.label_year is not None and not 1000 <= self.label_year <= 9999:
            raise SettingError(f"--label-year is {self.label_year}: write four digits, as 2019")
        if self.buffer_px is not None and self.buffer_px < 0:
            raise SettingError(f"--buffer is {self.buffer_px}: choose 0 or more")
        if self.block_px is not None and self.block_px < 1:
            raise SettingError(f"--block is {self.block_px}: choose at least the chip's side")
        if self.split_by is not None:
            _check_choice("split-by", self.split_by, list(SplitBy))
        if self.patch_px is not None and (self.patch_px < 1 or self.patch_px % 2 == 0):
            raise SettingError(
                f"--patch is {self.patch_px}: choose an odd number such as 3, 5 or 11"
            )
        if self.patch_px is not None and self.split_by not in (None, "blocks", "given"):
            raise SettingError(
                f"--split-by {self.split_by} does not apply to --patch, which splits whole fields: "
                "leave it out, or use given"
            )

    @property
    def rules(self) -> ChipRules:
        """Which windows become chips."""
        stride = self.chip_px if self.stride_px is None else self.stride_px
        return ChipRules(self.chip_px, stride, self.min_valid, self.min_label, self.edge)

    def crs_of(self, modality: str = "") -> str | None:
        """Return the CRS that replaces that of a modality's files; by default of other files."""
        return self._crs_texts.get(modality, self._crs_texts.get(""))

    @property
    def crs_modalities(self) -> list[str]:
        """Modalities that are given a CRS of their own."""
        return [name for name in self._crs_texts if name]

    @property
    def _crs_texts(self) -> Mapping[str, str]:
        if self.crs is None:
            return {}
        return {"": self.crs} if isinstance(self.crs, str) else self.crs

    @property
    def no_label_values(self) -> frozenset[LabelValue]:
        """Values of the labels that mean no label."""
        return frozenset(label_value(str(value)) for value in self.label_nodata)

    @property
    def remap_table(self) -> dict[LabelValue, str]:
        """Class of each value of the labels; empty where values are not given classes."""
        return parse_remap(self.remap)

    @property
    def name_patterns(self) -> list[NamePattern]:
        """What the names of files mean."""
        return [NamePattern.parse(text) for text in self.patterns]

    @property
    def mask_rules(self) -> list[MaskRule]:
        """Files that mark invalid pixels."""
        return [parse_mask(text) for text in self.masks]


def _check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise SettingError(f"--{option} is {value!r}: choose {' or '.join(choices)}")
