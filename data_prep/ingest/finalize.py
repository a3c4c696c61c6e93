"""The last step of an ingestion of scenes: classes, split, statistics, manifest, ``meta.json``.

Both modes end in the same records. They differ in what is split (chips by ground, labeled pixels by
fields) and in how statistics are made: sums of chips were taken as they were cut, those of pixels
are read from the arrays, since only the split says which pixels are samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.block_split import least_distance
from data_prep.field_split import least_distance_px, split_fields
from data_prep.footprints import Footprints, footprint_polygons
from data_prep.ingest.chip_split import split_chips
from data_prep.ingest.plan import note_lines
from data_prep.manifest import Columns, join_columns
from data_prep.shards import ShardedArray, band_sums
from data_prep.splits import TEST, TRAIN, SplitCodes, make_report, split_names
from data_prep.statistics import ChipSums
from data_prep.store_writer import write_records
from rsdgc.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from data_prep.ingest.assemble import AssembledScenes
    from data_prep.ingest.plan import Plan
    from data_prep.statistics import BandSums


def finish_chips(store: Path, plan: Plan, assembled: AssembledScenes) -> None:
    """Split chips and write the records of their store.

    Raises
    ------
    DataError
        The split leaves nothing to train on.
    """
    options = plan.options
    columns = join_columns(assembled.columns)
    codes, names = plan.classes.settle(columns["label"])
    labels = np.searchsorted(codes, columns["label"]).astype(np.int64)
    ground = Footprints.of(columns, assembled.scenes, options.chip_px)
    split = split_chips(columns, ground, labels, options, assembled.splits)
    _check_trainable(split.codes)
    gap = least_distance(ground, split.codes)
    report = make_report(
        options.split_by,
        split.codes,
        labels,
        names,
        buffer_px=split.buffer_px,
        block_px=split.block_px,
        blocks=int(split.blocks.max()) + 1,
        least_distance_px=gap[0] if gap else None,
        least_distance=gap[1] if gap and (columns["crs"] != "").all() else None,
        notes=split.notes,
        **options.shares,
    )
    columns |= {
        "label": labels,
        "block": np.array([f"block-{i:05d}" for i in split.blocks], dtype=object),
    }
    train = np.flatnonzero(split.codes == TRAIN)
    sums = [ChipSums.join(parts).total(train) for parts in assembled.sums]
    facts = {
        "kind": "chips",
        "classes": names,
        "class_codes": codes,
        "chip_px": options.chip_px,
        "stride_px": options.rules.stride_px,
        "splits": report,
    }
    _write(store, plan, assembled, columns, split.codes, sums, facts)


def finish_pixels(store: Path, plan: Plan, assembled: AssembledScenes) -> None:
    """Split labeled pixels by fields and write the records of their store.

    Raises
    ------
    DataError
        The split leaves nothing to train on.
    """
    options, patch_px = plan.options, plan.options.patch_px
    assert patch_px is not None
    scenes = assembled.pixels
    labels_of = [np.unique(scene.codes[scene.usable]) for scene in scenes]
    codes, names = plan.classes.settle(np.unique(np.concatenate(labels_of)))
    images = []
    fields = 0
    for scene in scenes:
        image = scene.field_image(np.array(codes), fields)
        fields = max(fields, int(image.fields.max()) + 1)
        images.append(image)
    # no patch in training may contain a test pixel
    buffer_px = max(patch_px // 2, options.buffer_px or 0)
    splits = split_fields(images, buffer_px=buffer_px, **options.shares)
    parts = []
    for scene, image, split in zip(scenes, images, splits, strict=True):
        rows, cols = np.nonzero(image.fields >= 0)
        blocks = [f"field-{i:05d}" for i in image.fields[rows, cols]]
        parts.append(
            scene.columns(rows, cols)
            | {
                "label": image.labels[rows, cols],
                "code": split[rows, cols],
                "block": np.array(blocks, dtype=object),
            }
        )
    columns = join_columns(parts)
    split_codes: SplitCodes = columns.pop("code")
    _check_trainable(split_codes)
    report = make_report(
        "fields",
        split_codes,
        columns["label"],
        names,
        buffer_px=buffer_px,
        blocks=len(np.unique(columns["block"].astype(str))),
        least_distance_px=least_distance_px(splits),
        notes=_single_fields(columns, names),
        **options.shares,
    )
    centers = _center_rows(columns, patch_px)[split_codes == TRAIN]
    sums = [
        band_sums(ShardedArray(store, shards, modality.dtype), centers, modality.nodata)
        for modality, shards in zip(plan.modalities, assembled.shards, strict=True)
    ]
    facts = {
        "kind": "pixels",
        "classes": names,
        "class_codes": codes,
        "chip_px": patch_px,
        "stride_px": 1,
        "patch_px": patch_px,
        "splits": report,
    }
    _write(store, plan, assembled, columns, split_codes, sums, facts)


def _write(
    store: Path,
    plan: Plan,
    assembled: AssembledScenes,
    columns: Columns,
    split_codes: SplitCodes,
    sums: Sequence[BandSums],
    facts: dict[str, Any],
) -> None:
    """Write the manifest and ``meta.json``; ``facts`` are the fields that the mode decides."""
    options = plan.options
    columns |= {"chip": np.arange(len(split_codes)), "split": split_names(split_codes)}
    side_px = options.chip_px if options.patch_px is None else 1
    geometry = footprint_polygons(columns, assembled.scenes, side_px)
    if geometry is not None:
        columns["geometry"] = geometry
    synthetic = options.synthetic
    write_records(
        store,
        columns,
        plan.modalities,
        assembled.shards,
        sums,
        name=options.name or plan.archive.name,
        source=f"{len(plan.sources)} scene(s) of {plan.archive.name}",
        synthetic=plan.archive.is_synthetic() if synthetic is None else synthetic,
        scenes=assembled.scenes,
        skipped=assembled.skipped,
        notes=note_lines(plan.notes),
        left_out=assembled.left_out,
        **facts,
    )


def _center_rows(columns: Columns, patch_px: int) -> NDArray[np.int64]:
    """Rows of the samples' own pixels in the padded arrays; ``offset`` is the patch's first."""
    radius = patch_px // 2
    rows: NDArray[np.int64] = columns["offset"] + radius * (columns["stride"] + 1)
    return rows


def _single_fields(columns: Columns, names: list[str]) -> list[str]:
    """Say which classes cannot be tested, because they have one field only."""
    notes = []
    for index, name in enumerate(names):
        fields = np.unique(columns["block"][columns["label"] == index].astype(str))
        if len(fields) == 1:
            notes.append(f"{name} has a single field, which is not tested on")
    return notes


def _check_trainable(split_codes: SplitCodes) -> None:
    if not (split_codes == TRAIN).any():
        raise DataError(
            f"no train sample is left ({int((split_codes == TEST).sum())} test samples): choose a "
            "smaller --chip, --stride, --buffer or --test"
        )
