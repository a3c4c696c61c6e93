"""Finding scenes in an archive: their modalities, masks and labels.

Which files belong to a scene is decided in :mod:`data_prep.ingest.scene_files` (where folders of
images lie beside one of labels, in :mod:`data_prep.ingest.paired_folders`), and which of them make
which modality in :mod:`data_prep.ingest.identity`.

Labels and masks are not modalities, and neither are by-products of known sensors, flags of quality
and other rasters of categories: those with a color table, or named like the labels
(``nlcd2011.tif`` beside ``--labels nlcd.tif``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from data_prep.foreign_errors import reading
from data_prep.ingest import sensors
from data_prep.ingest.archive import Archive, is_raster, is_sidecar
from data_prep.ingest.identity import (
    ModalityGlob,
    agree_on_names,
    by_globs,
    by_names,
    by_parts,
    parse_modalities,
)
from data_prep.ingest.labels import find_labels, read_labels
from data_prep.ingest.options import SceneOptions
from data_prep.ingest.paired_folders import Pairs, find_pairs
from data_prep.ingest.pieces import join_alike, pieces_of
from data_prep.ingest.product_metadata import find_radiometry
from data_prep.ingest.products import by_product_reason, is_preview, is_quality, quality_rule
from data_prep.ingest.scene import MaskFile, ModalityFiles, Scene
from data_prep.ingest.scene_files import SceneFiles, list_scenes, same_file
from data_prep.ingest.split_folders import split_level, without_split
from data_prep.rasters import RasterFile, find_subdataset, natural_key, read_header
from data_prep.schema import Skipped
from rsdgc.errors import DataError

#: Suffixes of texts that may lie beside rasters; reports do not list them.
TEXT_SUFFIXES = frozenset((".json", ".xml", ".txt", ".md", ".toml", ".csv", ".html"))


def find_scenes(archive: Archive, options: SceneOptions) -> tuple[list[Scene], list[Skipped]]:
    """List the scenes of an archive, in natural order of their names, and what was skipped."""
    globs = parse_modalities(options.modalities)
    pairs = Pairs() if options.patterns else find_pairs(archive, globs, options)
    listed, skipped = list_scenes(archive, options, pairs.folders)
    scenes = pairs.scenes
    skipped = [*archive.skipped, *pairs.skipped, *skipped]
    for files in listed:
        try:
            with reading(archive.path(files.folder)):
                scene, left_out = _read_scene(archive, files, globs, options)
        except DataError as error:
            path = files.name if options.patterns else files.folder or "."
            skipped.append(Skipped(path=path, reason=str(error)))
        else:
            scenes.append(scene)
            skipped += [
                Skipped(path=name, reason=reason, refused=False)
                for name, reason in left_out.items()
            ]
    if not scenes:
        refused = next(item for item in skipped if item.refused)
        hint = "; for folders of images without labels use --layout class-folders"
        raise DataError(
            f"{archive.src} holds no usable scene: {refused.path}: {refused.reason}"
            f"{hint if len(listed) > 1 and options.labels is None else ''}"
        )
    agreed = _with_crs(agree_on_names(scenes, named=bool(globs)), options)
    return _split_by_folders(agreed), skipped


def _with_crs(scenes: Sequence[Scene], options: SceneOptions) -> list[Scene]:
    """Read the headers again where a modality, which only now has a name, is given its own CRS."""
    if not options.crs_modalities:
        return list(scenes)
    return [
        replace(scene, modalities=[_modality_with_crs(m, options) for m in scene.modalities])
        for scene in scenes
    ]


def _modality_with_crs(modality: ModalityFiles, options: SceneOptions) -> ModalityFiles:
    if modality.name not in options.crs_modalities:
        return modality
    files = []
    for file in modality.files:
        crs = options.crs_of(modality.name)
        header = read_header(file.path, options.complex_mode, crs, opened=file.opened)
        files.append(replace(header.expanded() if file.expand else header, pieces=file.pieces))
    return replace(modality, files=tuple(files))


def _split_by_folders(scenes: Sequence[Scene]) -> list[Scene]:
    """Give scenes the split that folders ``train`` and ``test`` above them say."""
    paths = [PurePosixPath(scene.name).parts for scene in scenes]
    level = split_level(paths)
    if level is None:
        return list(scenes)
    given = []
    for scene, path in zip(scenes, paths, strict=True):
        rest, split = without_split(path, level)
        given.append(replace(scene, folder=rest[0] if len(rest) > 1 else "", split=split))
    return given


@dataclass
class _Sorted:
    """Files of a scene by what they are: names of images, masks, and reasons for the others."""

    images: list[str] = field(default_factory=list)
    masks: list[MaskFile] = field(default_factory=list)
    qualities: list[MaskFile] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def _read_scene(
    archive: Archive, files: SceneFiles, globs: Sequence[ModalityGlob], options: SceneOptions
) -> tuple[Scene, dict[str, str]]:
    """Return a scene, and why some of its files are left out, by their names."""
    folder = archive.path(files.folder)
    own_labels = files.labels(options)
    labels = (
        find_labels(archive, files.folder, files.files, options)
        if own_labels is None
        else read_labels(archive.path(own_labels), options)
    )
    by_kind = _sort_files(archive, files, labels.path, globs, options)
    _check_masks(folder, by_kind, options)
    images = _read_images(archive, by_kind, labels.path, globs, options)
    if files.parts:
        named = [(files.parts[name], file) for name, file in images]
        modalities = by_parts(folder, named, globs)
    elif globs:
        modalities = by_globs(folder, [file for _, file in images], globs)
    else:
        modalities = by_names(folder, join_alike([file for _, file in images]))
    if not modalities:
        others = ", ".join(PurePosixPath(name).name for name in list(by_kind.left_out)[:3])
        raise DataError(
            f"{folder} has no image beside its labels{f' but {others}' if others else ''}: add "
            "one, or name what is an image with --modality, as in --modality 'image=*.dat'"
        )
    stems = [file.path.stem for _, file in images]
    places = reversed(PurePosixPath(files.folder).parts)
    dates = [parts.date for parts in files.parts.values()]
    scene = Scene(
        name=files.name,
        folder=files.site,
        modalities=modalities,
        labels=labels,
        masks=[*by_kind.masks, *by_kind.qualities],
        date=sensors.date_of([*dates, *places, *stems]),
        radiometry=find_radiometry(archive, files.folder, stems),
    )
    return scene, by_kind.left_out


def _sort_files(
    archive: Archive,
    files: SceneFiles,
    labels: Path,
    globs: Sequence[ModalityGlob],
    options: SceneOptions,
) -> _Sorted:
    """Tell images from masks and from what is neither, by names."""
    used = [labels, *([Path(options.aoi)] if options.aoi else [])]
    by_kind = _Sorted()
    rules = options.mask_rules
    for name in files.files:
        path = archive.path(name)
        is_named = any(glob.says_format(path.name) for glob in globs) or any(
            pattern.says_format(name) for pattern in options.name_patterns
        )
        if not (is_raster(name) or is_named):
            if not (is_sidecar(name) or _is_known(name, archive, used)):
                by_kind.left_out[name] = "not a raster"
            continue
        if same_file(path, labels):
            continue
        flags = quality_rule(path.stem, clouds=options.mask_clouds)
        if flags is not None:
            by_kind.qualities.append(MaskFile(read_header(path, crs=options.crs_of()), flags))
        rule = next((rule for rule in rules if rule.matches(name)), None)
        if rule is not None:
            by_kind.masks.append(MaskFile(read_header(path, crs=options.crs_of()), rule))
        elif not globs and (reason := by_product_reason(path.stem)):
            by_kind.left_out[name] = reason
        else:
            by_kind.images.append(name)
    return by_kind


def _check_masks(folder: Path, by_kind: _Sorted, options: SceneOptions) -> None:
    """Raise DataError if a mask that the options ask for is not there."""
    # rules are equal where they say the same
    present = [mask.rule for mask in by_kind.masks]
    for rule in options.mask_rules:
        if rule not in present:
            raise DataError(
                f"{folder} has no mask like {rule.pattern}: add it, or leave --mask out"
            )
    if options.mask_clouds and not by_kind.qualities:
        raise DataError(
            f"{folder} has no cloud mask of a known sensor (Landsat's QA_PIXEL, Sentinel-2's SCL, "
            "HLS's Fmask): name one with --mask, or leave --mask-clouds out"
        )


def _is_known(name: str, archive: Archive, used: Sequence[Path]) -> bool:
    """Tell whether a file is a text beside the rasters, or is used in another way."""
    path = PurePosixPath(name)
    # with the stem of a file that is used: a part of a Shapefile, or other forms of the labels
    return path.suffix.lower() in TEXT_SUFFIXES or any(
        path.stem == other.stem or same_file(archive.path(name), other) for other in used
    )


def _read_images(
    archive: Archive,
    by_kind: _Sorted,
    label_path: Path,
    globs: Sequence[ModalityGlob],
    options: SceneOptions,
) -> list[tuple[str, RasterFile]]:
    """Read the headers of files that some glob names, or without globs of measurements.

    The reasons for all others are added to those of the files that are left out.
    """
    names, left_out = by_kind.images, by_kind.left_out
    if not globs:
        coarser = _coarser_twins(names)
        left_out |= dict.fromkeys(coarser, "the same band is there at a finer resolution")
        names = [name for name in names if name not in coarser]
    images = []
    # files of several folders (R10m, R20m) in the order of their own names
    for name in sorted(names, key=lambda name: natural_key(PurePosixPath(name).name)):
        path = archive.path(name)
        glob = next((glob for glob in globs if glob.matches(path.name)), None)
        if globs and glob is None:
            left_out[name] = "not in any modality"
            continue
        subdatasets = [g.subdataset for g in globs if g.matches(path.name)] or [""]
        crs = options.crs_of(glob.modality if glob else "")
        for subdataset in subdatasets:
            # an error leaves out the whole scene: without the file, it would lack bands that the
            # other scenes have
            opened = find_subdataset(path, subdataset) if subdataset else ""
            header = read_header(path, options.complex_mode, crs, opened=opened)
            file = header.expanded()
            if not globs and (reason := _category_reason(file, label_path)):
                left_out[name] = reason
            else:
                images.append((name, file))
    mosaics = [label_path, *(file.path for _, file in images if not file.opened)]
    pieces = pieces_of(mosaics, [file for _, file in images])
    left_out |= {n: f"a piece of {pieces[f.path].name}" for n, f in images if f.path in pieces}
    return [(name, file) for name, file in images if file.path not in pieces]


def _category_reason(file: RasterFile, label_path: Path) -> str:
    """Say why a raster holds categories and not measurements; empty if it does not."""
    if not file.is_placed and file.crs is None and is_preview(file.path.stem):
        return "a preview without a position, not a modality: name it with --modality"
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
