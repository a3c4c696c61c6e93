"""Single images with a class each: in class folders, or listed in a CSV file.

::

    SRC/class/image.tif                     class folders
    SRC/client_0/class/image.tif            the same for each site (FedRS-Bench)
    SRC/train/class/image.tif               with a split, also below the sites' folders
    images.csv: file,label[,folder][,split]      paths are relative to the CSV file
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from data_prep.ingest.archive import (
    Archive,
    is_image,
    is_sidecar,
    listed_path,
    open_archive,
)
from data_prep.ingest.class_list import ClassList, UnknownLabelError, given_classes
from data_prep.ingest.csv_rows import read_rows
from data_prep.ingest.label_values import normal_name
from data_prep.ingest.labels import DEFAULT_LABELS
from data_prep.ingest.options import ImageOptions
from data_prep.ingest.plan import stop_if_strict
from data_prep.ingest.products import by_product_reason
from data_prep.ingest.scene_files import RESOLUTION_FOLDER
from data_prep.ingest.sensors import split_band
from data_prep.ingest.split_folders import mixed_split_note, split_level, without_split
from data_prep.ingest.work_folder import disk_bytes
from data_prep.number_format import plural
from data_prep.rasters import RasterFile, gdal_environment, natural_key, read_header
from data_prep.schema import SPLITS, Skipped
from rsdgc.documents import shorten
from rsdgc.errors import DataError
from rsdgc.plain_text import plain_line


@dataclass(frozen=True)
class Image:
    """An image file: its path under SRC, header, class number, site's folder, and given split."""

    name: str
    file: RasterFile
    label: int
    folder: str = ""
    split: str = ""


@dataclass(frozen=True)
class _Entry:
    """An image before its header is read."""

    name: str
    path: Path
    label: str
    folder: str = ""
    split: str = ""


@dataclass
class ImageList:
    """Classes, usable images, and what was left out."""

    archive: Archive
    classes: list[str]
    codes: list[int]
    images: list[Image]
    skipped: list[Skipped]
    notes: list[str]

    def most_bytes(self, side: int) -> int:
        """Size of the array of chips of a side, if all images can be read."""
        first = self.images[0].file
        return len(self.images) * first.bands * side**2 * np.dtype(first.dtype).itemsize

    def most_disk_bytes(self, side: int) -> int:
        """Most space that making the store takes beside the images."""
        count, bands = len(self.images), self.images[0].file.bands
        return disk_bytes(count, bands, self.most_bytes(side))


def plan_images(src: str | os.PathLike[str], options: ImageOptions) -> ImageList:
    """List classes and images, both in natural order, and what is left out, from headers alone.

    ``src`` is a folder or zip file of class folders, or a CSV file with the columns ``file`` and
    ``label``.
    """
    classes = None
    if options.classes is not None:
        # class folders name their classes: only a list that is given counts
        no_files = Archive(Path(src), Path(src), "")
        ignore = options.unknown == "ignore"
        classes = given_classes(no_files, options.classes, ignore_unknown=ignore)
    path = Path(src)
    skipped: list[Skipped] = []
    notes: list[str] = []
    if path.suffix.lower() == ".csv":
        archive = Archive(path.parent, path.parent, path.stem)
        entries = _listed(path)
    else:
        archive = open_archive(src)
        skipped += archive.skipped
        entries = _in_folders(archive, skipped)
        folders = dict.fromkeys(PurePosixPath(entry.name).parent.parts for entry in entries)
        notes += filter(None, [mixed_split_note(folders)])
    # names of folders are decomposed on some systems, and those of a class list composed
    entries = [replace(entry, label=normal_name(entry.label)) for entry in entries]
    if not entries:
        kept_out = next((f": {item.path}: {item.reason}" for item in skipped), "")
        raise DataError(
            f"{src} has no class folders with images{kept_out}: arrange them as "
            "SRC/class/image.tif, or list images of any format in a CSV file with the columns "
            "file and label"
        )
    if classes is None:
        names = sorted({entry.label for entry in entries}, key=natural_key)
        classes = ClassList(dict(enumerate(names)), closed=True, zero_is_unlabeled=False)
    with gdal_environment():
        images = _read_images(entries, classes, options, skipped)
    if not images:
        first = next((item for item in skipped if item.refused), skipped[0])
        raise DataError(f"{src} has no readable image: {first.path}: {first.reason}")
    images = _alike(images, skipped)
    stop_if_strict(options.strict, skipped)
    names = list(classes.names.values())
    return ImageList(archive, names, list(classes.names), images, skipped, notes)


def _read_images(
    entries: Sequence[_Entry], classes: ClassList, options: ImageOptions, skipped: list[Skipped]
) -> list[Image]:
    """Read the headers of images; those that cannot be used are added to ``skipped``."""
    number = {name: i for i, name in enumerate(classes.names.values())}
    images = []
    for entry in entries:
        if entry.label not in number:
            if not classes.ignore_unknown:
                raise UnknownLabelError(
                    f"{entry.name} has the class {entry.label!r}, which is not in the class list "
                    f"({', '.join(number)}): add it, or leave it out with --unknown ignore"
                )
            skipped.append(Skipped(path=entry.name, reason="its class is not in the list"))
            continue
        try:
            file = read_header(entry.path, options.complex_mode).expanded()
        except DataError as error:
            skipped.append(Skipped(path=entry.name, reason=str(error)))
            continue
        if options.nodata is not None:
            assert not isinstance(options.nodata, Mapping)
            file = file.with_nodata(options.nodata)
        images.append(Image(entry.name, file, number[entry.label], entry.folder, entry.split))
    return images


def _alike(images: list[Image], skipped: list[Skipped]) -> list[Image]:
    """Keep the images of the commonest number of bands and type: an array has one of each."""
    kinds = Counter((image.file.bands, image.file.dtype) for image in images)
    common = kinds.most_common(1)[0][0]
    kept = []
    for image in images:
        bands, dtype = image.file.bands, image.file.dtype
        if (bands, dtype) == common:
            kept.append(image)
            continue
        reason = f"{plural(bands, 'band')} of {dtype}, the others have {common[0]} of {common[1]}"
        skipped.append(Skipped(path=image.name, reason=reason))
    return kept


def common_side(images: Sequence[Image]) -> int:
    """Shorter side of the commonest image size; of several, the largest."""
    sizes = Counter((image.file.height, image.file.width) for image in images)
    height, width = max(sizes, key=lambda size: (sizes[size], size))
    return min(height, width)


def _in_folders(archive: Archive, skipped: list[Skipped]) -> list[_Entry]:
    entries = []
    paths = {folder: PurePosixPath(folder).parts for folder in archive.files}
    filled = [folder for folder, names in archive.files.items() if any(map(is_image, names))]
    level = split_level(paths[folder] for folder in filled)
    places = {folder: without_split(parts, level) for folder, parts in paths.items()}
    sites = _site_folders(archive, {folder: parts for folder, (parts, _) in places.items()})
    for folder, names in archive.files.items():
        parts, split = places[folder]
        depth = 1 + (bool(parts) and parts[0] in sites)
        if len(parts) < depth:
            continue
        rasters = [name for name in names if is_image(name)]
        if len(parts) > depth and rasters:
            reason = f"deeper than class folders, of which {parts[depth - 1]} is one"
            skipped.append(Skipped(path=folder, reason=reason))
            continue
        skipped += [
            Skipped(path=name, reason="not an image", refused=False)
            for name in names
            if not (is_image(name) or is_sidecar(name) or name.endswith((".txt", ".md", ".json")))
        ]
        site = parts[0] if depth > 1 else ""
        entries += [_Entry(name, archive.path(name), parts[-1], site, split) for name in rasters]
    if archive.src.is_dir():  # a zip file need not list empty folders
        tops = {PurePosixPath(name).parts[0] for name in archive.files if name}
        named = {item.path for item in archive.skipped}
        for child in sorted(archive.src.iterdir()):
            if child.is_dir() and not child.name.startswith(".") and child.name not in tops:
                if plain_line(child.name) in named:
                    continue
                skipped.append(Skipped(path=child.name, reason="no image in it", refused=False))
    _check_layout(archive, entries)
    return sorted(entries, key=lambda entry: (natural_key(entry.folder), natural_key(entry.name)))


def _site_folders(archive: Archive, places: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Top folders that hold class folders, not images."""
    holders: dict[int, set[str]] = {1: set(), 2: set()}
    for folder, names in archive.files.items():
        parts = places[folder]
        if len(parts) in holders and any(map(is_image, names)):
            holders[len(parts)].add(parts[0])
    # a folder with images of its own is a class, whatever lies deeper in it
    return holders[2] - holders[1]


def _check_layout(archive: Archive, entries: Sequence[_Entry]) -> None:
    """Raise DataError if the folders are scenes, of which each would become a class."""
    stems: dict[str, list[str]] = defaultdict(list)
    for entry in entries:
        stems[str(PurePosixPath(entry.name).parent)].append(PurePosixPath(entry.name).stem)
    labeled = [
        folder
        for folder in stems
        if any(PurePosixPath(n).stem.lower() == DEFAULT_LABELS for n in archive.files[folder])
    ]
    kinds = {frozenset(names) for names in stems.values()}
    products = [folder for folder, names in stems.items() if all(map(_is_product, names))]
    resolutions = [f for f in stems if RESOLUTION_FOLDER.match(PurePosixPath(f).name)]
    if 2 * len(labeled) >= max(1, len(stems)):
        evidence = f"{labeled[0]} holds labels"
    elif 2 * len(products) > len(stems) or resolutions:
        evidence = f"{(products or resolutions)[0]} holds the bands of a product"
    elif len(stems) > 1 and len(kinds) == 1 and all(map(_says_what, kinds.copy().pop())):
        names = sorted(next(iter(kinds)))
        if len(names) < 2:
            return
        evidence = f"each folder holds {', '.join(names[:4])}"
    else:
        return
    raise DataError(
        f"{archive.src} looks like scenes and not like class folders ({evidence}): use --layout "
        "scenes; if its folders are classes, list the images in a CSV file with the columns file "
        "and label"
    )


def _is_product(stem: str) -> bool:
    return bool(split_band(stem).modality or by_product_reason(stem))


def _says_what(stem: str) -> bool:
    """Tell whether a name says what a file shows and does not number it."""
    return (stem.isalpha() and len(stem) > 2) or split_band(stem).band[:1].upper() == "B"


def _listed(path: Path) -> list[_Entry]:
    needed = ("file", "label")
    entries = []
    for place, row in read_rows(path, needed, filled=needed, remedy="correct the list"):
        split = row.get("split") or ""
        if split not in ("", *SPLITS[:3]):
            raise DataError(
                f"{place}: split {shorten(split)} is not one of {', '.join(SPLITS[:3])}: correct "
                "the list"
            )
        folder = row.get("folder") or ""
        file = listed_path(path.parent, row["file"])
        entries.append(_Entry(row["file"], file, row["label"], folder, split))
    return entries
