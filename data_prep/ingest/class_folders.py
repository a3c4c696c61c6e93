"""Ingestion of single images with a class each: class folders (UC Merced's layout), or a CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.ingest.image_chips import common_side, read_chip
from data_prep.ingest.image_discovery import Image, ImageList
from data_prep.ingest.image_options import ImageOptions, plan_images
from data_prep.ingest.job_pool import run_jobs
from data_prep.ingest.job_results import JobResult, SampleBatch, result_file
from data_prep.ingest.plan import stop_if_strict
from data_prep.ingest.sources import sources_of
from data_prep.ingest.work_folder import WorkFolder, work_folder
from data_prep.manifest import Columns, join_columns, text_column
from data_prep.progress import Callback, reporting
from data_prep.schema import SPLITS, ModalityMeta, Skipped
from data_prep.shards import join_shards
from data_prep.splits import TRAIN, SplitCodes, make_report, split_names, split_stratified
from data_prep.staging import check_free
from data_prep.statistics import ChipSums
from data_prep.store import Store
from data_prep.store_writer import chip_hashes, with_samples, write_records
from rsdgc.errors import DataError

if TYPE_CHECKING:
    import os

#: Images of one job.
JOB_IMAGES = 128


@dataclass(frozen=True)
class ImageJob:
    """Some images: what one process does at a time."""

    key: str
    scene: str
    images: tuple[Image, ...]
    first: int
    common: int
    side: int
    bytes: int

    def run(self) -> Iterator[SampleBatch]:
        """Read the images; those that cannot be read are skipped."""
        for number, image in enumerate(self.images, start=self.first):
            try:
                values, valid = read_chip(image.file, self.common, self.side)
            except DataError as error:
                empty = np.zeros((0, image.file.bands, self.side, self.side), image.file.dtype)
                yield SampleBatch([empty], {}, [], skipped=[(image.name, str(error))])
                continue
            columns: Columns = {
                "image": np.array([number]),
                "valid": np.array([valid.all(axis=0).mean()]),
                "hash": chip_hashes([values[None]]),
            }
            yield SampleBatch([values[None]], columns, [ChipSums.of(values[None], valid[None])])


def ingest_class_folders(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    processes: int | None = None,
    overwrite: bool = False,
    progress: Callback | None = None,
    **options: Any,
) -> Store:
    """Make a store from ``SRC/class/image.tif`` (also ``.png``, ``.jpg``, ``.jp2`` and others).

    All chips are square and of one size. The *common side* is the shorter side of the commonest
    image size; larger images are cropped to it round their center, smaller ones are padded by
    reflection. With ``chip_px`` the result is then resampled to that side (averaging when it
    shrinks), so that a chip still shows the whole image.

    Parameters
    ----------
    src, out
        The archive, which is only read: a folder or zip file of class folders, the same for each
        site (``SRC/site/class/image.tif``), or a CSV file with the columns ``file`` and ``label``.
        And the store to make, which appears whole at the end, or not at all.
    processes
        Default: one a CPU, and a single one for little work.
    overwrite
        Replace another store at ``out``.
    progress
        Called with what is done, how much is done, and of how much.
    **options
        Fields of :class:`ImageOptions`.

    Returns
    -------
    Store
        The new store; ``store.meta.skipped`` lists the files that were left out and why.

    Raises
    ------
    DataError
        No class folder, no readable image, or nothing left to train on.
    SettingError
        An option is out of range.
    """
    chosen = ImageOptions(**options)
    target = Path(out)
    found = plan_images(src, chosen)
    paths = [image.file.path for image in found.images]
    listed = [Path(src)] if Path(src).is_file() else []
    given = [Path(chosen.classes)] if isinstance(chosen.classes, (str, Path)) else []
    sources = sources_of([*paths, *listed, *given], chosen)
    if sources.made(target):
        return Store.open(target)
    check_free(target.absolute(), overwrite=overwrite)
    common = common_side([image.file for image in found.images])
    side = chosen.chip_px or common
    jobs = _jobs(found.images, common, side)
    with work_folder(target, sources.key, overwrite=overwrite) as work, sources.hashing() as hashed:
        with reporting(progress, unit="bytes") as report:
            made = run_jobs(jobs, work.parts, processes=processes, report=report)
        _finish(found, [made[job.key] for job in jobs], work, chosen, (common, side))
        hashed.result().write(work.store)
    return Store.open(target)


def _jobs(images: Sequence[Image], common: int, side: int) -> list[ImageJob]:
    jobs = []
    for number, first in enumerate(range(0, len(images), JOB_IMAGES)):
        some = tuple(images[first : first + JOB_IMAGES])
        cost = sum(_image_bytes(image) for image in some)
        jobs.append(ImageJob(f"{number:05d}", f"{first}", some, first, common, side, cost))
    return jobs


def _image_bytes(image: Image) -> int:
    file = image.file
    return file.height * file.width * file.bands * np.dtype(file.dtype).itemsize


def _finish(
    found: ImageList,
    parts: list[JobResult],
    work: WorkFolder,
    options: ImageOptions,
    sides: tuple[int, int],
) -> None:
    skipped = [*found.skipped]
    for part in parts:
        skipped += [Skipped(path=path, reason=reason) for path, reason in part.skipped]
    stop_if_strict(options.strict, skipped)
    filled = [part for part in parts if part.rows]
    if not filled:
        raise DataError(f"no image can be read: {skipped[0].path}: {skipped[0].reason}")
    read = join_columns([part.columns for part in filled])
    columns = _columns([found.images[i] for i in read["image"]], read)
    labels = columns["label"]
    codes, method = _split(columns, found, options)
    columns["split"] = split_names(codes)
    columns["chip"] = np.arange(len(labels))
    train = np.flatnonzero(codes == TRAIN)
    if not len(train):
        raise DataError("no train sample is left: choose a smaller test share")
    sums = ChipSums.join([part.sums[0] for part in filled]).total(train)
    files = [(result_file(work.parts, part.key, 0), part.rows) for part in filled]
    shards = join_shards(work.store, "image", files)
    synthetic = options.synthetic
    write_records(
        work.store,
        columns,
        [with_samples(_describe(found.images), shards, sums)],
        kind="chips",
        name=options.name or found.archive.name,
        source=f"class folders of {found.archive.name}: {len(labels)} images",
        synthetic=found.archive.is_synthetic() if synthetic is None else synthetic,
        classes=found.classes,
        class_codes=found.codes,
        chip_px=sides[1],
        stride_px=sides[1],
        splits=make_report(method, codes, labels, found.classes, **options.shares),
        skipped=skipped,
        notes=_notes(found.images, *sides),
    )


def _split(columns: Columns, found: ImageList, options: ImageOptions) -> tuple[SplitCodes, str]:
    """Split as the CSV says, else class by class at each site."""
    given = columns.pop("given")
    if (given != "").any():
        if (given == "").any():
            lacking = columns["scene"][given == ""][0]
            raise DataError(f"{lacking} has no split but others have: fill in the column split")
        return np.array([SPLITS.index(name) for name in given], np.int8), "given"
    sites = np.unique(columns["folder"].astype(str), return_inverse=True)[1]
    groups = sites * len(found.classes) + columns["label"]
    return split_stratified(groups, columns["hash"], **options.shares), "stratified"


def _columns(images: Sequence[Image], read: Columns) -> Columns:
    count = len(images)
    return {
        "label": np.array([image.label for image in images], np.int64),
        "scene": np.array([image.name for image in images], dtype=object),
        "folder": np.array([image.folder for image in images], dtype=object),
        "given": np.array([image.split for image in images], dtype=object),
        "row": np.zeros(count, np.int64),
        "col": np.zeros(count, np.int64),
        "x": np.full(count, np.nan),
        "y": np.full(count, np.nan),
        "crs": text_column("", count),
        "block": text_column("", count),
        "valid": read["valid"],
        "hash": read["hash"],
    }


def _describe(images: Sequence[Image]) -> ModalityMeta:
    files = [image.file for image in images]
    declared = [file.nodata for file in files if file.nodata is not None]
    names = list(files[0].names)
    if names == ["band1", "band2", "band3"] and files[0].dtype == "uint8":
        names = ["red", "green", "blue"]
    return ModalityMeta(
        name="image",
        bands=names,
        dtype=files[0].dtype,
        nodata=declared[0] if declared else None,
        scale=list(files[0].scales),
        offset=list(files[0].offsets),
    )


def _notes(images: Sequence[Image], common: int, side: int) -> list[str]:
    notes = []
    other = sum((image.file.height, image.file.width) != (common, common) for image in images)
    if other:
        notes.append(f"{other} images cropped or padded to {common}×{common} px")
    alphas = sum(image.file.alpha for image in images)
    if alphas:
        notes.append(f"{alphas} images have an alpha band, which is not read as a band")
    tables = sum(image.file.expand for image in images)
    if tables:
        notes.append(f"{tables} images have a color table, stored as red, green and blue")
    if side != common:
        notes.append(f"all images resampled from {common} to {side} px")
    return notes
