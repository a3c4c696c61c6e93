"""Finding scenes in an archive, and grouping their files to modalities.

A folder that holds rasters is a scene; a product's folders ``R10m``, ``R20m`` and ``R60m`` are one
together. Without ``--modality``, names decide: a file of several bands is a modality, named by its
stem; single-band files that share a prefix, a grid and a type (``landsat_b2.tif`` …
``landsat_b5.tif``) are one modality, named by the prefix.

Labels and masks are not modalities, and neither are by-products of Sentinel-2 and other rasters of
categories: those with a color table, or named like the labels (``nlcd2011.tif`` beside
``--labels nlcd.tif``).
"""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from data_prep.ingest.archive import Archive, is_raster, is_sidecar
from data_prep.ingest.labels import find_labels
from data_prep.ingest.scene import MaskFile, ModalityFiles, Scene
from data_prep.ingest.sensors import (
    PRODUCT_METADATA,
    SENTINEL_PRODUCTS,
    Baseline,
    date_of,
    modality_name,
    read_baseline,
    split_band,
)
from data_prep.rasters import RASTER_SUFFIXES, RasterFile, natural_key, read_header
from data_prep.schema import Skipped
from rsdgc.errors import DataError, SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data_prep.ingest.options import SceneOptions

RESOLUTION_FOLDER = re.compile(r"^R\d+m$", re.IGNORECASE)


def find_scenes(archive: Archive, options: SceneOptions) -> tuple[list[Scene], list[Skipped]]:
    """List the scenes of an archive, in natural order of their names.

    Returns
    -------
    tuple
        The scenes, and what was skipped: files, modalities, and folders that are not scenes.

    Raises
    ------
    DataError
        The archive holds no raster, or no scene has labels.
    """
    patterns = parse_modalities(options.modalities)
    scenes: list[Scene] = []
    skipped: list[Skipped] = []
    folders = _scene_folders(archive)
    for folder, names in folders.items():
        try:
            scene = _read_scene(archive, folder, names, patterns, options)
        except DataError as error:
            skipped.append(Skipped(path=folder or ".", reason=str(error)))
        else:
            scenes.append(scene)
            skipped.extend(scene.skipped)
    if not folders:
        raise DataError(f"{archive.src} holds no rasters ({', '.join(sorted(RASTER_SUFFIXES))})")
    if not scenes:
        raise DataError(
            f"{archive.src} holds no usable scene: {skipped[0].path}: {skipped[0].reason}"
        )
    return scenes, skipped


def parse_modalities(modalities: Sequence[str] | None) -> list[tuple[str, str]]:
    """Read ``name=glob`` texts."""
    patterns = []
    for text in modalities or ():
        name, equals, pattern = text.partition("=")
        if not equals or not re.fullmatch(r"[\w-]+", name) or not pattern:
            raise SettingError(
                f"--modality {text!r} is not NAME=GLOB: write for example dem=srtm*.tif"
            )
        patterns.append((name, pattern))
    return patterns


def _scene_folders(archive: Archive) -> dict[str, list[str]]:
    """Files by scene folder, for the folders that hold rasters."""
    folders: dict[str, list[str]] = {}
    for folder, names in archive.files.items():
        path = PurePosixPath(folder)
        scene = path.parent.as_posix() if RESOLUTION_FOLDER.match(path.name) else folder
        folders.setdefault("" if scene == "." else scene, []).extend(names)
    return {folder: names for folder, names in folders.items() if any(map(is_raster, names))}


def _read_scene(
    archive: Archive,
    folder: str,
    names: list[str],
    patterns: list[tuple[str, str]],
    options: SceneOptions,
) -> Scene:
    where = archive.path(folder)
    labels = find_labels(archive, folder, names, options)
    used = [labels.path, *([Path(options.aoi)] if options.aoi else [])]
    skipped = [
        Skipped(path=name, reason="not a raster", refused=False)
        for name in names
        if not (is_raster(name) or is_sidecar(name) or _is_known(name, archive, used))
    ]
    rules = options.mask_rules
    masks = []
    files = []
    for name in names:
        path = archive.path(name)
        if not is_raster(name) or _same(path, labels.path):
            continue
        rule = next((rule for rule in rules if rule.matches(name)), None)
        if rule is not None:
            masks.append(MaskFile(read_header(path), rule))
        elif not patterns and SENTINEL_PRODUCTS.search(path.stem):
            reason = "a Sentinel-2 by-product, not a band: name it with --modality or --mask"
            skipped.append(Skipped(path=name, reason=reason, refused=False))
        else:
            files.append(name)
    for rule in rules:
        if not any(mask.rule is rule for mask in masks):
            raise DataError(f"{where} has no mask like {rule.pattern}: add it, or leave --mask out")
    if patterns:
        images = _chosen_images(archive, files, patterns, skipped, options)
        modalities = by_patterns(where, images, patterns)
    else:
        images = _measuring_images(archive, files, labels.path, skipped, options)
        modalities = by_names(where, images)
    if not modalities:
        raise DataError(
            f"{where} has no image beside its labels: add one, or name modalities with --modality"
        )
    parts = PurePosixPath(folder).parts
    return Scene(
        name=folder or archive.name,
        folder=parts[0] if len(parts) > 1 else "",
        modalities=modalities,
        labels=labels,
        masks=masks,
        date=date_of([*reversed(parts), *(file.path.stem for file in images)]),
        baseline=find_baseline(archive, folder),
        skipped=skipped,
    )


def _is_known(name: str, archive: Archive, used: Sequence[Path]) -> bool:
    """Tell whether a file is a text beside the rasters, or is used in another way."""
    path = PurePosixPath(name)
    small = path.suffix.lower() in (".json", ".xml", ".txt", ".md", ".toml", ".csv", ".html")
    # with the stem of a file that is used: a part of a Shapefile, or other forms of the labels
    return small or any(path.stem == u.stem or _same(archive.path(name), u) for u in used)


def _same(first: Path, second: Path) -> bool:
    return first == second or (first.exists() and second.exists() and first.samefile(second))


# A file whose header cannot be read leaves out its whole scene: without the file, the scene would
# lack bands that the other scenes have.


def _chosen_images(
    archive: Archive,
    names: Sequence[str],
    patterns: Sequence[tuple[str, str]],
    skipped: list[Skipped],
    options: SceneOptions,
) -> list[RasterFile]:
    """Read the headers of files that some pattern names; the others are added to ``skipped``."""
    files = []
    for name in sorted(names, key=_file_key):
        last = PurePosixPath(name).name
        if any(fnmatch.fnmatch(last, pattern) for _, pattern in patterns):
            files.append(read_header(archive.path(name), options.complex_mode).expanded())
        else:
            skipped.append(Skipped(path=name, reason="not in any modality", refused=False))
    return files


def _measuring_images(
    archive: Archive,
    names: Sequence[str],
    label_path: Path,
    skipped: list[Skipped],
    options: SceneOptions,
) -> list[RasterFile]:
    """Read the headers of files that hold measurements; the others are added to ``skipped``."""
    names, coarser = without_coarser_twins(names)
    reason = "the same band is there at a finer resolution"
    skipped += [Skipped(path=name, reason=reason, refused=False) for name in coarser]
    files = []
    for name in sorted(names, key=_file_key):
        file = read_header(archive.path(name), options.complex_mode)
        if reason := _category_reason(file, label_path):
            skipped.append(Skipped(path=name, reason=reason, refused=False))
        else:
            files.append(file)
    return files


def _file_key(name: str) -> list[tuple[int, int | str]]:
    """Return a sort key that orders files of several folders by their own names."""
    return natural_key(PurePosixPath(name).name)


def _category_reason(file: RasterFile, label_path: Path) -> str:
    """Say why a raster holds categories and not measurements; empty if it does not."""
    if file.palette:
        return "a raster of categories (it has a color table), not a modality"
    # without the year of a land-cover map: nlcd2011 beside nlcd; two letters would match by chance
    stem = label_path.stem.rstrip("0123456789_-. ")
    single = len(file.indexes) == 1 and not file.dtype.startswith("f")
    if single and len(stem) >= 3 and file.path.stem.startswith(stem):
        return f"named like the labels {label_path.name}, not a modality"
    return ""


def find_baseline(archive: Archive, folder: str) -> Baseline | None:
    """Read the Sentinel-2 product metadata in a scene's folder, or in one above it."""
    scene = PurePosixPath(folder)
    for place in [scene, *scene.parents]:
        key = "" if place.as_posix() == "." else place.as_posix()
        for name in archive.files.get(key, ()):
            if PRODUCT_METADATA.search(name):
                return read_baseline(archive.text(name) or "", archive.path(name))
    return None


def by_patterns(
    folder: Path, files: list[RasterFile], patterns: list[tuple[str, str]]
) -> list[ModalityFiles]:
    """Group files by ``(name, glob)`` pairs.

    Raises
    ------
    DataError
        A pattern matches no file, or files of several types.
    """
    modalities = []
    for name, pattern in patterns:
        chosen = [file for file in files if fnmatch.fnmatch(file.path.name, pattern)]
        if not chosen:
            raise DataError(f"{folder} has no file like {pattern} for modality {name}")
        if len({file.dtype for file in chosen}) > 1:
            raise DataError(f"{folder}: files like {pattern} differ in type: split the modality")
        modalities.append(ModalityFiles(name, tuple(chosen)))
    return modalities


def by_names(folder: Path, files: list[RasterFile]) -> list[ModalityFiles]:
    """Group single-band files by prefix, grid and type; others are modalities of their own.

    Raises
    ------
    DataError
        Two modalities would have the same name.
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
    modalities = []
    for name, group in named:
        # bands of one sensor at several resolutions
        full = f"{name}_{group[0].resolution_m:.0f}m" if name in repeated else name
        modalities.append(ModalityFiles(full, tuple(group)))
    names = [modality.name for modality in modalities]
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"{folder} has two modalities {name}: name them with --modality NAME=GLOB"
            )
    return modalities


def _group_name(group: list[RasterFile]) -> str:
    stem = group[0].path.stem
    prefix = split_band(stem).prefix
    # the only band of its resolution in a Sentinel-2 product is named like the product's others
    lone = len(group) == 1 and modality_name(prefix) != "s2"
    return modality_name(stem) if lone else modality_name(prefix)


def without_coarser_twins(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide file names into those to use and coarser copies of a band.

    Sentinel-2's level 2A has band 2 as ``…_B02_10m``, ``…_B02_20m`` and ``…_B02_60m``.
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
