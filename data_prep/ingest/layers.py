"""The modalities of an archive: alike in all its scenes, read together on a scene's grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.ingest.grid import AlignedRaster, Grid, RowWindow, is_on_grid
from data_prep.schema import ModalityMeta
from rsdgc.errors import DataError, SettingError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from numpy.typing import NDArray
    from rasterio.crs import CRS

    from data_prep.ingest.discovery import Scene
    from data_prep.rasters import RasterFile

#: Pixels of one layer that are read at once, in bytes.
READ_BYTES = 32 * 2**20

Nodata = float | Mapping[str, float] | None


def agree_modalities(scenes: Sequence[Scene], nodata: Nodata) -> list[ModalityMeta]:
    """Describe the modalities, in order: the reference layer's first, then by name.

    Raises
    ------
    DataError
        Scenes differ in layers, bands or types.
    SettingError
        ``nodata`` names a layer that there is not.
    """
    first = scenes[0]
    wanted = {layer.name: layer for layer in first.layers}
    if isinstance(nodata, Mapping) and (unknown := set(nodata) - set(wanted)):
        raise SettingError(f"nodata for {min(unknown)}: the layers are {', '.join(wanted)}")
    for scene in scenes[1:]:
        _check_like(first, scene)
    reference = first.reference
    order = sorted(first.layers, key=lambda layer: reference not in layer.files)
    return [_describe(layer.name, scenes, nodata) for layer in order]


def _check_like(first: Scene, scene: Scene) -> None:
    remedy = "make the scenes alike, or pick layers with name=glob"
    ours = {layer.name: layer for layer in scene.layers}
    theirs = {layer.name: layer for layer in first.layers}
    if set(ours) != set(theirs):
        raise DataError(
            f"scene {scene.name} has layers {', '.join(sorted(ours))} but {first.name} has "
            f"{', '.join(sorted(theirs))}: {remedy}"
        )
    for name, layer in ours.items():
        for what, mine, other in (
            ("bands", layer.bands, theirs[name].bands),
            ("type", layer.files[0].dtype, theirs[name].files[0].dtype),
        ):
            if mine != other:
                raise DataError(
                    f"layer {name} of scene {scene.name} has {what} {mine} but that of "
                    f"{first.name} has {other}: {remedy}"
                )


def _describe(name: str, scenes: Sequence[Scene], nodata: Nodata) -> ModalityMeta:
    files = [
        with_override(file, name, nodata)
        for scene in scenes
        for layer in scene.layers
        if layer.name == name
        for file in layer.files
    ]
    declared = [file.nodata for file in files if file.nodata is not None]
    layer = next(layer for layer in scenes[0].layers if layer.name == name)
    return ModalityMeta(
        name=name,
        bands=layer.bands,
        dtype=files[0].dtype,
        nodata=declared[0] if declared else None,
        resolution=files[0].resolution,
    )


def with_override(file: RasterFile, layer: str, nodata: Nodata) -> RasterFile:
    """Return a header with the nodata value that was given for its layer, if any."""
    given = nodata.get(layer) if isinstance(nodata, Mapping) else nodata
    return file if given is None else file.with_nodata(given)


class SceneReader:
    """All layers and the labels of a scene, in bands of rows, on its reference grid.

    Parameters
    ----------
    stack
        Keeps the files open.
    scene, grid, modalities, nodata
        What is read, on what grid, in which order, with which nodata override.
    """

    def __init__(
        self,
        stack: ExitStack,
        scene: Scene,
        grid: Grid,
        modalities: Sequence[ModalityMeta],
        nodata: Nodata,
    ) -> None:
        self.scene = scene
        self.grid = grid
        self._fills = [m.nodata for m in modalities]
        layers = {layer.name: layer for layer in scene.layers}
        self._layers = [
            [
                self._window(stack, with_override(file, m.name, nodata))
                for file in layers[m.name].files
            ]
            for m in modalities
        ]
        self._labels = self._window(stack, scene.labels, labels=True)

    def _window(self, stack: ExitStack, file: RasterFile, *, labels: bool = False) -> RowWindow:
        raster = AlignedRaster(stack, file, self.grid, labels=labels)
        row_bytes = self.grid.width * len(file.indexes) * np.dtype(file.dtype).itemsize
        return RowWindow(raster, self.grid.height, min(1024, max(1, READ_BYTES // row_bytes)))

    def images(self, start: int, stop: int) -> tuple[list[NDArray[Any]], NDArray[np.bool_]]:
        """Read rows of all modalities.

        Returns
        -------
        tuple
            One array (C, h, W) per modality, where invalid pixels hold the modality's nodata
            value; and bool (h, W): valid in every band of every modality.
        """
        arrays = []
        everywhere = np.ones((stop - start, self.grid.width), np.bool_)
        for files, fill in zip(self._layers, self._fills, strict=True):
            parts = [file.rows(start, stop) for file in files]
            values = np.concatenate([part[0] for part in parts])
            valid = np.concatenate([part[1] for part in parts])
            if fill is not None:
                values = np.where(valid | ~np.isfinite(values), values, values.dtype.type(fill))
            arrays.append(values)
            everywhere &= valid.all(axis=0)
        return arrays, everywhere

    def labels(self, start: int, stop: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Read rows of the labels: codes int64 (h, W), and where there is a value."""
        values, valid = self._labels.rows(start, stop)
        codes = np.where(valid[0], values[0], 0).astype(np.int64)
        if values.dtype.kind == "f" and not np.array_equal(codes[valid[0]], values[0][valid[0]]):
            raise DataError(f"{self.scene.labels.path} has fractions: labels are whole numbers")
        return codes, valid[0]


def alignment_notes(scene: Scene, grid: Grid) -> list[str]:
    """Say which rasters of a scene are warped, and which are taken on trust.

    The notes do not name the scene, so that equal ones can be counted.
    """
    notes = []
    for file in [f for layer in scene.layers for f in layer.files] + [scene.labels]:
        if file.alpha:
            notes.append(f"{file.path.name} has an alpha band, which is a mask and not a band")
        if not is_on_grid(file, grid):
            method = "nearest" if file is scene.labels else "bilinear"
            was = f"{_short(file.crs)} at {file.resolution:.4g}"
            now = f"{_short(grid.crs)} at {abs(grid.transform.a):.4g}"
            notes.append(f"{file.path.name} warped from {was} to {now}, {method}")
        elif (file.crs is None) != (grid.crs is None):
            notes.append(f"{file.path.name} taken pixel by pixel: the sizes agree, one has no CRS")
    return notes


def _short(crs: CRS) -> str:
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else "its own CRS"
