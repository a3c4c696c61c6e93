"""Finding scenes in an archive, and grouping their files to modalities.

A folder that holds rasters is a scene; a product's folders ``R10m``, ``R20m`` and ``R60m`` are one
together, and so is a ``.SAFE`` folder. Which files make which modality is decided in
:mod:`data_prep.ingest.identity`.

Labels and masks are not modalities, and neither are by-products of known sensors, flags of quality
and other rasters of categories: those with a color table, or named like the labels
(``nlcd2011.tif`` beside ``--labels nlcd.tif``).
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from data_prep.ingest import sensors
from data_prep.ingest.archive import Archive, is_raster, is_sidecar
from data_prep.ingest.identity import agree_on_names, by_globs, by_names
from data_prep.ingest.labels import find_labels
from data_prep.ingest.options import SceneOptions
from data_prep.ingest.products import by_product_reason, is_quality, quality_rule
from data_prep.ingest.scene import MaskFile, Scene
from data_prep.rasters import RASTER_SUFFIXES, RasterFile, natural_key, read_header
from data_prep.schema import Skipped
from rsdgc.errors import DataError, SettingError

#: Folders of a Sentinel-2 product (level 2A), one for each resolution of its bands.
RESOLUTION_FOLDER = re.compile(r"^R\d+m$", re.IGNORECASE)
#: Folders within a product's ``.SAFE`` folder that hold its bands; others hold by-products.
SAFE_FOLDERS = frozenset(("measurement", "img_data"))
#: Suffixes of texts that may lie beside rasters; reports do not list them.
TEXT_SUFFIXES = frozenset((".json", ".xml", ".txt", ".md", ".toml", ".csv", ".html"))


def find_scenes(archive: Archive, options: SceneOptions) -> tuple[list[Scene], list[Skipped]]:
    """List the scenes of an archive, in natural order of their names, and what was skipped."""
    patterns = _parse_modalities(options.modalities)
    scenes: list[Scene] = []
    skipped: list[Skipped] = []
    folders = _scene_folders(archive, options)
    for folder, names in folders.items():
        try:
            scene, left_out = _read_scene(archive, folder, names, patterns, options)
        except DataError as error:
            skipped.append(Skipped(path=folder or ".", reason=str(error)))
        else:
            scenes.append(scene)
            skipped += [
                Skipped(path=name, reason=reason, refused=False)
                for name, reason in left_out.items()
            ]
    if not folders:
        raise DataError(f"{archive.src} holds no rasters ({', '.join(sorted(RASTER_SUFFIXES))})")
    if not scenes:
        raise DataError(
            f"{archive.src} holds no usable scene: {skipped[0].path}: {skipped[0].reason}"
        )
    return agree_on_names(scenes, named=bool(patterns)), skipped


def _parse_modalities(modalities: Sequence[str] | None) -> list[tuple[str, str]]:
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


def _scene_folders(archive: Archive, options: SceneOptions) -> dict[str, list[str]]:
    """Files by scene folder, for the folders that hold rasters besides labels of all scenes."""
    shared = [Path(options.labels), archive.src / options.labels] if options.labels else []
    folders: dict[str, list[str]] = {}
    for folder, names in archive.files.items():
        scene = _scene_folder(PurePosixPath(folder))
        if scene is not None:
            key = "" if scene.as_posix() == "." else scene.as_posix()
            folders.setdefault(key, []).extend(names)
    rasters = {
        folder: [name for name in names if is_raster(name)] for folder, names in folders.items()
    }
    scenes = {folder: folders[folder] for folder, names in rasters.items() if names}
    imagery = {
        folder: names
        for folder, names in scenes.items()
        if not all(any(_same(archive.path(n), f) for f in shared) for n in rasters[folder])
    }
    return imagery or scenes


def _scene_folder(folder: PurePosixPath) -> PurePosixPath | None:
    """Return the folder of the scene that a folder's files belong to; None for by-products."""
    parts = folder.parts
    safe = next((i for i, part in enumerate(parts) if part.lower().endswith(".safe")), None)
    if safe is not None:
        product, inside = PurePosixPath(*parts[: safe + 1]), parts[safe + 1 :]
        is_imagery = not inside or any(part.lower() in SAFE_FOLDERS for part in inside)
        return product if is_imagery else None
    return folder.parent if RESOLUTION_FOLDER.match(folder.name) else folder


def _read_scene(
    archive: Archive,
    folder: str,
    names: list[str],
    patterns: list[tuple[str, str]],
    options: SceneOptions,
) -> tuple[Scene, dict[str, str]]:
    """Return the scene of a folder, and why files in it are left out, by their names."""
    where = archive.path(folder)
    labels = find_labels(archive, folder, names, options)
    used = [labels.path, *([Path(options.aoi)] if options.aoi else [])]
    left_out = {
        name: "not a raster"
        for name in names
        if not (is_raster(name) or is_sidecar(name) or _is_known(name, archive, used))
    }
    rules = options.mask_rules
    masks: list[MaskFile] = []
    qualities: list[MaskFile] = []
    files = []
    for name in names:
        path = archive.path(name)
        if not is_raster(name) or _same(path, labels.path):
            continue
        flags = quality_rule(path.stem, clouds=options.mask_clouds)
        if flags is not None:
            qualities.append(MaskFile(read_header(path), flags))
        rule = next((rule for rule in rules if rule.matches(name)), None)
        if rule is not None:
            masks.append(MaskFile(read_header(path), rule))
        elif not patterns and (reason := by_product_reason(path.stem)):
            left_out[name] = reason
        else:
            files.append(name)
    for rule in rules:
        if not any(mask.rule is rule for mask in masks):
            raise DataError(f"{where} has no mask like {rule.pattern}: add it, or leave --mask out")
    if options.mask_clouds and not qualities:
        raise DataError(
            f"{where} has no cloud mask of a known sensor (Landsat's QA_PIXEL, Sentinel-2's SCL, "
            "HLS's Fmask): name one with --mask, or leave --mask-clouds out"
        )
    images = _read_images(archive, files, labels.path, patterns, options, left_out)
    modalities = (
        by_globs(where, images, patterns)
        if patterns
        else by_names(where, [(file.path.stem, file) for file in images])
    )
    if not modalities:
        raise DataError(
            f"{where} has no image beside its labels: add one, or name modalities with --modality"
        )
    parts = PurePosixPath(folder).parts
    scene = Scene(
        name=folder or archive.name,
        folder=parts[0] if len(parts) > 1 else "",
        modalities=modalities,
        labels=labels,
        masks=[*masks, *qualities],
        date=sensors.date_of([*reversed(parts), *(file.path.stem for file in images)]),
        baseline=_find_baseline(archive, folder),
    )
    return scene, left_out


def _is_known(name: str, archive: Archive, used: Sequence[Path]) -> bool:
    """Tell whether a file is a text beside the rasters, or is used in another way."""
    path = PurePosixPath(name)
    # with the stem of a file that is used: a part of a Shapefile, or other forms of the labels
    return path.suffix.lower() in TEXT_SUFFIXES or any(
        path.stem == other.stem or _same(archive.path(name), other) for other in used
    )


def _same(first: Path, second: Path) -> bool:
    return first == second or (first.exists() and second.exists() and first.samefile(second))


def _read_images(
    archive: Archive,
    names: Sequence[str],
    label_path: Path,
    patterns: Sequence[tuple[str, str]],
    options: SceneOptions,
    left_out: dict[str, str],
) -> list[RasterFile]:
    """Read the headers of files that some pattern names, or without patterns of measurements.

    The reasons for all others are added to ``left_out``.
    """
    if not patterns:
        coarser = _coarser_twins(names)
        left_out |= dict.fromkeys(coarser, "the same band is there at a finer resolution")
        names = [name for name in names if name not in coarser]
    images = []
    # files of several folders (R10m, R20m) in the order of their own names
    for name in sorted(names, key=lambda name: natural_key(PurePosixPath(name).name)):
        last = PurePosixPath(name).name
        if patterns and not any(fnmatch.fnmatch(last, pattern) for _, pattern in patterns):
            left_out[name] = "not in any modality"
            continue
        # an error leaves out the whole scene: without the file, it would lack bands that the other
        # scenes have
        file = read_header(archive.path(name), options.complex_mode).expanded()
        if not patterns and (reason := _category_reason(file, label_path)):
            left_out[name] = reason
        else:
            images.append(file)
    return images


def _category_reason(file: RasterFile, label_path: Path) -> str:
    """Say why a raster holds categories and not measurements; empty if it does not."""
    if file.palette:
        return "a raster of categories (it has a color table), not a modality"
    # without the year of a land-cover map: nlcd2011 beside nlcd; two letters would match by chance
    stem = label_path.stem.rstrip("0123456789_-. ")
    single = len(file.indexes) == 1 and not file.dtype.startswith("f")
    if is_quality(file.path.stem) and not file.dtype.startswith("f"):
        return "flags of quality, not a modality: name it with --mask or --modality"
    if single and len(stem) >= 3 and file.path.stem.startswith(stem):
        return f"named like the labels {label_path.name}, not a modality"
    return ""


def _coarser_twins(names: Sequence[str]) -> list[str]:
    """List the files that are coarser copies of a band.

    Sentinel-2's level 2A has band 2 as ``…_B02_10m``, ``…_B02_20m`` and ``…_B02_60m``.
    """
    finest: dict[tuple[str, str], int] = {}
    parsed = {name: sensors.split_band(PurePosixPath(name).stem) for name in names}
    for band in parsed.values():
        if band.resolution_m:
            key = (band.prefix, band.band)
            finest[key] = min(finest.get(key, band.resolution_m), band.resolution_m)
    return [
        name
        for name, band in parsed.items()
        if band.resolution_m and band.resolution_m > finest[band.prefix, band.band]
    ]


def _find_baseline(archive: Archive, folder: str) -> sensors.Baseline | None:
    """Read the Sentinel-2 product metadata in a scene's folder, or in one above it."""
    scene = PurePosixPath(folder)
    for place in [scene, *scene.parents]:
        key = "" if place.as_posix() == "." else place.as_posix()
        for name in archive.files.get(key, ()):
            if sensors.PRODUCT_METADATA.search(name):
                return sensors.read_baseline(archive.text(name) or "", archive.path(name))
    return None
