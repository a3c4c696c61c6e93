"""Ingestion of class folders: one folder per class, one image per sample (UC Merced's layout)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.ingest.archive import is_synthetic
from data_prep.ingest.images import common_side, read_chip
from data_prep.manifest import Columns, join_columns, texts
from data_prep.progress import Callback, reporting
from data_prep.rasters import (
    RASTER_SUFFIXES,
    RasterFile,
    natural_key,
    read_header,
)
from data_prep.schema import ModalityMeta, Skipped
from data_prep.splits import TRAIN, check_shares, make_report, split_names, split_stratified
from data_prep.staging import check_free, staged_folder
from data_prep.store import Store
from data_prep.writer import StoreWriter, chip_hashes
from rsdgc.errors import DataError, SettingError

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Image:
    """An image file of a class folder: its path under SRC, header and class number."""

    name: str
    file: RasterFile
    label: int


def ingest_class_folders(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    chip_px: int | None = None,
    test_share: float = 0.2,
    val_share: float = 0.0,
    seed: int = 0,
    nodata: float | None = None,
    strict: bool = False,
    name: str | None = None,
    synthetic: bool | None = None,
    overwrite: bool = False,
    progress: Callback | None = None,
) -> Store:
    """Make a store from ``SRC/class/image.tif`` (also ``.png``, ``.jpg``, ``.jp2`` and others).

    All chips are square and of one size. The *common side* is the shorter side of the commonest
    image size; larger images are cropped to it round their center, smaller ones are padded by
    reflection. With ``chip_px`` the result is then resampled to that side (averaging when it
    shrinks), so that a chip still shows the whole image.

    Parameters
    ----------
    src, out
        The archive's folder, which is only read, and the store to make. The store appears whole
        at the end, or not at all.
    chip_px
        Side of the chips; default: the common side, where nothing is resampled.
    test_share, val_share, seed
        Shares of each class, and the seed of the choice. Images of equal content go to one split.
    nodata
        Value that marks invalid pixels, over what the files declare.
    strict
        Fail at the first file that cannot be used, instead of listing it in ``meta.json``.
    name, synthetic
        Name of the data in reports (default: the folder's), and whether it is synthetic
        (default: what ``archive.json`` says).
    overwrite
        Replace an existing store at ``out``.
    progress
        Called with what is done, how many images are done, and of how many.

    Returns
    -------
    Store
        The new store; ``store.meta.skipped`` lists the files that were left out and why.

    Raises
    ------
    DataError
        No class folder, no readable image, or nothing left to train on.
    SettingError
        A setting is out of range.
    """
    src = Path(src)
    check_shares(test_share, val_share)
    if chip_px is not None and chip_px < 1:
        raise SettingError(f"chip_px is {chip_px}: choose at least 1 px")
    check_free(Path(out).absolute(), overwrite=overwrite)
    classes, images, skipped = find_images(src)
    images = _agree(images, skipped)
    if nodata is not None:
        images = [replace(image, file=image.file.with_nodata(nodata)) for image in images]
    _stop_if(strict, skipped)
    common = common_side([image.file for image in images])
    side = common if chip_px is None else chip_px
    with staged_folder(out, overwrite=overwrite) as folder:
        writer = StoreWriter(folder, [_describe(images)], side)
        try:
            columns = _read_all(images, writer, common, side, skipped, progress)
        finally:
            writer.abandon()
        _stop_if(strict, skipped)
        labels = columns["label"].astype(np.int64)
        shares: dict[str, Any] = {
            "test_share": test_share,
            "val_share": val_share,
            "seed": seed,
        }
        codes = split_stratified(labels, columns["hash"], **shares)
        columns["split"] = split_names(codes)
        columns["chip"] = np.arange(len(labels))
        writer.finish(
            columns,
            np.flatnonzero(codes == TRAIN),
            kind="chips",
            name=name or src.resolve().name,
            source=f"class folders of {src.resolve().name}: {len(labels)} images",
            synthetic=is_synthetic(src) if synthetic is None else synthetic,
            classes=classes,
            class_codes=list(range(len(classes))),
            chip_px=side,
            stride_px=side,
            splits=make_report("stratified", codes, labels, classes, **shares),
            skipped=skipped,
            notes=_notes(images, common, side),
        )
    return Store.open(out)


def _stop_if(strict: bool, skipped: list[Skipped]) -> None:
    refused = [item for item in skipped if item.refused]
    if strict and refused:
        raise DataError(f"{refused[0].path}: {refused[0].reason} (strict: nothing is skipped)")


def find_images(src: Path) -> tuple[list[str], list[Image], list[Skipped]]:
    """List classes and images, both in natural order, and the files that are no images.

    Raises
    ------
    DataError
        No folder, or no folder with images in it.
    """
    if not src.is_dir():
        raise DataError(f"{src} is not a folder: give the folder that holds the class folders")
    folders = [p for p in src.iterdir() if p.is_dir() and not p.name.startswith(".")]
    classes: list[str] = []
    images: list[Image] = []
    skipped: list[Skipped] = []
    for folder in sorted(folders, key=lambda path: natural_key(path.name)):
        paths = sorted(
            (p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")),
            key=lambda path: natural_key(path.name),
        )
        rasters = [path for path in paths if path.suffix.lower() in RASTER_SUFFIXES]
        if not rasters:
            skipped.append(Skipped(path=folder.name, reason="no image in it", refused=False))
            continue
        for path in rasters:
            relative = path.relative_to(src).as_posix()
            try:
                images.append(Image(relative, read_header(path), len(classes)))
            except DataError as error:
                skipped.append(Skipped(path=relative, reason=str(error)))
        classes.append(folder.name)
    if not classes:
        raise DataError(f"{src} has no class folders with images: expected SRC/class/image.tif")
    if not images:
        raise DataError(f"{src} has no readable image: {skipped[0].reason}")
    return classes, images, skipped


def _agree(images: list[Image], skipped: list[Skipped]) -> list[Image]:
    """Keep the images of the commonest number of bands and type."""
    kinds = Counter(_kind(image.file) for image in images if not image.file.palette)
    if not kinds:
        raise DataError("all images have a color table: convert them to bands of values")
    common = kinds.most_common(1)[0][0]
    kept = []
    for image in images:
        bands, dtype = _kind(image.file)
        if image.file.palette:
            reason = "it has a color table: convert it to bands of values"
        elif (bands, dtype) != common:
            reason = f"{bands} band(s) of {dtype}, the others have {common[0]} of {common[1]}"
        else:
            kept.append(image)
            continue
        skipped.append(Skipped(path=image.name, reason=reason))
    return kept


def _kind(file: RasterFile) -> tuple[int, str]:
    return len(file.indexes), file.dtype


def _describe(images: list[Image]) -> ModalityMeta:
    files = [image.file for image in images]
    declared = [file.nodata for file in files if file.nodata is not None]
    count = len(files[0].indexes)
    names = list(files[0].names)
    if count == 3 and names == ["band1", "band2", "band3"] and files[0].dtype == "uint8":
        names = ["red", "green", "blue"]
    return ModalityMeta(
        name="image",
        bands=names,
        dtype=files[0].dtype,
        nodata=declared[0] if declared else None,
    )


def _read_all(
    images: list[Image],
    writer: StoreWriter,
    common: int,
    side: int,
    skipped: list[Skipped],
    progress: Callback | None,
) -> Columns:
    """Read and write every image; columns of those that could be read."""
    rows: list[Columns] = []
    with reporting(progress) as report:
        for done, image in enumerate(images):
            report(image.name, done, len(images))
            try:
                values, valid = read_chip(image.file, common, side)
            except DataError as error:
                skipped.append(Skipped(path=image.name, reason=str(error)))
                continue
            writer.append([values[None]])
            rows.append(_row(image, values, float(valid)))
        report("done", len(images), len(images))
    if not rows:
        raise DataError(f"no image can be read: {skipped[0].path}: {skipped[0].reason}")
    return join_columns(rows)


def _row(image: Image, values: NDArray[Any], valid: float) -> Columns:
    return {
        "label": np.array([image.label]),
        "scene": texts(image.name, 1),
        "folder": texts("", 1),
        "row": np.zeros(1, np.int64),
        "col": np.zeros(1, np.int64),
        "x": np.full(1, np.nan),
        "y": np.full(1, np.nan),
        "crs": texts("", 1),
        "block": texts("", 1),
        "valid": np.array([valid]),
        "hash": chip_hashes([values[None]]),
    }


def _notes(images: list[Image], common: int, side: int) -> list[str]:
    notes = []
    other = sum((image.file.height, image.file.width) != (common, common) for image in images)
    if other:
        notes.append(f"{other} images cropped or padded to {common}×{common} px")
    alphas = sum(image.file.alpha for image in images)
    if alphas:
        notes.append(f"{alphas} images have an alpha band, which is not read as a band")
    if side != common:
        notes.append(f"all images resampled from {common} to {side} px")
    return notes
