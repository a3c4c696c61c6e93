"""Ingestion of single images with a class each: class folders (UC Merced's layout), or a CSV."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.windows import Window

from data_prep.ingest.aligned import (
    expand_colors,
    fill_invalid,
    has_own_mask,
    stored_values,
)
from data_prep.ingest.image_discovery import Image, ImageList, common_side, plan_images
from data_prep.ingest.job_pool import run_jobs
from data_prep.ingest.job_results import (
    Job,
    JobResult,
    SampleBatch,
    join_validity,
    result_file,
)
from data_prep.ingest.losses import Losses
from data_prep.ingest.options import ImageOptions
from data_prep.ingest.plan import stop_if_strict
from data_prep.ingest.progress import Callback
from data_prep.ingest.sources import sources_of
from data_prep.ingest.work_folder import WorkFolder, work_folder
from data_prep.manifest import Columns, join_columns, text_column
from data_prep.rasters import RasterFile, color_table, open_raster, shared_nodata
from data_prep.schema import SPLITS, ModalityMeta, Skipped
from data_prep.shards import join_shards
from data_prep.splits import TEST, TRAIN, SplitCodes, make_report, split_names, split_stratified
from data_prep.statistics import ChipSums
from data_prep.store import Store
from data_prep.store_writer import chip_hashes, write_records
from data_prep.validity import pack
from rsdgc.errors import DataError

#: Images of one job: enough that a job takes longer than its start, for images of 64 px as well.
JOB_IMAGES = 128


@dataclass(frozen=True, kw_only=True)
class ImageJob(Job):
    """Some images; ``first`` is the number of their first one in the list of all."""

    images: tuple[Image, ...]
    first: int
    common: int
    side: int
    modality: ModalityMeta

    def run(self) -> Iterator[SampleBatch]:
        """Read the images; those that cannot be read are skipped."""
        for number, image in enumerate(self.images, start=self.first):
            try:
                values, valid, lost = read_chip(image.file, self.common, self.side)
            except DataError as error:
                empty = np.zeros((0, image.file.bands, self.side, self.side), image.file.dtype)
                yield SampleBatch([empty], {}, [], skipped=[(image.name, str(error))])
                continue
            bits = None
            if not valid.all():
                values = fill_invalid(values, valid, self.modality.nodata)
                bits = pack(valid[None]) if self.modality.may_need_validity else None
            columns: Columns = {
                "image": np.array([number]),
                "valid": np.array([valid.all(axis=0).mean()]),
                "hash": chip_hashes([values[None]]),
            }
            sums = [ChipSums.of(values[None], valid[None])]
            losses = Losses({image.name: lost} if lost else {})
            yield SampleBatch([values[None]], columns, sums, losses=losses, validity=[bits])


def ingest_class_folders(
    src: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    processes: int | None = None,
    overwrite: bool = False,
    check_space: bool = True,
    progress: Callback | None = None,
    **options: Any,
) -> Store:
    """Make a store from ``SRC/class/image.tif`` (also ``.png``, ``.jpg``, ``.jp2`` and others).

    All chips are square and of one size. The *common side* is the shorter side of the commonest
    image size; larger images are cropped to it around their center, smaller ones are padded by
    reflection. With ``chip_px`` the result is then resampled to that side (averaging when it
    shrinks), so that a chip still shows the whole image.

    Parameters
    ----------
    src
        The archive, which is only read: a folder or zip file of class folders, the same for each
        site (``SRC/site/class/image.tif``), or a CSV file with the columns ``file`` and ``label``.
    out, processes, overwrite, check_space, progress
        As in :func:`data_prep.ingest.scenes.ingest_scenes`.
    **options
        Fields of :class:`data_prep.ingest.options.ImageOptions`.

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
    RunError
        The disk is full.
    """
    chosen = ImageOptions(**options)
    listed = plan_images(src, chosen)
    paths = [image.file.path for image in listed.images]
    paths += [Path(src)] if Path(src).is_file() else []
    paths += [Path(chosen.classes)] if isinstance(chosen.classes, (str, Path)) else []
    sources = sources_of(paths, chosen)
    if sources.made(Path(out)):
        return Store.open(out)
    common = common_side(listed.images)
    side = chosen.chip_px or common
    jobs = _jobs(listed.images, common, side)
    needed = listed.most_disk_bytes(side) if check_space else 0
    with work_folder(out, sources, overwrite=overwrite, needed_bytes=needed) as work:
        # one thread: with small files, threads mostly wait for the interpreter
        results = run_jobs(jobs, work.results, processes=processes, progress=progress)
        _finish(listed, [results[job.key] for job in jobs], work, chosen, (common, side))
    return Store.open(out)


def _jobs(images: Sequence[Image], common: int, side: int) -> list[ImageJob]:
    jobs = []
    modality = _describe(images)
    for number, first in enumerate(range(0, len(images), JOB_IMAGES)):
        of_job = tuple(images[first : first + JOB_IMAGES])
        files = [image.file for image in of_job]
        jobs.append(
            ImageJob(
                key=f"{number:05d}",
                scene=f"{first}",
                bytes=sum(f.height * f.width * f.bands * np.dtype(f.dtype).itemsize for f in files),
                images=of_job,
                first=first,
                common=common,
                side=side,
                modality=modality,
            )
        )
    return jobs


def read_chip(
    file: RasterFile, common: int, side: int
) -> tuple[NDArray[Any], NDArray[np.bool_], float]:
    """Read an image as a square chip (C, side, side), and which of its values are data.

    The last is the largest value in magnitude that is no measurement, or 0.

    The image is cropped or padded to ``common`` of its own pixels a side, and then resampled.
    """
    height, width = min(file.height, common), min(file.width, common)
    window = Window((file.width - width) // 2, (file.height - height) // 2, width, height)
    indexes = list(file.indexes)
    with open_raster(file.path, file.opened) as source:
        # all rows: GDAL reads the first rows of a file that is cut short without complaint
        values = source.read(indexes)[(slice(None), *window.toslices())]
        masked = has_own_mask(source, file)
        mask = source.read_masks(indexes, window=window) > 0 if masked else None
        colors = color_table(source) if file.expand else None
        if side != common and colors is None:
            scaled = [max(1, round(length * side / common)) for length in (height, width)]
            shape = (len(indexes), *scaled)
            # averaging uses every pixel where the image shrinks; bilinear would skip most
            averaging = Resampling.average if side < common else Resampling.bilinear
            values = source.read(indexes, window=window, out_shape=shape, resampling=averaging)
            if masked:
                mask = source.read_masks(indexes, window=window, out_shape=shape) > 0
    if colors is not None:
        values, valid = expand_colors(values, mask, file, colors)
        if side != common:
            values, valid = _resized(values, side, common), _resized(valid, side, common)
        return _pad(values, side), _pad(valid, side), 0.0
    values, valid, lost = stored_values(values, mask, file)
    return _pad(values, side), _pad(valid, side), lost


def _resized(values: NDArray[Any], side: int, common: int) -> NDArray[Any]:
    """Resample (C, h, w) by nearest neighbor: between two colors of a table lies none."""
    height, width = (max(1, round(length * side / common)) for length in values.shape[1:])
    rows = ((np.arange(height) + 0.5) * values.shape[1] / height).astype(np.int64)
    cols = ((np.arange(width) + 0.5) * values.shape[2] / width).astype(np.int64)
    return values[:, rows[:, None], cols]


def _pad(values: NDArray[Any], side: int) -> NDArray[Any]:
    """Pad (C, h, w) to (C, side, side) by reflection, evenly on both sides."""
    missing = [side - length for length in values.shape[1:]]
    margins = [(0, 0), *((m // 2, m - m // 2) for m in missing)]
    return np.ascontiguousarray(np.pad(values, margins, mode="symmetric"))


def _finish(
    listed: ImageList,
    results: list[JobResult],
    work: WorkFolder,
    options: ImageOptions,
    sides: tuple[int, int],
) -> None:
    """Split the chips and write the records of their store."""
    unread = [item for result in results for item in result.skipped]
    skipped = [*listed.skipped, *(Skipped(path=path, reason=reason) for path, reason in unread)]
    stop_if_strict(options.strict, skipped)
    filled = [result for result in results if result.rows]
    if not filled:
        raise DataError(f"no image can be read: {skipped[0].path}: {skipped[0].reason}")
    losses = Losses()
    for result in filled:
        losses.update(result.losses)
    read = join_columns([result.columns for result in filled])
    images = [listed.images[i] for i in read["image"]]
    columns = _columns(images, read)
    labels = columns["label"]
    given = np.array([image.split for image in images], dtype=object)
    codes, method = _split(columns, given, len(listed.classes), options)
    columns["split"] = split_names(codes)
    train = np.flatnonzero(codes == TRAIN)
    if not len(train):
        raise DataError("no train sample is left: choose a smaller --test")
    sums = ChipSums.join([result.sums[0] for result in filled]).total(train)
    files = [(result_file(work.results, r.key, 0), r.rows) for r in filled]
    validity = join_validity(work.store, work.results, "image", 0, filled)
    shards = join_shards(work.store, "image", files)
    synthetic = options.synthetic
    write_records(
        work.store,
        columns,
        [_describe(listed.images)],
        [shards],
        [sums],
        [validity],
        kind="chips",
        name=options.name or listed.archive.name,
        source=f"class folders of {listed.archive.name}: {len(images)} images",
        synthetic=listed.archive.is_synthetic() if synthetic is None else synthetic,
        classes=listed.classes,
        class_codes=listed.codes,
        chip_px=sides[1],
        stride_px=sides[1],
        splits=make_report(
            method,
            codes,
            labels,
            listed.classes,
            notes=[
                *_split_notes(columns["hash"], codes, method),
                *_class_notes(columns["hash"], labels, listed.classes),
            ],
            **options.shares,
        ),
        skipped=skipped,
        notes=[*listed.notes, *_notes(listed.images, *sides), *losses.notes()],
    )


def _columns(images: Sequence[Image], read: Columns) -> Columns:
    count = len(images)
    return {
        "chip": np.arange(count),
        "label": np.array([image.label for image in images], np.int64),
        "scene": np.array([image.name for image in images], dtype=object),
        "folder": np.array([image.folder for image in images], dtype=object),
        "row": np.zeros(count, np.int64),
        "col": np.zeros(count, np.int64),
        "x": np.full(count, np.nan),
        "y": np.full(count, np.nan),
        "crs": text_column("", count),
        "block": text_column("", count),
        "valid": read["valid"],
        "hash": read["hash"],
    }


def _split(
    columns: Columns, given: NDArray[Any], classes: int, options: ImageOptions
) -> tuple[SplitCodes, str]:
    """Split as the CSV or the folders say, else class by class at each site."""
    if (given != "").any():
        if (given == "").any():
            lacking = columns["scene"][given == ""][0]
            raise DataError(f"{lacking} has no split but others have: fill in the column split")
        return np.array([SPLITS.index(name) for name in given], np.int8), "given"
    sites = np.unique(columns["folder"].astype(str), return_inverse=True)[1]
    groups = sites * classes + columns["label"]
    return split_stratified(groups, columns["hash"], **options.shares), "stratified"


def _split_notes(hashes: NDArray[Any], codes: SplitCodes, method: str) -> list[str]:
    """Note what a given split has against it: equal images on both sides, or nothing to test on."""
    if method != "given":
        return []
    notes = []
    both = np.intersect1d(hashes[codes == TRAIN].astype(str), hashes[codes == TEST].astype(str))
    if len(both):
        notes.append(f"{len(both)} images are in train and in test alike, as the split was given")
    if not (codes == TEST).any():
        notes.append("the given split has no test images")
    return notes


def _class_notes(
    hashes: NDArray[Any], labels: NDArray[np.int64], classes: Sequence[str]
) -> list[str]:
    """Note images of equal content that have different classes."""
    _, content_of = np.unique(hashes.astype(str), return_inverse=True)
    pairs = np.unique(np.stack([content_of, labels]), axis=1)
    contents, counts = np.unique(pairs[0], return_counts=True)
    several = contents[counts > 1]
    if not len(several):
        return []
    of_first = [classes[label] for label in pairs[1][pairs[0] == several[0]].tolist()]
    return [f"{len(several)} images are in several classes, the first in {', '.join(of_first)}"]


def _describe(images: Sequence[Image]) -> ModalityMeta:
    """Describe the only modality by the first image, and by the nodata value that all declare."""
    files = [image.file for image in images]
    return ModalityMeta(
        name="image",
        bands=list(files[0].with_colors().names),
        dtype=files[0].dtype,
        nodata=shared_nodata(files),
        scale=list(files[0].scales),
        offset=list(files[0].offsets),
        units=list(files[0].units),
    )


def _notes(images: Sequence[Image], common: int, side: int) -> list[str]:
    files = [image.file for image in images]
    notes = []
    if other := sum((file.height, file.width) != (common, common) for file in files):
        notes.append(f"{other} images cropped or padded to {common}×{common} px")
    if alphas := sum(file.alpha for file in files):
        notes.append(f"{alphas} images have an alpha band, which is not read as a band")
    if tables := sum(file.expand for file in files):
        notes.append(f"{tables} images have a color table, stored as red, green and blue")
    if side != common:
        notes.append(f"all images resampled from {common} to {side} px")
    return notes
