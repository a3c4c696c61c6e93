"""A run's model over whole scenes: from GeoTIFFs to a map.

``scene_inputs`` finds scenes and chooses the bands that the model takes. ``windows`` says where the
network looks and how what it says is blended. ``inference`` reads and classifies a row of windows
at a time, ``value_check`` compares its values with those of training, ``unfinished`` keeps the
results on disk, and ``map_file`` makes the map of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch

from clients.training import choose_device
from data_prep.ingest.archive import file_on_disk
from data_prep.ingest.options import SceneOptions
from data_prep.rasters import gdal_environment, sidecar_path
from fl_app.delivered_model import DeliveredModel
from fl_app.predict.inference import SceneClassifier
from fl_app.predict.map_file import (
    TAG,
    MapLegend,
    class_tags,
    is_sidecar_of_another,
    read_predicted,
    write_maps,
)
from fl_app.predict.scene_inputs import SceneInput, find_inputs
from fl_app.predict.unfinished import UnfinishedMap
from fl_app.predict.windows import WindowAxis
from rsdgc.durable import make_folder, probe_folder, refuse_if_being_made, sole_maker
from rsdgc.errors import DataError, SettingError
from rsdgc.time_text import time_left

MAP_SUFFIXES = (".tif", ".tiff")
LINE_INTERVAL_S = 10.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """How scenes are read and what is written."""

    scenes: SceneOptions = field(default_factory=SceneOptions)
    """How files are found and read: modalities, masks, nodata, complex values, valid share."""
    bands: tuple[str, ...] = ()
    """Names of a raster's bands, where the file does not name them."""
    stride_px: int | None = None
    """Step between windows; by default half a chip, and one pixel for patches."""
    probabilities: bool = False
    """Whether the probability of each class is written, too."""
    device: str = "auto"
    force: bool = False
    """Replace other maps that a prediction has written."""


@dataclass(frozen=True)
class PredictedMap:
    """A map that stands, and its pixels by class; none if it stood already."""

    path: Path
    pixels: dict[str, int]


def predict_scenes(
    model: DeliveredModel, sources: Sequence[Path], out: Path, options: PredictOptions
) -> list[PredictedMap]:
    """Predict the land cover of scenes and write a map of each.

    Parameters
    ----------
    model : DeliveredModel
        What classifies the windows.
    sources : sequence of Path
        Rasters, folders of scenes, zip files or descriptions.
    out : Path
        The map of a single scene, if it ends in ``.tif``; otherwise a folder for a map of each.
    options : PredictOptions
        How scenes are read and what is written.

    Returns
    -------
    list of PredictedMap
        In the order of the scenes. A map that was made already, of the same model, files and
        options, is left as it is; one that was begun is continued.

    Raises
    ------
    DataError
        A scene cannot be read, or does not fit the model, or another process is making one of the
        maps; no map is begun then.
    SettingError
        An option is out of range.
    """
    device = choose_device(options.device)
    with gdal_environment():
        scenes = [
            scene
            for source in sources
            for scene in find_inputs(source, model, options.scenes, options.bands)
        ]
        targets = _targets(scenes, out, probabilities=options.probabilities)
        # Everything is checked before hours go into the first scene.
        axes = [_axes(scene, model, options) for scene in scenes]
        keys = [_key(scene, model, options) for scene in scenes]
        legend = MapLegend(model.class_codes, model.classes)
        for target, key in zip(targets, keys, strict=True):
            if not _check_target(target, key, options, legend):
                for file in _files(target, options):
                    refuse_if_being_made(file)
        probe_folder(out.parent if out == targets[0] else out)
        maps = []
        for number, scene in enumerate(scenes):
            target, title = targets[number], f"scene {number + 1} of {len(scenes)}: {scene.name}"
            for note in scene.notes:
                print(f"note: {note}", file=sys.stderr)
            make_folder(target.parent)
            with ExitStack() as held:
                for file in _files(target, options):
                    held.enter_context(sole_maker(file))
                # Looked at again, because another process may have made it meanwhile.
                if _check_target(target, keys[number], options, legend):
                    print(f"{title}: {target} stands already", file=sys.stderr)
                    maps.append(PredictedMap(target, {}))
                    continue
                rows, cols = axes[number]
                print(
                    f"{title}: {rows.length}×{cols.length} px, {len(rows) * len(cols)} windows of "
                    f"{rows.side} px, on {device.type}",
                    file=sys.stderr,
                )
                place = target, axes[number], keys[number]
                maps.append(_predict(model, scene, *place, legend, options, device))
    return maps


def _predict(
    model: DeliveredModel,
    scene: SceneInput,
    target: Path,
    axes: tuple[WindowAxis, WindowAxis],
    key: str,
    legend: MapLegend,
    options: PredictOptions,
    device: torch.device,
) -> PredictedMap:
    unfinished = UnfinishedMap(target, key, axes, len(model.classes))
    done, total = unfinished.rows_done, len(axes[0])
    if done:
        print(f"continuing after row {done} of {total}", file=sys.stderr)
    classifier = SceneClassifier(model, scene, axes, device, options.scenes.min_valid)
    begin = last = time.monotonic()
    try:
        for row in classifier.rows(done):
            unfinished.add(row)
            now = time.monotonic()
            if now - last > LINE_INTERVAL_S:
                last = now
                finished = row.number + 1
                left = (now - begin) / (finished - done) * (total - finished)
                print(f"row {finished} of {total}, {time_left(left)}", file=sys.stderr)
    finally:
        unfinished.save()
    for note in classifier.values.notes():
        print(f"note: {scene.name}: {note}", file=sys.stderr)
    tags = {
        TAG: key,
        "SOFTWARE": f"rsdgc {version('rsdgc')}",
        "MODEL": model.name,
        "RUN": model.folder.resolve().name,
        "TRAINED_ON": model.data_name + (" (synthetic)" if model.synthetic else ""),
        **({"SITE": model.site} if model.site else {}),
        **class_tags(legend),
    }
    chances = probabilities_path(target) if options.probabilities else None
    grid = scene.source.grid
    obsolete = _obsolete(target, options)
    pixels = write_maps(target, chances, obsolete, unfinished, axes, grid, legend, tags)
    unfinished.remove()
    if not any(pixels.values()):
        print(
            f"note: {scene.name}: no window has the share of valid pixels that --min-valid asks "
            "for, so the map is empty",
            file=sys.stderr,
        )
    return PredictedMap(target, pixels)


def probabilities_path(target: Path) -> Path:
    """Return where the probabilities of a map are written."""
    return target.with_name(f"{target.stem}-probabilities{target.suffix}")


def _files(target: Path, options: PredictOptions) -> list[Path]:
    """Return what is written for a scene: its map, and if asked for its probabilities."""
    return [target, probabilities_path(target)] if options.probabilities else [target]


def _obsolete(target: Path, options: PredictOptions) -> list[Path]:
    """Return the probabilities of an earlier map, where none are asked for of the new one.

    A map of a scene that is called so is none of them.
    """
    path = probabilities_path(target)
    file = None if options.probabilities else read_predicted(path)
    return [path] if file is not None and file.has_probabilities else []


def _targets(scenes: Sequence[SceneInput], out: Path, *, probabilities: bool) -> list[Path]:
    if out.suffix.lower() in MAP_SUFFIXES and not out.is_dir():
        if len(scenes) > 1:
            raise SettingError(f"--out {out} is one map for {len(scenes)} scenes: name a folder")
        return [out]
    targets = [out / f"{scene.name}.tif" for scene in scenes]
    for scene, target in zip(scenes, targets, strict=True):
        if targets.count(target) > 1:
            raise SettingError(f"two scenes are called {target.stem}: predict them apart")
        if not Path(os.path.abspath(target)).is_relative_to(os.path.abspath(out)):
            raise SettingError(
                f"the map of scene {scene.name} would be {target}, outside of {out}: give the "
                "scene another name"
            )
        if probabilities and probabilities_path(target) in targets:
            raise SettingError(
                f"{probabilities_path(target)} would be the map of a scene and the probabilities "
                f"of {scene.name}: predict them apart"
            )
    return targets


def _axes(
    scene: SceneInput, model: DeliveredModel, options: PredictOptions
) -> tuple[WindowAxis, WindowAxis]:
    grid, side = scene.source.grid, model.chip_px // scene.unit
    stride = options.stride_px
    if model.centered:
        if side // 2 >= min(grid.height, grid.width):
            raise DataError(
                f"scene {scene.name} is {grid.height}×{grid.width} px: the model needs "
                f"{side // 2 + 1} px and more"
            )
        rows = WindowAxis.of_patches(grid.height, side, stride or 1)
        return rows, WindowAxis.of_patches(grid.width, side, stride or 1)
    step = scene.step
    if step > min(grid.height, grid.width):
        raise DataError(
            f"scene {scene.name} is {grid.height}×{grid.width} px: the model needs {step} px and "
            "more, a pixel of its coarsest modality"
        )
    stride = stride or max(step, side // 2 // step * step)
    rows = WindowAxis.of_chips(grid.height, side, stride, step)
    return rows, WindowAxis.of_chips(grid.width, side, stride, step)


def _key(scene: SceneInput, model: DeliveredModel, options: PredictOptions) -> str:
    """Identify what a map depends on: the weights, the files by size and time, the options."""
    with model.file.open("rb") as file:
        weights = hashlib.file_digest(file, "sha256").hexdigest()
    files = []
    for path in scene.paths:
        held = file_on_disk(path)
        facts = held.stat() if held.exists() else None
        files.append([str(path), facts and facts.st_size, facts and facts.st_mtime_ns])
    source = scene.source
    # A description may give other bands and scales to the same files.
    read_as = [repr(part) for part in (source.scene.modalities, source.scene.masks, source.meta)]
    read_as += [repr(source.modalities), repr(scene.unit)]
    statistics = [[s.mean.tolist(), s.std.tolist()] for s in model.statistics]
    asked = [options.stride_px, options.bands, options.probabilities, repr(options.scenes)]
    content = [weights, model.name, model.classes, model.class_codes, statistics, files, asked]
    content.append(read_as)
    if model.site:
        entries = hashlib.sha256()
        for name, array in sorted(model.site_entries.items()):
            entries.update(name.encode() + array.tobytes())
        content.append([model.site, entries.hexdigest()])
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _check_target(target: Path, key: str, options: PredictOptions, legend: MapLegend) -> bool:
    """Return whether a map stands already; raise an error if something else is in its place."""
    files = _files(target, options)
    found = [path for path in [*files, *_obsolete(target, options)] if path.exists()]
    predicted = [read_predicted(path) for path in found]
    for path, file in zip(found, predicted, strict=True):
        if file is None:
            raise SettingError(f"{path} exists and is no predicted map: choose another --out")
        if file.key != key and not options.force:
            raise SettingError(
                f"{path} is a map of another model, scene or stride: choose another --out, or "
                "replace it with --force"
            )
    if not options.force and is_sidecar_of_another(target, legend):
        raise SettingError(
            f"{sidecar_path(target)} exists and belongs to no map of this model: choose another "
            "--out, or replace it with --force"
        )
    return found == files and all(file is not None and file.key == key for file in predicted)
