"""Finding scenes in a folder, and grouping their files to modalities.

A folder that holds rasters is a scene. In it, a file of several bands is a modality, named by its
stem; single-band files that share a prefix, a grid and a type (``landsat_b2.tif`` …
``landsat_b5.tif``) are one modality, named by the prefix. The label raster is none, and neither
are other rasters of categories: those with a color table, or named like the labels
(``nlcd2011.tif`` beside ``--labels nlcd.tif``).
"""

from __future__ import annotations

import fnmatch
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.rasters import RASTER_SUFFIXES, RasterFile, natural_key, read_header
from data_prep.schema import Skipped
from rsdgc.errors import DataError, SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

BAND_NAME = re.compile(
    r"^(?P<prefix>.*?)[_\-. ]*(?P<band>(?:band|b)?[_\-. ]?\d+a?)$", re.IGNORECASE
)
DEFAULT_LABELS = "labels"


@dataclass(frozen=True)
class LayerFiles:
    """A modality of a scene: its name, and its files in band order."""

    name: str
    files: tuple[RasterFile, ...]

    @property
    def bands(self) -> list[str]:
        """Names of the bands over all files."""
        names = [name for file in self.files for name in file.names]
        if names == ["band1"]:
            return [self.files[0].path.stem]
        if len(self.files) == 1:
            return names
        return [
            _band_label(file.path.stem) if len(file.names) == 1 else f"{file.path.stem} {name}"
            for file in self.files
            for name in file.names
        ]


@dataclass
class Scene:
    """A folder of layers and its label raster.

    Attributes
    ----------
    name
        Path under the archive; the archive's own name if it is a scene itself.
    folder
        First folder of that path if the scene lies deeper, else empty.
    """

    name: str
    folder: str
    layers: list[LayerFiles]
    labels: RasterFile
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def reference(self) -> RasterFile:
        """The file whose grid is the scene's: of the finest of the modalities with most say.

        Modalities of several bands come before those of one; among them the finest; then the one
        first by name.
        """
        layers = sorted(
            self.layers,
            key=lambda layer: (
                len(layer.bands) < 2,
                layer.files[0].resolution_m,
                natural_key(layer.name),
            ),
        )
        return layers[0].files[0]


def find_scenes(
    src: Path, labels: str | None, layers: Sequence[str] | None
) -> tuple[list[Scene], list[Skipped]]:
    """List the scenes of an archive, in natural order of their names.

    Parameters
    ----------
    src
        The archive's folder.
    labels
        Name of the label raster in each scene folder, or the path of one for all; None means
        ``labels.tif``.
    layers
        ``name=glob`` for each modality, instead of grouping by file names.

    Returns
    -------
    tuple
        The scenes, and what was skipped: files, layers, and folders that are no scene.

    Raises
    ------
    DataError
        The folder is missing, holds no raster, or no scene has labels.
    """
    if not src.is_dir():
        raise DataError(f"{src} is not a folder: give the archive's folder")
    patterns = parse_layers(layers)
    scenes: list[Scene] = []
    skipped: list[Skipped] = []
    found = False
    for folder in sorted(_scene_folders(src), key=lambda path: natural_key(str(path))):
        found = True
        name = folder.relative_to(src).as_posix()
        try:
            scene = _read_scene(src, folder, labels, patterns)
        except DataError as error:
            skipped.append(Skipped(path=name, reason=str(error)))
        else:
            scenes.append(scene)
            skipped.extend(scene.skipped)
    if not found:
        raise DataError(f"{src} holds no rasters ({', '.join(sorted(RASTER_SUFFIXES))})")
    if not scenes:
        raise DataError(f"{src} holds no usable scene: {skipped[0].path}: {skipped[0].reason}")
    return scenes, skipped


def parse_layers(layers: Sequence[str] | None) -> list[tuple[str, str]]:
    """Read ``name=glob`` texts."""
    patterns = []
    for text in layers or ():
        name, equals, pattern = text.partition("=")
        if not equals or not re.fullmatch(r"[\w-]+", name) or not pattern:
            raise SettingError(f"layer {text!r} is not name=glob: write for example dem=srtm*.tif")
        patterns.append((name, pattern))
    return patterns


def _scene_folders(src: Path) -> list[Path]:
    folders = []
    for root, children, files in os.walk(src):
        children[:] = [child for child in children if not child.startswith(".")]
        if any(_is_raster(Path(name)) for name in files):
            folders.append(Path(root))
    return folders


def _is_raster(path: Path) -> bool:
    return path.suffix.lower() in RASTER_SUFFIXES and not path.name.startswith(".")


def _read_scene(
    src: Path, folder: Path, labels: str | None, patterns: list[tuple[str, str]]
) -> Scene:
    name = folder.relative_to(src).as_posix()
    parts = folder.relative_to(src).parts
    label_path = _find_labels(src, folder, labels)
    skipped: list[Skipped] = []
    files = _image_files(src, folder, label_path, skipped, given=bool(patterns))
    grouped = _by_patterns(folder, files, patterns) if patterns else _by_names(files)
    if not grouped:
        raise DataError(f"{folder} has no image layer beside its labels: add one, or give layers")
    return Scene(
        name=src.resolve().name if name == "." else name,
        folder=parts[0] if len(parts) > 1 else "",
        layers=grouped,
        labels=read_header(label_path),
        skipped=skipped,
    )


def _find_labels(src: Path, folder: Path, labels: str | None) -> Path:
    if labels is None:
        candidates = [
            path
            for path in sorted(folder.iterdir())
            if path.stem.lower() == DEFAULT_LABELS and _is_raster(path)
        ]
        remedy = "name the label raster (labels=FILE)"
        wanted = "labels.tif"
    else:
        places = (folder / labels, Path(labels), src / labels)
        candidates = [path for path in places if path.is_file()]
        remedy = "give a file name found in each scene, or the path of one file"
        wanted = labels
    if not candidates:
        raise DataError(f"{folder} has no label raster {wanted}: {remedy}")
    return candidates[0]


def _image_files(
    src: Path, folder: Path, label_path: Path, skipped: list[Skipped], *, given: bool
) -> list[RasterFile]:
    """Headers of a scene's image files; what is left out is added to ``skipped``."""
    files = []
    for path in sorted(folder.iterdir(), key=lambda path: natural_key(path.name)):
        if not path.is_file() or not _is_raster(path) or path.samefile(label_path):
            continue
        name = path.relative_to(src).as_posix()
        # a file that fails here leaves out the whole scene: without a band it means another thing
        file = read_header(path)
        reason = "" if given else _category_reason(file, label_path)
        if reason:
            skipped.append(Skipped(path=name, reason=reason, refused=False))
        else:
            files.append(file)
    return files


def _category_reason(file: RasterFile, label_path: Path) -> str:
    """Say why a raster holds categories and not measurements; empty if it does not."""
    if file.palette:
        return "a raster of categories (it has a color table), not a layer"
    stem = label_path.stem.rstrip("0123456789_-. ")
    single = len(file.indexes) == 1 and not file.dtype.startswith("f")
    if single and len(stem) >= 3 and file.path.stem.startswith(stem):
        return f"named like the labels {label_path.name}, not a layer"
    return ""


def _by_patterns(
    folder: Path, files: list[RasterFile], patterns: list[tuple[str, str]]
) -> list[LayerFiles]:
    layers = []
    for name, pattern in patterns:
        chosen = [file for file in files if fnmatch.fnmatch(file.path.name, pattern)]
        if not chosen:
            raise DataError(f"{folder} has no file like {pattern} for layer {name}")
        if len({file.dtype for file in chosen}) > 1:
            raise DataError(f"{folder}: files like {pattern} differ in type: split the layer")
        layers.append(LayerFiles(name, tuple(chosen)))
    return layers


def _by_names(files: list[RasterFile]) -> list[LayerFiles]:
    groups: dict[tuple[object, ...], list[RasterFile]] = {}
    for file in files:
        prefix, band = _split_band(file.path.stem)
        if len(file.indexes) > 1 or not band:
            key: tuple[object, ...] = (file.path.name,)
        else:
            grid = (file.height, file.width, tuple(file.transform), str(file.crs))
            key = (prefix, file.dtype, *grid)
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
            raise DataError(f"{files[0].path.parent} has two layers {name}: give layers name=glob")
    return layers


def _group_name(group: list[RasterFile]) -> str:
    prefix = _split_band(group[0].path.stem)[0]
    name = prefix or "bands" if len(group) > 1 else group[0].path.stem
    return re.sub(r"[^\w-]+", "_", name)


def _split_band(stem: str) -> tuple[str, str]:
    """Part a stem like ``landsat_b2`` into prefix and band; no band if it has no number."""
    match = BAND_NAME.match(stem)
    return (match["prefix"], match["band"]) if match else (stem, "")


def _band_label(stem: str) -> str:
    return _split_band(stem)[1] or stem
