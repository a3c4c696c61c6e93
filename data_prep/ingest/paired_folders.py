"""Folders of images beside a folder of labels, paired by the files' names.

::

    SRC/images/a.tif      SRC/masks/a.png            every pair is a scene
    SRC/images/a.tif      SRC/dem/a.tif      SRC/labels/a.tif         with two modalities
    SRC/train/images/a.tif         SRC/train/masks/a_mask.tif
    SRC/img_dir/train/a.tif        SRC/ann_dir/train/a.png

A folder of labels is known by its name, or named by ``--labels``. The folders beside it that hold
files of the same stems are modalities, named after them. A stem may end in ``_mask``, ``_label``
and the like.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from data_prep.ingest import sensors
from data_prep.ingest.archive import Archive, is_raster, is_sidecar
from data_prep.ingest.identity import ModalityGlob
from data_prep.ingest.labels import holds_labels, read_labels
from data_prep.ingest.options import SceneOptions
from data_prep.ingest.scene import MaskFile, ModalityFiles, Scene
from data_prep.rasters import read_header
from data_prep.schema import Skipped
from rsdgc.errors import DataError

LABEL_FOLDER = re.compile(
    r"^(?:masks?|labels?|ann(?:otations?)?|gts?|ground[_-]?truths?)(?:[_-]\w+)?$", re.IGNORECASE
)
IMAGE_FOLDER = re.compile(r"^(?:images?|imgs?)(?:_dir)?$", re.IGNORECASE)
#: Ends of stems that say what a file is and not which.
ROLE = re.compile(r"[_-](?:masks?|labels?|gt|ann(?:otation)?|seg|images?|img|sat)$", re.IGNORECASE)


@dataclass
class Pairs:
    """Scenes of paired files, what was left out, and the folders that they lie in."""

    scenes: list[Scene] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    folders: set[str] = field(default_factory=set)


def find_pairs(archive: Archive, globs: Sequence[ModalityGlob], options: SceneOptions) -> Pairs:
    """Find the pairs of an archive, by name and with the modalities that globs name.

    Raises
    ------
    DataError
        Several folders of labels lie beside the same images.
    """
    pairs = Pairs()
    for label_folder, image_folders in _groups(archive, options).items():
        labels = _by_stem(archive, label_folder, options, of_labels=True)
        images = {folder: _by_stem(archive, folder, options) for folder in image_folders}
        pairs.folders.update((label_folder, *image_folders))
        stems = dict.fromkeys(stem for of_folder in images.values() for stem in of_folder)
        for stem in stems:
            files = {folder: own[stem] for folder, own in images.items() if stem in own}
            name = _scene_name(label_folder, next(iter(files.values())), next(iter(files)))
            try:
                if stem not in labels:
                    raise DataError(f"no file of its name in {label_folder}: add its labels")
                scene = _scene(archive, name, files, labels[stem], globs, options)
            except DataError as error:
                pairs.skipped.append(Skipped(path=name, reason=str(error)))
            else:
                pairs.scenes.append(scene)
        pairs.skipped += [
            Skipped(path=file, reason="labels without an image of their name", refused=False)
            for stem, file in labels.items()
            if stem not in stems
        ]
    return pairs


def _groups(archive: Archive, options: SceneOptions) -> dict[str, list[str]]:
    """Return folders of labels, each with the folders of images that share stems with it."""
    groups: dict[str, list[str]] = {}
    used: dict[str, str] = {}
    for folder in archive.files:
        parts = PurePosixPath(folder).parts
        place = next((i for i, part in enumerate(parts) if _is_labels(part, options)), None)
        if place is None:
            continue
        stems = set(_by_stem(archive, folder, options, of_labels=True))
        beside = [
            other
            for other in archive.files
            if _differs_at(PurePosixPath(other).parts, parts, place)
            and not _is_labels(PurePosixPath(other).parts[place], options)
            and stems & set(_by_stem(archive, other, options))
        ]
        for other in beside:
            if used.setdefault(other, folder) != folder:
                raise DataError(
                    f"{archive.path(other)} has labels in {used[other]} and in {folder}: choose "
                    f"one with --labels {shlex.quote(parts[place])}"
                )
        if beside:
            groups[folder] = beside
    return groups


def _is_labels(part: str, options: SceneOptions) -> bool:
    if options.labels is not None:
        return part == options.labels.strip("/")
    if options.label_year is not None and re.search(r"(?:19|20)\d{2}$", part):
        return bool(LABEL_FOLDER.match(part)) and part.endswith(str(options.label_year))
    return bool(LABEL_FOLDER.match(part))


def _differs_at(parts: tuple[str, ...], others: tuple[str, ...], place: int) -> bool:
    same = parts[:place] + parts[place + 1 :] == others[:place] + others[place + 1 :]
    return same and len(parts) == len(others) and parts[place] != others[place]


def _by_stem(
    archive: Archive, folder: str, options: SceneOptions, *, of_labels: bool = False
) -> dict[str, str]:
    """Return the files of a folder by their stem; of several of one stem, the first by name."""
    files: dict[str, str] = {}
    for name in archive.files.get(folder, ()):
        usable = holds_labels(archive.path(name), options) if of_labels else is_raster(name)
        if usable and not is_sidecar(name):
            stem = ROLE.sub("", PurePosixPath(name).stem).lower()
            files.setdefault(stem, name)
    return files


def _scene_name(label_folder: str, image: str, image_folder: str) -> str:
    """Name a scene by its image, without the folder that says what the file is."""
    parts, others = PurePosixPath(image_folder).parts, PurePosixPath(label_folder).parts
    kept = [part for part, other in zip(parts, others, strict=True) if part == other]
    return "/".join([*kept, PurePosixPath(image).stem])


def _scene(
    archive: Archive,
    name: str,
    files: dict[str, str],
    labels: str,
    globs: Sequence[ModalityGlob],
    options: SceneOptions,
) -> Scene:
    others = PurePosixPath(labels).parent.parts
    masks: list[MaskFile] = []
    modalities: list[ModalityFiles] = []
    for folder, file in files.items():
        parts = PurePosixPath(folder).parts
        own = next(part for part, other in zip(parts, others, strict=True) if part != other)
        path = archive.path(file)
        rule = next((rule for rule in options.mask_rules if rule.matches(path.name)), None)
        if rule is not None:
            masks.append(MaskFile(read_header(path, crs=options.crs_of()), rule))
            continue
        modality = "image" if IMAGE_FOLDER.match(own) else re.sub(r"[^\w-]+", "_", own)
        if globs:
            texts = (path.name, f"{own}/{path.name}")
            chosen = [glob.modality for glob in globs if any(map(glob.matches, texts))]
            if not chosen:
                continue
            modality = chosen[0]
        header = read_header(path, options.complex_mode, options.crs_of(modality)).expanded()
        # a single band is named like its modality: its file has another name in every scene
        given = (modality,) if header.bands == 1 else ()
        modalities.append(ModalityFiles(modality, (header,), given))
    if not modalities:
        raise DataError("no --modality names a file of its images: correct the GLOB")
    if options.mask_rules and not masks:
        raise DataError("it has no file like those of --mask: add it, or leave --mask out")
    parts = PurePosixPath(name).parts
    return Scene(
        name=name,
        folder=parts[0] if len(parts) > 1 else "",
        modalities=modalities,
        labels=read_labels(archive.path(labels), options),
        masks=masks,
        date=sensors.date_of(reversed(parts)),
    )
