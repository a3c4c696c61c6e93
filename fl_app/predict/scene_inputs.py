"""Scenes as a run's model takes them: the right modalities, their bands in the right order.

Scenes are found and read as ``rsdgc ingest`` does: by the same rules for files, bands, scales,
masks and invalid pixels. Only labels are not looked for. What a scene has beyond the run's
modalities is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_prep.crs import pixel_on_ground
from data_prep.ingest.class_list import ClassList
from data_prep.ingest.grid import Grid, check_alignable, grid_of
from data_prep.ingest.label_format import LabelRules
from data_prep.ingest.modalities import check_modality_names, check_nodata_values, with_override
from data_prep.ingest.no_labels import NoLabels
from data_prep.ingest.options import SceneOptions
from data_prep.ingest.plan import scenes_of
from data_prep.ingest.polygons import polygon_file
from data_prep.ingest.scene import ModalityFiles, Scene
from data_prep.ingest.scene_reader import SceneSource
from data_prep.ingest.sensors import date_of
from data_prep.rasters import COLOR_NAMES, RASTER_SUFFIXES, read_header, shared_nodata
from data_prep.schema import ModalityMeta
from fl_app.delivered_model import DeliveredModel
from rsdgc.errors import DataError
from strategies.sites import ModalityInfo

UNLABELED = f"{NoLabels.__module__}:{NoLabels.__qualname__}"
RESOLUTION_TOLERANCE = 1.25
"""Pixels larger or smaller than those of training by more than this factor are noted."""


@dataclass(frozen=True)
class SceneInput:
    """A scene that the model can be used on."""

    name: str
    source: SceneSource
    """Its modalities are those of the run that it has, in the run's order."""
    present: tuple[bool, ...]
    """For each modality of the run, whether the scene has it."""
    notes: tuple[str, ...]
    unit: int = 1
    """Pixels of the run's grid along the side of one of the scene's: 2 where the modalities of
    10 m are missing and those of 20 m are there."""

    @property
    def step(self) -> int:
        """Pixels of the scene's grid after which pixels of all its modalities begin again."""
        return math.lcm(*(meta.factor for meta in self.source.modalities))

    @property
    def paths(self) -> list[Path]:
        """Files that are read."""
        scene, area = self.source.scene, self.source.area
        paths = [path for path in scene.paths if path != scene.labels.path]
        return paths if area is None else [*paths, area.path]


def find_inputs(
    src: Path, model: DeliveredModel, options: SceneOptions, bands: Sequence[str] = ()
) -> Iterator[SceneInput]:
    """Yield the scenes at a path: a raster, a folder, a zip file, a TOML or CSV description.

    ``bands`` name those of a raster whose file does not, in its order.

    Raises
    ------
    DataError
        There is no scene, or one of them does not fit the model.
    """
    options = replace(options, label_format=UNLABELED, labels=None)
    if src.suffix.lower() in RASTER_SUFFIXES and src.is_file():
        yield _fit(_single(src, model, options, bands), model, options)
        return
    _, options, scenes, skipped = scenes_of(src, options)
    for item in skipped:
        if item.refused:
            raise DataError(f"{item.path}: {item.reason}")
    for scene in scenes:
        yield _fit(_as_files(scene, bands), model, options)


def _single(
    path: Path, model: DeliveredModel, options: SceneOptions, bands: Sequence[str]
) -> Scene:
    """Return the scene of one raster, which has the run's only modality, or one named so."""
    file = read_header(path, options.complex_mode).expanded()
    names = [modality.name for modality in model.modalities]
    name = names[0] if len(names) == 1 or path.stem not in names else path.stem
    if bands and len(bands) != file.bands:
        raise DataError(f"{path} has {file.bands} bands, and --bands names {len(bands)}")
    modality = ModalityFiles(name, (file,), tuple(bands))
    labels = NoLabels(path.with_name("labels.tif"))
    return Scene(path.stem, "", [modality], labels, date=date_of([path.stem]))


def _as_files(scene: Scene, bands: Sequence[str]) -> Scene:
    if not bands:
        return scene
    if len(scene.modalities) > 1:
        raise DataError(
            f"scene {scene.name} has {len(scene.modalities)} modalities: --bands names those of a "
            "single raster; describe the scenes in a TOML file"
        )
    (modality,) = scene.modalities
    if len(bands) != len(modality.bands):
        raise DataError(
            f"scene {scene.name} has {len(modality.bands)} bands, and --bands names {len(bands)}"
        )
    return replace(scene, modalities=[replace(modality, given=tuple(bands))])


def _fit(scene: Scene, model: DeliveredModel, options: SceneOptions) -> SceneInput:
    """Choose what the model takes of a scene; DataError if that is not there."""
    files = {modality.name: modality for modality in scene.modalities}
    if len(model.modalities) == len(files) == 1:
        # of one modality the bands alone must be right, whatever the file is called
        (modality,), (wanted,) = files.values(), model.modalities
        if wanted.bands == COLOR_NAMES:  # those that ingestion of class folders gives to images
            modality = replace(modality, files=tuple(f.with_colors() for f in modality.files))
        files = {wanted.name: replace(modality, name=wanted.name)}
    present = tuple(modality.name in files for modality in model.modalities)
    lacking = [m.name for m, here in zip(model.modalities, present, strict=True) if not here]
    if lacking and (not any(present) or not model.works_without_some):
        raise DataError(
            f"scene {scene.name} lacks modality {', '.join(lacking)}: it has {', '.join(files)}; "
            "name its files with --modality NAME=GLOB"
        )
    used = [modality for modality in model.modalities if modality.name in files]
    chosen = replace(scene, modalities=[files[modality.name] for modality in used])
    if isinstance(options.nodata, Mapping):
        foreign = options.nodata.keys() - {modality.name for modality in model.modalities}
        check_modality_names("--nodata", foreign, replace(scene, modalities=[*files.values()]))
        check_nodata_values(options.nodata, files)
    unit = _unit(chosen, used, model)
    metas = tuple(
        _describe(chosen, files[modality.name], modality, model.factor(modality) // unit, options)
        for modality in used
    )
    grid = grid_of(chosen.reference)
    for file in chosen.rasters:
        check_alignable(file, grid)
    rules = LabelRules(ClassList({}, closed=False, zero_is_unlabeled=True))
    area = None if options.aoi is None else polygon_file(Path(options.aoi))
    source = SceneSource(chosen, grid, metas, rules, options.nodata, area)
    left_out = [name for name in files if name not in {modality.name for modality in used}]
    notes = [f"{scene.name}: {', '.join(left_out)} not used"] * bool(left_out)
    notes += [f"{scene.name}: without {', '.join(lacking)}"] * bool(lacking)
    notes += [f"{scene.name}: {note}" for file in chosen.rasters for note in file.notes]
    notes += _resolution_notes(scene.name, grid, model, unit)
    return SceneInput(scene.name, source, present, tuple(notes), unit)


def _unit(scene: Scene, used: Sequence[ModalityInfo], model: DeliveredModel) -> int:
    """Return how many pixels of the run's grid, along a side, one of the scene's covers.

    More than 1 where the finest modalities are missing: the scene's grid is that of a coarser one.
    """
    factors = {modality.name: model.factor(modality) for modality in used}
    unit = math.gcd(*factors.values())
    reference = next(each.name for each in scene.modalities if scene.reference in each.files)
    return unit if factors[reference] == unit else 1


def _describe(
    scene: Scene,
    files: ModalityFiles,
    wanted: ModalityInfo,
    factor: int,
    options: SceneOptions,
) -> ModalityMeta:
    """Describe a modality as it is read: with the run's bands and factor, the files' own values."""
    own = files.bands
    if sorted(own) != sorted(wanted.bands) or len(set(own)) < len(own):
        raise DataError(
            f"scene {scene.name} has the bands {', '.join(own)} in modality {wanted.name}, and the "
            f"run was trained on {', '.join(wanted.bands)}: name the file's bands with --bands, or "
            "its files with --modality NAME=GLOB"
        )
    order = [own.index(band) for band in wanted.bands]
    scales, offsets = files.scaling(scene.radiometry)
    rasters = [with_override(file, wanted.name, options.nodata) for file in files.files]
    return ModalityMeta(
        name=wanted.name,
        bands=list(wanted.bands),
        dtype=rasters[0].dtype,
        nodata=shared_nodata(rasters),
        resolution=rasters[0].resolution,
        factor=factor,
        scale=[scales[i] for i in order] if scales else [],
        offset=[offsets[i] for i in order] if offsets else [],
    )


def _resolution_notes(name: str, grid: Grid, model: DeliveredModel, unit: int) -> Iterator[str]:
    """Note where a scene's pixels are of another size on the ground than those of training."""
    if grid.crs is None or not grid.is_placed or not model.pixel_m:
        return
    own = pixel_on_ground(grid.crs, grid.transform, grid.height, grid.width)
    expected = model.pixel_m * unit
    if max(own, expected) / min(own, expected) > RESOLUTION_TOLERANCE:
        yield (
            f"{name}: its pixels are {own:.3g} m wide on the ground, those of training were "
            f"{expected:.3g} m; the model knows the ground at that size only"
        )
