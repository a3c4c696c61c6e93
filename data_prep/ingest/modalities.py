"""The modalities of an archive: alike in all its scenes, read together on a scene's grid."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from data_prep.crs import crs_name
from data_prep.ingest.grid import Grid, coverage, is_on_grid, trust_note
from data_prep.ingest.options import Nodata
from data_prep.ingest.scene import ModalityFiles, Scene
from data_prep.rasters import RasterFile, shared_nodata, usable_nodata
from data_prep.schema import ModalityMeta
from rsdgc.errors import DataError, SettingError

#: Share of a scene from which on a raster counts as covering it: points at the very edge may lie
#: outside by a rounding error.
WHOLE = 0.999

_REMEDY = (
    "make the scenes alike, choose modalities with --modality NAME=GLOB, or say what file names "
    "mean with --pattern, as in --pattern '{scene}_{band}.tif'"
)


_APART = "leave it out with --modality NAME=GLOB, or ingest the scenes apart"
_ONE_TYPE = f"write them in one type, as with rio convert --dtype, {_APART}"
_ONE_UNIT = f"convert the values, as with gdal_calc.py, {_APART}"
_ONE_SCALE = f"write them with one scale, as with gdal_translate -unscale, {_APART}"


def agree_modalities(scenes: Sequence[Scene], nodata: Nodata) -> list[ModalityMeta]:
    """Describe the modalities, in order: the reference modality's first, then by name.

    A DataError names the first scene that differs in modalities, bands, types or scaling, or in
    the metadata of its product.
    """
    first = scenes[0]
    wanted = {modality.name: modality for modality in first.modalities}
    check_modality_names("--nodata", nodata if isinstance(nodata, Mapping) else (), first)
    check_nodata_values(nodata, wanted)
    for scene in scenes[1:]:
        _check_like(first, scene)
    reference = first.reference
    order = sorted(first.modalities, key=lambda modality: reference not in modality.files)
    return [_describe(modality.name, scenes, nodata) for modality in order]


def check_nodata_values(nodata: Nodata, modalities: Mapping[str, ModalityFiles]) -> None:
    """Raise SettingError if the files of a modality cannot hold the value that it is given."""
    given = nodata if isinstance(nodata, Mapping) else {}
    for name in given.keys() & modalities.keys():
        value, dtype = given[name], modalities[name].files[0].source_dtype
        if math.isfinite(value) and usable_nodata(value, dtype) is None:
            raise SettingError(
                f"--nodata {name}={value:g} is not a value of {dtype}, the type of {name}'s files: "
                "give a value that they hold, or leave it out"
            )


def check_modality_names(option: str, names: Iterable[str], scene: Scene) -> None:
    """Raise SettingError if an option names a modality that scenes do not have."""
    known = [modality.name for modality in scene.modalities]
    if unknown := set(names) - set(known):
        raise SettingError(
            f"{option} for {min(unknown)}: choose from the modalities, {', '.join(known)}"
        )


def _check_like(first: Scene, scene: Scene) -> None:
    ours = {modality.name: modality for modality in scene.modalities}
    theirs = {modality.name: modality for modality in first.modalities}
    if set(ours) != set(theirs):
        raise DataError(
            f"scene {scene.name} has modalities {', '.join(sorted(ours))} but {first.name} has "
            f"{', '.join(sorted(theirs))}: {_REMEDY}"
        )
    for name, modality in ours.items():
        other = theirs[name]
        scaling = modality.scaling(scene.radiometry)
        other_scaling = other.scaling(first.radiometry)
        if scaling != other_scaling:
            _check_metadata(first, scene)
        band_order(modality, other.bands, scene.name, first.name)
        for what, value, expected, remedy in (
            ("type", modality.files[0].dtype, other.files[0].dtype, _ONE_TYPE),
            ("scale and offset", scaling, other_scaling, _ONE_SCALE),
            ("units", *_common_units(modality, other), _ONE_UNIT),
        ):
            if value != expected:
                raise DataError(
                    f"modality {name} of scene {scene.name} has {what} {value} but that of "
                    f"{first.name} has {expected}: {remedy}"
                )


def _common_units(modality: ModalityFiles, other: ModalityFiles) -> tuple[list[str], list[str]]:
    """Return the units of the bands for which both declare one, in the first's order."""
    ours = dict(zip(modality.bands, modality.units, strict=False))
    theirs = dict(zip(other.bands, other.units, strict=False))
    common = [band for band in ours if ours[band] and theirs.get(band)]
    return [ours[band] for band in common], [theirs[band] for band in common]


def _check_metadata(first: Scene, scene: Scene) -> None:
    """Raise DataError if scales or offsets differ because of the products' metadata."""
    ours, theirs = scene.radiometry, first.radiometry
    if ours is not None and theirs is not None:
        raise DataError(
            f"scene {scene.name} is of {ours.source} but {first.name} of {theirs.source}, with "
            "other scales or offsets: ingest them apart, or get all of one kind"
        )
    if ours is not None or theirs is not None:
        lacking, having = (first, scene) if theirs is None else (scene, first)
        raise DataError(
            f"scene {having.name} has its product's metadata, with scales and offsets, and "
            f"{lacking.name} has none: add its MTD_MSIL2A.xml or MTL.txt, or leave them out of all"
        )


def band_order(
    modality: ModalityFiles, wanted: Sequence[str], scene: str = "", first: str = ""
) -> list[int] | None:
    """Return the order that brings a modality's bands to the wanted names; None if it is theirs."""
    bands = modality.bands
    if bands == list(wanted):
        return None
    if sorted(bands) != sorted(wanted) or len(set(bands)) < len(bands):
        raise DataError(
            f"modality {modality.name} of scene {scene} has bands {bands} but that of {first} has "
            f"{list(wanted)}: {_REMEDY}"
        )
    return [bands.index(name) for name in wanted]


def _describe(name: str, scenes: Sequence[Scene], nodata: Nodata) -> ModalityMeta:
    files = [
        with_override(file, name, nodata)
        for scene in scenes
        for modality in scene.modalities
        if modality.name == name
        for file in modality.files
    ]
    modality = next(modality for modality in scenes[0].modalities if modality.name == name)
    scales, offsets = modality.scaling(scenes[0].radiometry)
    return ModalityMeta(
        name=name,
        bands=modality.bands,
        dtype=files[0].dtype,
        nodata=shared_nodata(files),
        resolution=files[0].resolution,
        scale=scales,
        offset=offsets,
        units=modality.units,
    )


def with_override(file: RasterFile, modality: str, nodata: Nodata) -> RasterFile:
    """Return a header with the nodata value that the options give its modality, if any."""
    given = nodata.get(modality) if isinstance(nodata, Mapping) else nodata
    return file if given is None else file.with_nodata(given)


def alignment_notes(scene: Scene, grid: Grid, factors: Mapping[str, int]) -> list[str]:
    """Return notes on how a scene's rasters are read: warped, expanded, or trusted to align."""
    # the notes do not name the scene, so that equal ones are counted
    notes: list[str] = []
    nested = {
        id(file): factors.get(modality.name, 1)
        for modality in scene.modalities
        for file in modality.files
    }
    for file in scene.rasters:
        notes += _header_notes(file)
        if not is_on_grid(file, grid.coarser(nested.get(id(file), 1))):
            notes += _warp_notes(file, grid, _resampling(file, scene, grid))
        elif trusted := trust_note(file, grid):
            notes.append(f"{file.path.name} {trusted}")
    return notes


def _header_notes(file: RasterFile) -> list[str]:
    """Return notes on a raster that hold on any grid."""
    notes = list(file.notes)
    if file.pieces:
        notes.append(f"{len(file.pieces)} files like {file.path.name} joined to one image")
    if file.alpha:
        notes.append(f"{file.path.name} has an alpha band, which is a mask and not a band")
    if file.gcps:
        notes.append(f"{file.path.name} placed by its ground control points")
    if file.source_dtype == "float64" and file.dtype == "float32":
        notes.append(f"{file.path.name} is float64, stored as float32")
    if file.complex_mode:
        how = "amplitude" if file.complex_mode == "amp" else "decibels of the amplitude"
        notes.append(f"{file.path.name} is complex, stored as {how}")
    if file.expand:
        notes.append(f"{file.path.name} has a color table, stored as red, green and blue")
    # a narrow file is read in whole rows whatever its form
    if not file.tiled and file.block_height < file.height and file.width > 2048:
        notes.append(f"{file.path.name} is stored in strips: read in whole rows")
    return notes


def _warp_notes(file: RasterFile, grid: Grid, method: str) -> list[str]:
    was = f"{crs_name(file.crs)} at {file.resolution:.4g}"
    now = f"{crs_name(grid.crs)} at {abs(grid.transform.a):.4g}"
    t = file.transform
    how = "turned and warped" if t.b or t.d else "flipped" if t.e > 0 else "warped"
    notes = [f"{file.path.name} {how} from {was} to {now}, {method}"]
    covered = coverage(file, grid)
    if covered < WHOLE:
        notes.append(f"{file.path.name} covers {covered:.0%} of the scene: the rest has no data")
    return notes


def _resampling(file: RasterFile, scene: Scene, grid: Grid) -> str:
    if any(file is raster for raster in scene.labels.rasters):
        mode = scene.labels.resampling(grid) == "mode"
        return "by majority, being finer" if mode else "nearest"
    masks = any(file is mask.file for mask in scene.masks)
    return "nearest" if file.expand or masks else "bilinear"
