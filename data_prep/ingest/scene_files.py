"""Which files of an archive belong to which scene: by their folders, or by ``--pattern``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from data_prep.ingest.archive import Archive, is_raster, is_sidecar
from data_prep.ingest.identity import parse_modalities
from data_prep.ingest.labels import DEFAULT_LABELS, DEFAULT_NAME, holds_labels, shared_labels
from data_prep.ingest.name_pattern import NameParts, first_match
from data_prep.ingest.options import SceneOptions
from data_prep.ingest.sensors import date_of
from data_prep.rasters import RASTER_SUFFIXES, natural_key
from data_prep.schema import Skipped
from rsdgc.errors import DataError

#: Folders of a Sentinel-2 product (level 2A), one for each resolution of its bands.
RESOLUTION_FOLDER = re.compile(r"^R\d+m$", re.IGNORECASE)
#: Folders within a product's ``.SAFE`` folder that hold its bands; others hold by-products.
SAFE_FOLDERS = frozenset(("measurement", "img_data"))


@dataclass
class SceneFiles:
    """Files of a scene, as paths under the archive's root.

    ``parts`` is what a pattern says of each file, and empty without one.
    """

    name: str
    folder: str  #: where labels are looked for
    files: list[str] = field(default_factory=list)
    parts: dict[str, NameParts] = field(default_factory=dict)

    @property
    def site(self) -> str:
        """The first folder of the scene's name if the scene lies deeper, else empty."""
        parts = PurePosixPath(self.name).parts
        return parts[0] if len(parts) > 1 else ""

    def labels(self, options: SceneOptions) -> str | None:
        """Return the file that a pattern says is the labels, or None."""
        wanted = {DEFAULT_LABELS, (options.labels or DEFAULT_LABELS).lower()}
        named = (name for name, parts in self.parts.items() if parts.modality.lower() in wanted)
        return next(named, None)


def same_file(first: Path, second: Path) -> bool:
    """Tell whether two paths are of one file."""
    return first == second or (first.exists() and second.exists() and first.samefile(second))


def list_scenes(
    archive: Archive, options: SceneOptions, apart: Collection[str] = ()
) -> tuple[list[SceneFiles], list[Skipped]]:
    """List the scenes' files, in the order of the archive, and the files that are in no scene.

    Folders ``apart`` hold scenes that are known already.
    """
    if options.patterns:
        return _by_patterns(archive, options)
    return _by_folders(archive, options, apart), _by_products(archive)


def label_test(archive: Archive, options: SceneOptions) -> Callable[[str], bool]:
    """Return a test whether a file of the archive is the one that ``--labels`` names by a path."""
    shared = shared_labels(archive, options)
    return lambda name: any(same_file(archive.path(name), file) for file in shared)


def _by_folders(
    archive: Archive, options: SceneOptions, apart: Collection[str]
) -> list[SceneFiles]:
    """Take every folder that holds rasters, besides labels of all scenes, for a scene."""
    folders: dict[str, list[str]] = {}
    for folder, names in archive.files.items():
        scene = _scene_folder(PurePosixPath(folder))
        if scene is not None and folder not in apart:
            key = "" if scene.as_posix() == "." else scene.as_posix()
            folders.setdefault(key, []).extend(names)
    is_shared = label_test(archive, options)
    globs = parse_modalities(options.modalities)
    images = {
        folder: [
            name
            for name in names
            if is_raster(name) or any(g.says_format(PurePosixPath(name).name) for g in globs)
        ]
        for folder, names in folders.items()
    }
    filled = [folder for folder, names in images.items() if names]
    scenes = [folder for folder in filled if not all(map(is_shared, images[folder]))] or filled
    if not scenes and not apart:
        kept_out = next((f"{item.path}: {item.reason}; " for item in archive.skipped), "")
        raise DataError(
            f"{archive.src} holds no rasters ({', '.join(sorted(RASTER_SUFFIXES))}): {kept_out}"
            "name files of another suffix with --modality, as in --modality 'image=*.dat'"
        )
    return [SceneFiles(folder or archive.name, folder, folders[folder]) for folder in scenes]


def _by_products(archive: Archive) -> list[Skipped]:
    """List the folders of products that hold rasters which are no bands."""
    return [
        Skipped(path=folder, reason="by-products of a Sentinel product, not bands", refused=False)
        for folder, names in archive.files.items()
        if _scene_folder(PurePosixPath(folder)) is None and any(map(is_raster, names))
    ]


def _scene_folder(folder: PurePosixPath) -> PurePosixPath | None:
    """Return the folder of the scene that a folder's files belong to; None for by-products."""
    parts = folder.parts
    safe = next((i for i, part in enumerate(parts) if part.lower().endswith(".safe")), None)
    if safe is not None:
        product, inside = PurePosixPath(*parts[: safe + 1]), parts[safe + 1 :]
        is_imagery = not inside or any(part.lower() in SAFE_FOLDERS for part in inside)
        return product if is_imagery else None
    return folder.parent if RESOLUTION_FOLDER.match(folder.name) else folder


def _by_patterns(archive: Archive, options: SceneOptions) -> tuple[list[SceneFiles], list[Skipped]]:
    patterns, rules = options.name_patterns, options.mask_rules
    dated = any(pattern.has_date for pattern in patterns)
    is_shared = label_test(archive, options)

    def is_default(stem: str) -> bool:
        """Tell whether a file is the labels by its name; a year counts where one is asked for."""
        match = DEFAULT_NAME.match(stem)
        if match is None:
            return False
        return match["year"] is None or options.label_year is not None

    scenes: dict[str, SceneFiles] = {}
    labels: list[str] = []
    others: list[str] = []
    for name in (name for names in archive.files.values() for name in names):
        path = PurePosixPath(name)
        named = any(pattern.says_format(name) for pattern in patterns)
        usable = is_raster(name) or named or holds_labels(archive.path(name), options)
        if is_sidecar(name) or not usable:
            continue
        if path.name == options.labels or is_default(path.stem) or is_shared(name):
            labels.append(name)
        elif (parts := first_match(patterns, name)) is None:
            others += [name] if is_raster(name) or named else []
        else:
            scene = _scene_name(archive, parts, dated)
            folder = "" if path.parent.as_posix() == "." else path.parent.as_posix()
            files = scenes.setdefault(scene, SceneFiles(scene, folder))
            files.files.append(name)
            files.parts[name] = parts
    if not scenes:
        shown = ", ".join(others[:3]) or "it holds no other rasters"
        raise DataError(
            f"{archive.src} has no file like {' or '.join(options.patterns)} ({shown}): write a "
            "--pattern that the names of its files match"
        )
    in_folder = Counter(files.folder for files in scenes.values())
    for files in scenes.values():
        beside = set(archive.files.get(files.folder, ()))
        files.files += [name for name in labels if name in beside]
        if in_folder[files.folder] == 1:
            masks = [n for n in others if n in beside and any(r.matches(n) for r in rules)]
            files.files += masks
            others = [name for name in others if name not in masks]
    reason = "no --pattern matches it"
    ordered = sorted(scenes.values(), key=lambda files: natural_key(files.name))
    return ordered, [Skipped(path=name, reason=reason, refused=False) for name in others]


def _scene_name(archive: Archive, parts: NameParts, dated: bool) -> str:
    folders = PurePosixPath(parts.folder).parts
    # a scene's folder is often named like its files
    own = [parts.scene] if parts.scene and parts.scene not in folders[-1:] else []
    name = "/".join((*folders, *own)) or archive.name
    return f"{name}_{date_of([parts.date])}" if dated and parts.date else name
