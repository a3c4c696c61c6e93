"""The modalities of an archive: alike in all its scenes, read together on a scene's grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.ingest.grid import is_on_grid
from data_prep.ingest.scene import Scene
from data_prep.schema import ModalityMeta
from rsdgc.errors import DataError, SettingError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rasterio.crs import CRS

    from data_prep.ingest.grid import Grid
    from data_prep.ingest.options import Nodata
    from data_prep.ingest.scene import ModalityFiles
    from data_prep.rasters import RasterFile

_REMEDY = "make the scenes alike, or choose modalities with --modality NAME=GLOB"


def agree_modalities(scenes: Sequence[Scene], nodata: Nodata) -> list[ModalityMeta]:
    """Describe the modalities, in order: the reference modality's first, then by name.

    Raises
    ------
    DataError
        Scenes differ in modalities, bands, types, scaling or Sentinel-2 baseline.
    SettingError
        ``nodata`` names an unknown modality.
    """
    first = scenes[0]
    wanted = {modality.name: modality for modality in first.modalities}
    if isinstance(nodata, Mapping) and (unknown := set(nodata) - set(wanted)):
        raise SettingError(f"--nodata for {min(unknown)}: the modalities are {', '.join(wanted)}")
    for scene in scenes[1:]:
        _check_like(first, scene)
    reference = first.reference
    order = sorted(first.modalities, key=lambda modality: reference not in modality.files)
    return [_describe(modality.name, scenes, nodata) for modality in order]


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
        scaling, other_scaling = modality.scaling(scene.baseline), other.scaling(first.baseline)
        if scaling != other_scaling and scene.baseline and first.baseline:
            raise DataError(
                f"scene {scene.name} is of processing baseline {scene.baseline.number} but "
                f"{first.name} of {first.baseline.number}, with other offsets: ingest them apart, "
                "or get all of one baseline"
            )
        band_order(modality, other.bands, scene.name, first.name)
        for what, value, expected in (
            ("type", modality.files[0].dtype, other.files[0].dtype),
            ("scale and offset", scaling, other_scaling),
        ):
            if value != expected:
                raise DataError(
                    f"modality {name} of scene {scene.name} has {what} {value} but that of "
                    f"{first.name} has {expected}: {_REMEDY}"
                )


def band_order(
    modality: ModalityFiles, wanted: Sequence[str], scene: str = "", first: str = ""
) -> list[int] | None:
    """Return the order that brings a modality's bands to the wanted names; None if it is theirs.

    Raises
    ------
    DataError
        The names differ.
    """
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
    declared = [file.nodata for file in files if file.nodata is not None]
    modality = next(modality for modality in scenes[0].modalities if modality.name == name)
    scales, offsets = modality.scaling(scenes[0].baseline)
    return ModalityMeta(
        name=name,
        bands=modality.bands,
        dtype=files[0].dtype,
        nodata=declared[0] if declared else None,
        resolution=files[0].resolution,
        scale=scales,
        offset=offsets,
    )


def with_override(file: RasterFile, modality: str, nodata: Nodata) -> RasterFile:
    """Return a header with the nodata value that the options give its modality, if any."""
    given = nodata.get(modality) if isinstance(nodata, Mapping) else nodata
    return file if given is None else file.with_nodata(given)


@dataclass(frozen=True)
class InvalidFill:
    """What invalid pixels hold in the store.

    The modality's nodata value. Without one: NaN in floats, and in whole numbers what the file has
    there, because no value is free.
    """

    nodata: float | None
    dtype: str

    def apply(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[Any]:
        """Replace the invalid values; those that are not finite stay as they are."""
        if self.nodata is not None:
            keep = valid | ~np.isfinite(values) if values.dtype.kind == "f" else valid
            return np.where(keep, values, values.dtype.type(self.nodata))
        return np.where(valid, values, np.float32("nan")) if values.dtype.kind == "f" else values


def alignment_notes(scene: Scene, grid: Grid, factors: Mapping[str, int]) -> list[str]:
    """Return notes on how a scene's rasters are read: warped, expanded, or trusted to align.

    The notes do not name the scene, so that equal ones are counted.
    """
    notes = []
    nested = {
        id(file): factors.get(modality.name, 1)
        for modality in scene.modalities
        for file in modality.files
    }
    for file in scene.rasters:
        if file.alpha:
            notes.append(f"{file.path.name} has an alpha band, which is a mask and not a band")
        if file.gcps:
            notes.append(f"{file.path.name} placed by its ground control points")
        if file.source_dtype == "float64":
            notes.append(f"{file.path.name} is float64, stored as float32")
        if file.complex_mode:
            how = "amplitude" if file.complex_mode == "amp" else "decibels of the amplitude"
            notes.append(f"{file.path.name} is complex, stored as {how}")
        if file.expand:
            notes.append(f"{file.path.name} has a color table, stored as red, green and blue")
        on = grid.coarser(nested.get(id(file), 1))
        if not is_on_grid(file, on):
            categories = [*scene.labels.rasters, *(mask.file for mask in scene.masks)]
            nearest = file.expand or any(file is other for other in categories)
            method = "nearest" if nearest else "bilinear"
            was = f"{_short(file.crs)} at {file.resolution:.4g}"
            now = f"{_short(grid.crs)} at {abs(grid.transform.a):.4g}"
            notes.append(f"{file.path.name} {_how(file)} from {was} to {now}, {method}")
        elif (file.crs is None) != (grid.crs is None):
            notes.append(f"{file.path.name} taken pixel by pixel: the sizes agree, one has no CRS")
        if not file.tiled and file.block_height < file.height and file.width > 2048:
            notes.append(f"{file.path.name} is stored in strips: read in whole rows")
    return notes


def _how(file: RasterFile) -> str:
    t = file.transform
    if t.b or t.d:
        return "turned and warped"
    return "flipped" if t.e > 0 else "warped"


def _short(crs: CRS) -> str:
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else "its own CRS"
