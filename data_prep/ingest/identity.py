"""Which files of a scene make which modality: by their names, by globs, or by ``--pattern``.

By names, a file of several bands is a modality, named by its stem, and single-band files that
share a prefix, a grid and a type are one, named by the prefix. Bands of a known sensor are a
modality named by the sensor.

Names may also say where and when: ``north_dem.tif`` and ``south_dem.tif`` are one modality of two
scenes. Where scenes would differ because of such parts, :func:`agree_on_names` leaves them out.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from data_prep.ingest import sensors
from data_prep.ingest.name_pattern import NameParts
from data_prep.ingest.pieces import are_pieces, join_pieces
from data_prep.ingest.scene import ModalityFiles, Scene
from data_prep.rasters import RasterFile, subdataset_name
from rsdgc.errors import DataError, SettingError

#: Name of a modality or a band of which the name of a file says nothing.
NAMELESS = "image"
#: A glob of files that may hold several rasters, and which of them is meant.
SUBDATASET = re.compile(r"(.+\.(?:nc4?|h5|hdf5?|he5)):(.+)", re.IGNORECASE)


@dataclass(frozen=True)
class ModalityGlob:
    """Which files make a modality, and which of their rasters if they hold several."""

    modality: str
    glob: str
    subdataset: str = ""

    def matches(self, name: str) -> bool:
        """Tell whether a file name is one of the modality's."""
        return fnmatch.fnmatch(name, self.glob)

    def says_format(self, name: str) -> bool:
        """Tell whether a file is one of the modality's, and the glob has its suffix.

        ``*.dat`` says so of files that are not rasters by their names alone.
        """
        suffix = PurePosixPath(self.glob).suffix
        literal = bool(suffix) and not any(sign in suffix for sign in "*?[")
        return self.matches(name) and (literal or name == self.glob)

    def includes(self, file: RasterFile) -> bool:
        """Tell whether a file, or the raster of it that was opened, is one of the modality's."""
        opened = subdataset_name(file.opened) if file.opened and not file.pieces else ""
        return self.matches(file.path.name) and self.subdataset == opened


def parse_modalities(texts: Sequence[str] | None) -> list[ModalityGlob]:
    """Read ``name=glob`` and ``name=glob:subdataset`` texts."""
    globs = []
    for text in texts or ():
        name, equals, glob = text.partition("=")
        if not equals or not re.fullmatch(r"[\w-]+", name) or not glob:
            raise SettingError(
                f"--modality {text!r} is not NAME=GLOB: write for example dem=srtm*.tif"
            )
        match = SUBDATASET.match(glob)
        globs.append(ModalityGlob(name, *match.groups()) if match else ModalityGlob(name, glob))
        if [other.modality for other in globs].count(name) > 1:
            raise SettingError(
                f"--modality names {name} twice: write one glob for all its files, as in "
                f"{name}='*_[ab].tif'"
            )
    return globs


def by_globs(
    folder: Path, files: Sequence[RasterFile], globs: Sequence[ModalityGlob]
) -> list[ModalityFiles]:
    """Group files by globs; files of a modality that show different ground are one image."""
    modalities = []
    for glob in globs:
        chosen = [file for file in files if glob.includes(file)]
        if not chosen:
            raise DataError(
                f"{folder} has no file like {glob.glob} for modality {glob.modality}: correct "
                "--modality, or leave it out"
            )
        if len({file.dtype for file in chosen}) > 1:
            raise DataError(
                f"{folder}: files like {glob.glob} differ in type: name those of each type with a "
                "--modality of its own"
            )
        if are_pieces(chosen):
            chosen = [join_pieces(chosen)]
        # variables of one file are not named by it
        stems = (glob.modality,) if glob.subdataset or chosen[0].pieces else ()
        modalities.append(ModalityFiles(glob.modality, tuple(chosen), stems=stems[: len(chosen)]))
    return modalities


def by_parts(
    folder: Path,
    files: Sequence[tuple[NameParts, RasterFile]],
    globs: Sequence[ModalityGlob],
) -> list[ModalityFiles]:
    """Group files by what ``--pattern`` says of them; files of one identity are pieces."""
    alike: dict[tuple[str, str], list[RasterFile]] = defaultdict(list)
    for parts, file in files:
        known = sensors.split_band(file.path.stem).modality
        named = next((glob.modality for glob in globs if glob.includes(file)), parts.modality)
        name = re.sub(r"[^\w-]+", "_", named) or known or ("bands" if parts.band else NAMELESS)
        alike[name, parts.band].append(file)
    groups: dict[tuple[object, ...], list[tuple[str, str, RasterFile]]] = defaultdict(list)
    for (name, band), same in alike.items():
        file = same[0] if len(same) == 1 else join_pieces(same)
        grid = (file.height, file.width, tuple(file.transform), str(file.crs))
        groups[(name, file.dtype, *grid) if band else (name,)].append((name, band, file))
    modalities = []
    uses = Counter(group[0][0] for group in groups.values())
    for group in groups.values():
        name, _, first = group[0]
        given = tuple(b for _, band, file in group for b in _named(file, band or name))
        full = f"{name}_{first.resolution_m:.0f}m" if uses[name] > 1 else name
        modalities.append(ModalityFiles(full, tuple(file for _, _, file in group), given))
    names = [modality.name for modality in modalities]
    if len(set(names)) < len(names):
        twice = max(names, key=names.count)
        raise DataError(f"{folder}: bands of {twice} differ in type or size: use --modality")
    return modalities


def _named(file: RasterFile, name: str) -> list[str]:
    """Name a file's bands; the only one of a file is what its name says."""
    return [name] if file.bands == 1 else list(file.names)


def by_names(folder: Path, files: Sequence[tuple[str, RasterFile]]) -> list[ModalityFiles]:
    """Group files, each with its stem or what counts as such, by name, grid and type."""
    groups: dict[tuple[object, ...], list[tuple[str, RasterFile]]] = defaultdict(list)
    for stem, file in files:
        parsed = sensors.split_band(stem)
        key: tuple[object, ...] = (stem, file.path)
        if len(file.indexes) == 1 and parsed.band:
            grid = (file.height, file.width, tuple(file.transform), str(file.crs))
            key = (parsed.modality, parsed.prefix, file.dtype, *grid)
        groups[key].append((stem, file))
    named = [(_group_name([stem for stem, _ in group]), group) for group in groups.values()]
    uses = Counter(name for name, _ in named)
    modalities: list[ModalityFiles] = []
    for name, group in named:
        # bands of one sensor at several resolutions
        full = f"{name}_{group[0][1].resolution_m:.0f}m" if uses[name] > 1 else name
        stems = tuple(stem for stem, _ in group)
        own = tuple(file.path.stem for _, file in group)
        made = ModalityFiles(full, tuple(file for _, file in group))
        modalities.append(made if stems == own else replace(made, stems=stems))
    names = [modality.name for modality in modalities]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        same = [modality.files[0].path.name for modality in modalities if modality.name == twice]
        raise DataError(
            f"{folder} has two modalities {twice} ({same[0]}, {same[1]}): name them with "
            "--modality NAME=GLOB, or, if they are of several scenes, say what names mean with "
            "--pattern, as in --pattern '{scene}_{band}.tif'"
        )
    return modalities


def _group_name(stems: Sequence[str]) -> str:
    parsed = sensors.split_band(stems[0])
    if parsed.modality:
        return parsed.modality
    # the only band of its resolution in a Sentinel-2 product is named like the product's others
    lone = len(stems) == 1 and sensors.modality_name(parsed.prefix) != "s2"
    return sensors.modality_name(stems[0]) if lone else sensors.modality_name(parsed.prefix)


def agree_on_names(scenes: Sequence[Scene], *, named: bool) -> list[Scene]:
    """Leave out of names what says where and when, if the scenes are alike without it.

    ``named`` modalities (by globs, or in a description) keep their names, and only bands are named
    anew. Scenes that are alike already, or that are not without those parts, stay as they are.
    """
    if _alike(scenes):
        return list(scenes)
    try:
        renamed = _rename_bands(scenes) if named else _rename_files(scenes)
    except DataError:
        return list(scenes)
    return renamed if _alike(renamed) else list(scenes)


def _alike(scenes: Sequence[Scene]) -> bool:
    """Tell whether all scenes have the same modalities of the same bands."""
    kinds = [{m.name: sorted(m.bands) for m in scene.modalities} for scene in scenes]
    return all(kind == kinds[0] for kind in kinds)


def _rename_files(scenes: Sequence[Scene]) -> list[Scene]:
    """Group the files again, without the parts of their names that tell scenes apart.

    Those are the parts of the scene's own name, place and time, and what all files of a scene
    share, unless every scene has them.
    """
    tokens = [
        [sensors.name_parts(f.path.stem) for f in scene.images if not _is_known(f)]
        for scene in scenes
    ]
    everywhere = set.intersection(*({t for parts in names for t in parts} for names in tokens))
    renamed = []
    for scene, names in zip(scenes, tokens, strict=True):
        apart = set(sensors.name_parts(PurePosixPath(scene.name).name))
        if len(names) > 1:
            apart |= set.intersection(*map(set, names))
        stems = []
        for file in scene.images:
            kept = [
                part
                for part in sensors.name_parts(file.path.stem)
                if part in everywhere or not (part in apart or sensors.PLACE_AND_TIME.match(part))
            ]
            stems.append(file.path.stem if _is_known(file) else "_".join(kept) or NAMELESS)
        if len(set(stems)) < len(stems):
            raise DataError(f"scene {scene.name} has two files {max(stems, key=stems.count)}")
        files = zip(stems, scene.images, strict=True)
        modalities = by_names(scene.images[0].path.parent, list(files))
        renamed.append(replace(scene, modalities=modalities))
    return renamed


def _is_known(file: RasterFile) -> bool:
    return bool(sensors.split_band(file.path.stem).modality)


def _rename_bands(scenes: Sequence[Scene]) -> list[Scene]:
    """Name bands by the parts of names that a modality's files have in all scenes."""
    everywhere: dict[str, set[str]] = {}
    for scene in scenes:
        for modality in scene.modalities:
            parts = {p for file in modality.files for p in sensors.name_parts(file.path.stem)}
            everywhere[modality.name] = everywhere.get(modality.name, parts) & parts
    renamed = []
    for scene in scenes:
        modalities = []
        for modality in scene.modalities:
            names = [sensors.name_parts(file.path.stem) for file in modality.files]
            shared = set.intersection(*map(set, names)) if len(names) > 1 else set()
            wanted = everywhere[modality.name] - shared
            kept = ["_".join(part for part in parts if part in wanted) for parts in names]
            # the only file of a modality is named like it: its own name differs in every scene
            stems = kept if len(kept) > 1 else [modality.name]
            if not all(stems) or len(set(stems)) < len(stems):
                raise DataError(f"scene {scene.name}: bands of {modality.name} are named alike")
            renewed = modality if modality.given else replace(modality, stems=tuple(stems))
            modalities.append(renewed)
        renamed.append(replace(scene, modalities=modalities))
    return renamed
