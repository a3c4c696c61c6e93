"""What an ingestion of scenes will do, from headers alone; ``--dry-run`` shows it."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

import numpy as np

from data_prep.foreign_errors import reading
from data_prep.ingest.archive import Archive, is_raster, open_archive
from data_prep.ingest.chips import ChipJob, chip_jobs
from data_prep.ingest.class_list import ClassList, UnknownLabelError, given_classes
from data_prep.ingest.description import DESCRIPTION_SUFFIXES, described_scenes
from data_prep.ingest.discovery import find_scenes
from data_prep.ingest.grid import Grid, check_alignable, grid_of, nesting
from data_prep.ingest.identity import agree_on_names
from data_prep.ingest.label_format import LabelFormat, LabelRules
from data_prep.ingest.labels import holds_labels
from data_prep.ingest.modalities import agree_modalities, alignment_notes, check_modality_names
from data_prep.ingest.options import SceneOptions
from data_prep.ingest.pixel_mode import PixelJob, pixel_jobs
from data_prep.ingest.polygons import (
    WRITE_CRS,
    PolygonFile,
    polygon_file,
    projected,
    read_polygons,
)
from data_prep.ingest.scene import Scene
from data_prep.ingest.scene_reader import SceneSource
from data_prep.ingest.split_folders import mixed_split_note
from data_prep.ingest.work_folder import disk_bytes
from data_prep.number_format import plural
from data_prep.rasters import gdal_environment
from data_prep.schema import ModalityMeta, Skipped
from rsdgc.errors import DataError, SettingError

#: A file of several layers, and one of them.
FILE_AND_LAYER = re.compile(r"(.+\.(?:gpkg|geojson|fgb|gdb|sqlite)):([^/\\]+)", re.IGNORECASE)


@dataclass
class Plan:
    """Everything that is known before pixels are read."""

    archive: Archive
    options: SceneOptions
    sources: list[SceneSource]  #: the scenes that can be used, each with its grid
    modalities: list[ModalityMeta]
    classes: ClassList
    skipped: list[Skipped]
    #: What is done to the scenes, and to how many.
    notes: Counter[str] = field(default_factory=Counter)
    #: In the order of the store.
    jobs: list[ChipJob | PixelJob] = field(default_factory=list)

    @property
    def paths(self) -> list[Path]:
        """Every file that the outcome depends on, also those that are skipped."""
        paths = [path for source in self.sources for path in source.scene.paths]
        paths += [Path(self.options.aoi)] if self.options.aoi else []
        listed = [name for names in self.archive.files.values() for name in names]
        candidates = [self.archive.path(name) for name in listed]
        paths += [p for p in candidates if is_raster(p.name) or holds_labels(p, self.options)]
        return [*dict.fromkeys(paths)]

    @property
    def most_samples(self) -> int:
        """Windows or pixels of all scenes: there are as many samples at most."""
        return sum(job.windows for job in self.jobs)

    @property
    def most_bytes(self) -> int:
        """Size of the arrays if every window becomes a sample."""
        side = 1 if self.options.patch_px else self.options.chip_px
        sample = sum(
            len(m.bands) * (side // m.factor) ** 2 * np.dtype(m.dtype).itemsize
            for m in self.modalities
        )
        return self.most_samples * sample

    @property
    def most_disk_bytes(self) -> int:
        """Most space that making the store takes beside the sources."""
        bands = sum(len(modality.bands) for modality in self.modalities)
        return disk_bytes(self.most_samples, bands, self.most_bytes)


def plan_scenes(src: str | os.PathLike[str], options: SceneOptions) -> Plan:
    """Read the headers of an archive's files and decide what is done with them."""
    asked = options.split_by
    with gdal_environment():
        archive, options, scenes, skipped = scenes_of(src, options)
    stop_if_strict(options.strict, skipped)
    classes = _classes(archive, options, scenes)
    modalities = agree_modalities(scenes, options.nodata)
    check_modality_names("--crs", options.crs_modalities, scenes[0])
    area = None if options.aoi is None else polygon_file(Path(options.aoi))
    plan = Plan(archive, options, [], modalities, classes, skipped)
    rules = LabelRules(classes, _priority(options, classes), options.all_touched)
    grids = _grids(scenes, area, rules, plan)
    # only now the grids of all scenes are known, which decide what a coarser modality keeps
    plan.modalities = [
        m.model_copy(update={"factor": _factor(m.name, grids, options)}) for m in modalities
    ]
    factors = {m.name: m.factor for m in plan.modalities}
    mixed = mixed_split_note(PurePosixPath(scene.name).parts for scene in scenes)
    for note in [*_outside_notes(grids), *([mixed] if mixed and not asked else [])]:
        plan.notes[note] = len(grids)
    for scene, grid in grids:
        source = SceneSource(scene, grid, tuple(plan.modalities), rules, options.nodata, area)
        plan.sources.append(source)
        plan.notes.update(alignment_notes(scene, grid, factors))
        _add_jobs(plan, source)
    return plan


def scenes_of(
    src: str | os.PathLike[str], options: SceneOptions
) -> tuple[Archive, SceneOptions, list[Scene], list[Skipped]]:
    """Return the archive or description at a path, its scenes, and what was skipped."""
    path, options = Path(src), _with_label_layer(options)
    if path.suffix.lower() in DESCRIPTION_SUFFIXES and path.is_file():
        if options.patterns:
            raise SettingError(
                f"--pattern does not apply to {path}, which names files: leave it out"
            )
        archive, options, scenes, skipped = described_scenes(path, options)
        scenes = agree_on_names(scenes, named=True)
        return archive, replace(options, split_by=options.split_by or "blocks"), scenes, skipped
    archive = open_archive(src)
    scenes, skipped = find_scenes(archive, options)
    # folders train and test above the scenes are a split, unless another one is asked for
    has_split = all(scene.split for scene in scenes)
    method = options.split_by or ("given" if has_split else "blocks")
    return archive, replace(options, split_by=method), scenes, skipped


def _with_label_layer(options: SceneOptions) -> SceneOptions:
    """Read ``labels`` that also names a layer, as QGIS users write it: ``labels.gpkg:landuse``."""
    match = FILE_AND_LAYER.fullmatch(options.labels or "")
    if match is None or options.label_layer is not None:
        return options
    return replace(options, labels=match[1], label_layer=match[2])


def stop_if_strict(strict: bool, skipped: list[Skipped]) -> None:
    """Raise DataError for the first file or scene that is refused, with ``--strict``."""
    refused = [item for item in skipped if item.refused]
    if strict and refused:
        raise DataError(f"{refused[0].path}: {refused[0].reason} (--strict: nothing is skipped)")


def _classes(archive: Archive, options: SceneOptions, scenes: list[Scene]) -> ClassList:
    ignore = options.unknown == "ignore"
    remap = options.remap_table
    given = given_classes(archive, options.classes, ignore_unknown=ignore, remap=remap)
    if given is not None:
        return given
    files = [scene.labels for scene in scenes]
    kinds = {type(file): file.path for file in files}
    if len(kinds) > 1:
        # codes of one format need not mean the same as those of another
        paths = ", ".join(map(str, kinds.values()))
        raise DataError(
            f"the labels have several formats ({paths}): give a class list with --classes"
        )
    return type(files[0]).implied_classes(files, pixels=options.patch_px is not None)


def _priority(options: SceneOptions, classes: ClassList) -> tuple[int, ...]:
    by_name = {name: code for code, name in classes.names.items()}
    by_name |= {str(code): code for code in classes.names}
    codes = []
    for name in options.priority:
        if name in by_name:
            codes.append(by_name[name])
        elif name.lstrip("-").isdigit():
            codes.append(int(name))
        else:
            names = ", ".join(classes.names.values())
            remedy = f"choose from {names}" if names else "give codes, as the labels name none"
            raise SettingError(f"--priority {name!r} is not a class: {remedy}")
    return tuple(codes)


def _grids(
    scenes: list[Scene], area: PolygonFile | None, rules: LabelRules, plan: Plan
) -> list[tuple[Scene, Grid]]:
    """Grids of the scenes; scenes whose files do not meet are skipped."""
    grids = []
    for scene in scenes:
        grid = grid_of(scene.reference)
        try:
            with reading(f"scene {scene.name}"):
                for file in scene.rasters:
                    is_label = any(file is other for other in scene.labels.rasters)
                    check_alignable(file, grid, "--label-crs" if is_label else "--crs")
                plan.notes.update(scene.labels.check(grid, rules))
                if area is not None:
                    # only to see that it can be placed on the scene: reading projects it again
                    projected(read_polygons(area), grid, area.path, remedy=WRITE_CRS)
        except UnknownLabelError:
            # the class list is at fault, and leaving scenes out would hide it
            raise
        except DataError as error:
            plan.skipped.append(Skipped(path=scene.name, reason=str(error)))
            stop_if_strict(plan.options.strict, plan.skipped)
        else:
            grids.append((scene, grid))
    if not grids:
        refused = next(item for item in plan.skipped if item.refused)
        raise DataError(f"no scene can be used: {refused.path}: {refused.reason}")
    return grids


def _outside_notes(grids: list[tuple[Scene, Grid]]) -> list[str]:
    """Note which labels lie in no scene."""
    by_format: dict[type[LabelFormat], list[tuple[LabelFormat, Grid]]] = defaultdict(list)
    for scene, grid in grids:
        by_format[type(scene.labels)].append((scene.labels, grid))
    notes = []
    for kind, placed in by_format.items():
        with reading("the labels"):
            notes += kind.outside_notes(placed)
    return notes


def _factor(name: str, grids: list[tuple[Scene, Grid]], options: SceneOptions) -> int:
    """Return how many pixels of the grid, along a side, one of a modality's covers."""
    if options.patch_px is not None:
        return 1  # patches of all modalities are gathered by one index
    rules = options.rules
    factors = {
        nesting(file, grid, rules.chip_px, rules.stride_px)
        for scene, grid in grids
        for modality in scene.modalities
        if modality.name == name
        for file in modality.files
    }
    # a coarser modality keeps its own pixels where they nest in all scenes: that stores what was
    # measured, in a fraction of the bytes; otherwise it is warped to the grid
    return factors.pop() if len(factors) == 1 else 1


def _add_jobs(plan: Plan, source: SceneSource) -> None:
    patch_px, number = plan.options.patch_px, len(plan.sources)
    if patch_px is not None:
        plan.jobs += pixel_jobs(source, patch_px, number)
        return
    rules = plan.options.rules
    jobs = chip_jobs(source, rules, number)
    if not jobs:
        reason = (
            f"no chip of {rules.chip_px} px in {source.grid.height}×{source.grid.width} px: "
            "too small (--edge pad fills it)"
        )
        plan.skipped.append(Skipped(path=source.scene.name, reason=reason))
        stop_if_strict(plan.options.strict, plan.skipped)
    plan.jobs += jobs


def note_lines(notes: Counter[str]) -> list[str]:
    """Return notes with how many scenes each is about."""
    return [f"{note} ({plural(count, 'scene')})" for note, count in notes.items()]
