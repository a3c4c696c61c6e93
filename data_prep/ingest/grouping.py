"""Grouping a scene's files to modalities: by their names, or by patterns that were given."""

from __future__ import annotations

import fnmatch
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from data_prep.ingest.scene import LayerFiles
from data_prep.ingest.sensors import layer_name, split_band
from rsdgc.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data_prep.rasters import RasterFile


def by_patterns(
    folder: Path, files: list[RasterFile], patterns: list[tuple[str, str]]
) -> list[LayerFiles]:
    """Group files by ``(name, glob)`` pairs.

    Raises
    ------
    DataError
        A pattern matches no file, or files of several types.
    """
    layers = []
    for name, pattern in patterns:
        chosen = [file for file in files if fnmatch.fnmatch(file.path.name, pattern)]
        if not chosen:
            raise DataError(f"{folder} has no file like {pattern} for layer {name}")
        if len({file.dtype for file in chosen}) > 1:
            raise DataError(f"{folder}: files like {pattern} differ in type: split the layer")
        layers.append(LayerFiles(name, tuple(chosen)))
    return layers


def by_names(folder: Path, files: list[RasterFile]) -> list[LayerFiles]:
    """Group single-band files by prefix, grid and type; others are layers of their own.

    Raises
    ------
    DataError
        Two layers would have the same name.
    """
    groups: dict[tuple[object, ...], list[RasterFile]] = {}
    for file in files:
        parsed = split_band(file.path.stem)
        if len(file.indexes) > 1 or not parsed.band:
            key: tuple[object, ...] = (file.path.name,)
        else:
            grid = (file.height, file.width, tuple(file.transform), str(file.crs))
            key = (parsed.prefix, file.dtype, *grid)
        groups.setdefault(key, []).append(file)
    named = [(_group_name(group), group) for group in groups.values()]
    repeated = {name for name, _ in named if sum(name == other for other, _ in named) > 1}
    layers = []
    for name, group in named:
        # bands of one sensor at several resolutions
        full = f"{name}_{group[0].resolution_m:.0f}m" if name in repeated else name
        layers.append(LayerFiles(full, tuple(group)))
    names = [layer.name for layer in layers]
    for name in names:
        if names.count(name) > 1:
            raise DataError(f"{folder} has two layers {name}: give layers name=glob")
    return layers


def _group_name(group: list[RasterFile]) -> str:
    stem = group[0].path.stem
    prefix = split_band(stem).prefix
    # a lone band of a product, such as Sentinel-2's at another resolution, is named like its kin
    lone = len(group) == 1 and layer_name(prefix) != "s2"
    return layer_name(stem) if lone else layer_name(prefix)


def without_coarser_twins(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part file names into those to use, and copies of a band that say a coarser resolution.

    Sentinel-2's level 2A gives band 2 as ``…_B02_10m``, ``…_B02_20m`` and ``…_B02_60m``.
    """
    finest: dict[tuple[str, str], int] = {}
    parsed = {name: split_band(PurePosixPath(name).stem) for name in names}
    for band in parsed.values():
        if band.resolution_m:
            key = (band.prefix, band.band)
            finest[key] = min(finest.get(key, band.resolution_m), band.resolution_m)
    kept: list[str] = []
    coarser: list[str] = []
    for name, band in parsed.items():
        twin = band.resolution_m and band.resolution_m > finest[band.prefix, band.band]
        (coarser if twin else kept).append(name)
    return kept, coarser
