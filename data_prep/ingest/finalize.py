"""The last step of an ingestion: classes settled, samples split, statistics, records."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.block_split import least_distance
from data_prep.field_split import least_distance_px, split_fields
from data_prep.footprints import Footprints, footprint_polygons
from data_prep.ingest.chip_split import split_chips
from data_prep.manifest import Columns, join_columns
from data_prep.shards import ShardedArray, band_sums
from data_prep.splits import TEST, TRAIN, SplitCodes, make_report, split_names
from data_prep.statistics import ChipSums
from data_prep.store_writer import with_samples, write_records
from rsdgc.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from data_prep.ingest.assemble import AssembledScenes
    from data_prep.ingest.class_list import ClassList
    from data_prep.ingest.scene_options import SceneOptions
    from data_prep.schema import ModalityMeta


def finish_chips(
    folder: Path,
    harvest: AssembledScenes,
    classes: ClassList,
    options: SceneOptions,
    about: dict[str, Any],
    modalities: Sequence[ModalityMeta],
) -> None:
    """Split chips and write the records of their store."""
    columns = join_columns(harvest.columns)
    codes, names = classes.settle(columns["label"])
    labels = np.searchsorted(codes, columns["label"]).astype(np.int64)
    ground = Footprints.of(columns, harvest.scenes, options.chip_px)
    result = split_chips(columns, ground, labels, options, harvest.splits)
    _check_trainable(result.codes)
    split = options.split
    gap = least_distance(ground, result.codes)
    report = make_report(
        split.method,
        result.codes,
        labels,
        names,
        buffer_px=result.buffer_px,
        block_px=result.block_px,
        blocks=int(result.blocks.max()) + 1,
        least_distance_px=gap[0] if gap else None,
        least_distance=gap[1] if gap and (columns["crs"] != "").all() else None,
        notes=result.notes,
        **split.shares,
    )
    columns |= {
        "chip": np.arange(len(labels)),
        "label": labels,
        "split": split_names(result.codes),
        "block": np.array([f"block-{i:05d}" for i in result.blocks], dtype=object),
    }
    train = np.flatnonzero(result.codes == TRAIN)
    described = [
        with_samples(modality, shards, ChipSums.join(sums).total(train))
        for modality, shards, sums in zip(modalities, harvest.shards, harvest.sums, strict=True)
    ]
    geometry = footprint_polygons(columns, harvest.scenes, options.chip_px)
    if geometry is not None:
        columns["geometry"] = geometry
    write_records(
        folder,
        columns,
        described,
        kind="chips",
        classes=names,
        class_codes=codes,
        chip_px=options.chip_px,
        stride_px=options.rules.stride_px,
        splits=report,
        **about,
    )


def finish_pixels(
    folder: Path,
    harvest: AssembledScenes,
    classes: ClassList,
    options: SceneOptions,
    about: dict[str, Any],
    modalities: Sequence[ModalityMeta],
) -> None:
    """Split labelled pixels by fields and write the records of their store."""
    assert options.patch_px is not None
    scenes, patch_px = harvest.pixels, options.patch_px
    split = replace(options.split, method="blocks")
    found = np.unique(np.concatenate([np.unique(s.codes[s.usable]) for s in scenes]))
    codes, names = classes.settle(found)
    images = []
    fields = 0
    for scene in scenes:
        image = scene.field_image(np.array(codes), fields)
        fields = max(fields, int(image.fields.max()) + 1)
        images.append(image)
    buffer_px = max(patch_px // 2, split.buffer_px or 0)
    splits = split_fields(images, buffer_px=buffer_px, **split.shares)
    parts = []
    for scene, image, codes_of in zip(scenes, images, splits, strict=True):
        rows, cols = np.nonzero(image.fields >= 0)
        blocks = [f"field-{i:05d}" for i in image.fields[rows, cols]]
        parts.append(
            scene.columns(rows, cols)
            | {
                "label": image.labels[rows, cols],
                "code": codes_of[rows, cols],
                "block": np.array(blocks, dtype=object),
            }
        )
    columns = join_columns(parts)
    split_of: SplitCodes = columns.pop("code")
    _check_trainable(split_of)
    report = make_report(
        "fields",
        split_of,
        columns["label"],
        names,
        buffer_px=buffer_px,
        blocks=len(np.unique(columns["block"].astype(str))),
        least_distance_px=least_distance_px(splits),
        notes=_single_fields(columns, names),
        **split.shares,
    )
    columns |= {"chip": np.arange(len(split_of)), "split": split_names(split_of)}
    geometry = footprint_polygons(columns, about["scenes"], 1)
    if geometry is not None:
        columns["geometry"] = geometry
    middles = _middles(columns, patch_px)[split_of == TRAIN]
    described = []
    for modality, shards in zip(modalities, harvest.shards, strict=True):
        array = ShardedArray(folder, shards, modality.dtype)
        sums = band_sums(array, middles, modality.nodata)
        described.append(with_samples(modality, shards, sums))
    write_records(
        folder,
        columns,
        described,
        kind="pixels",
        classes=names,
        class_codes=codes,
        chip_px=patch_px,
        stride_px=1,
        patch_px=patch_px,
        splits=report,
        **about,
    )


def _middles(columns: Columns, patch_px: int) -> NDArray[np.int64]:
    """Rows of the samples' own pixels in the padded arrays."""
    radius = patch_px // 2
    rows: NDArray[np.int64] = columns["offset"] + radius * (columns["stride"] + 1)
    return rows


def _single_fields(columns: Columns, names: list[str]) -> list[str]:
    """Say which classes cannot be tested, for they have one field only."""
    notes = []
    for index, name in enumerate(names):
        fields = np.unique(columns["block"][columns["label"] == index].astype(str))
        if len(fields) == 1:
            notes.append(f"{name} has a single field, which is not tested on")
    return notes


def _check_trainable(codes: SplitCodes) -> None:
    if not (codes == TRAIN).any():
        raise DataError(
            f"no train sample is left ({int((codes == TEST).sum())} test samples): choose a "
            "smaller chip, stride, buffer or test share"
        )
