"""The last step of an ingestion of scenes: split, statistics, manifest, ``meta.json``.

Both modes end in the same records. They differ in what is split (chips by ground, labeled pixels by
fields) and in how statistics are made: sums of chips were taken as they were cut, those of pixels
are read from the arrays, since only the split says which pixels are samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.block_split import (
    equal_chip_notes,
    least_distance,
    separate_duplicates,
    set_buffer,
    split_blocks,
)
from data_prep.common_frame import common_frame
from data_prep.field_split import (
    join_fields,
    least_distance_px,
    set_pixel_buffer,
    split_fields,
)
from data_prep.footprints import Footprints, footprint_polygons
from data_prep.ingest.options import SceneOptions
from data_prep.ingest.pixel_mode import PixelScene
from data_prep.ingest.plan import Plan, note_lines
from data_prep.manifest import Columns, join_columns
from data_prep.number_format import plural
from data_prep.pixel_overlap import find_overlaps
from data_prep.schema import SPLITS, SceneMeta, ShardMeta, Skipped, SplitReport
from data_prep.shards import ShardedArray, band_sums
from data_prep.splits import (
    BUFFER,
    TEST,
    TRAIN,
    VAL,
    SplitCodes,
    make_report,
    split_names,
    split_units,
)
from data_prep.statistics import BandSums, ChipSums
from data_prep.store_writer import write_records
from rsdgc.errors import DataError

#: Pixels beyond the buffer at which the least distance of pixels of two scenes is still measured.
SEEN_PX = 16


@dataclass
class AssembledScenes:
    """Samples of the scenes that can be used, and what is known of the others."""

    #: Parts of the manifest: all columns but chip, split and block; ``label`` is the code.
    columns: list[Columns] = field(default_factory=list)
    #: By modality: the chips' sums, part by part, and the files.
    sums: list[list[ChipSums]] = field(default_factory=list)
    shards: list[list[ShardMeta]] = field(default_factory=list)
    validity: list[list[ShardMeta]] = field(default_factory=list)
    scenes: list[SceneMeta] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    #: Windows without enough data or labels.
    left_out: Counter[str] = field(default_factory=lambda: Counter(no_data=0, no_label=0))
    #: Split that a scene was given, by its name.
    splits: dict[str, str] = field(default_factory=dict)
    #: Labels of the scenes in pixel mode, which has no columns and no sums yet.
    pixels: list[PixelScene] = field(default_factory=list)


def finish_chips(store: Path, plan: Plan, assembled: AssembledScenes) -> None:
    """Split chips and write the records of their store; DataError if none is left to train on."""
    options = plan.options
    columns = join_columns(assembled.columns)
    class_codes, names = plan.classes.settle(columns["label"])
    labels = np.searchsorted(class_codes, columns["label"]).astype(np.int64)
    ground = Footprints.of(columns, assembled.scenes, options.chip_px)
    ground = common_frame(ground, assembled.scenes, options.chip_px, _buffer_px(options))
    codes, units, facts = _split_chips(columns, ground, labels, options, assembled.splits)
    _check_trainable(codes, options.split_by, "--chip, --stride, --buffer or --test")
    gap = least_distance(ground, codes)
    report = make_report(
        options.split_by or "blocks",
        codes,
        labels,
        names,
        blocks=int(units.max()) + 1,
        least_distance_px=gap[0] if gap else None,
        # in CRS units, which scenes without a CRS do not have
        least_distance=gap[1] if gap and (columns["crs"] != "").all() else None,
        **facts,
        **options.shares,
    )
    columns |= {"label": labels, "block": _numbered("block", units)}
    train = np.flatnonzero(codes == TRAIN)
    sums = [ChipSums.join(parts).total(train) for parts in assembled.sums]
    _write(store, plan, assembled, columns, codes, sums, (class_codes, names), report)


def _split_chips(
    columns: Columns,
    ground: Footprints,
    labels: NDArray[np.int64],
    options: SceneOptions,
    given: Mapping[str, str],
) -> tuple[SplitCodes, NDArray[np.int64], dict[str, Any]]:
    """Return codes [n], units [n] (blocks, scenes or dates), and fields of the report.

    Whatever the method, the buffer keeps chips of different splits apart, and equal chips go to
    one split. Only a split by date has no buffer: it tests the same ground at another time.
    """
    buffer_px = _buffer_px(options)
    equal = np.unique(columns["hash"].astype(str), return_inverse=True)[1]
    if options.split_by == "blocks":
        result = split_blocks(
            ground,
            labels,
            columns["folder"].astype(str),
            columns["hash"],
            chip_px=options.chip_px,
            buffer_px=buffer_px,
            block_px=options.block_px,
            **options.shares,
        )
        notes = equal_chip_notes(result.codes, equal)
        facts = {"buffer_px": buffer_px, "block_px": result.block_px, "notes": notes}
        return result.codes, result.blocks, facts
    shares = (options.test_share, options.val_share)
    names, units = _units(columns, "date" if options.split_by == "date" else "scene")
    if options.split_by == "date":
        note = "train and test may show the same ground, at different dates"
        codes = separate_duplicates(_latest(units, options), equal, labels, shares)
        notes = [note, *equal_chip_notes(codes, equal)]
        return codes, units, {"buffer_px": 0, "block_px": 0, "notes": notes}
    if options.split_by == "given":
        codes = _given(names, given)[units]
    else:
        codes = split_units(units, labels, columns["folder"], shares, options.seed)
    # duplicates last: a copy that the buffer has taken no longer forces the others aside
    codes = separate_duplicates(set_buffer(ground, codes, buffer_px), equal, labels, shares)
    notes = equal_chip_notes(codes, equal)
    return codes, units, {"buffer_px": buffer_px, "block_px": 0, "notes": notes}


def _buffer_px(options: SceneOptions) -> int:
    return options.chip_px // 2 if options.buffer_px is None else options.buffer_px


def _units(columns: Columns, name: str) -> tuple[list[str], NDArray[np.int64]]:
    """Return the distinct values of a column, in order, and the number [n] of each chip's."""
    names, units = np.unique(columns[name].astype(str), return_inverse=True)
    if "" in names:
        lacking = columns["scene"][units == 0][0]
        raise DataError(
            f"scene {lacking} has no {name}: give it one in a description (TOML or CSV), or use "
            "another --split-by"
        )
    if len(names) < 2:
        raise DataError(f"all samples are of one {name} ({names[0]}): use --split-by blocks")
    return names.tolist(), units.astype(np.int64)


def _given(names: list[str], given: Mapping[str, str]) -> SplitCodes:
    lacking = next((name for name in names if not given.get(name)), None)
    if lacking is not None:
        raise DataError(
            f"scene {lacking} has no split: give it one in a description (TOML or CSV), lay all "
            "scenes in folders train and test, or use another --split-by"
        )
    return np.array([SPLITS.index(given[name]) for name in names], np.int8)


def _latest(units: NDArray[np.int64], options: SceneOptions) -> SplitCodes:
    """Give the latest dates to test, those before to val, and always the first one to train."""
    sizes: NDArray[Any] = np.bincount(units)
    codes = np.full(len(sizes), TRAIN, np.int8)
    left = len(sizes)
    for code, share in ((TEST, options.test_share), (VAL, options.val_share)):
        taken = 0
        # a date goes along if more than half of it is within the share
        while share and left > 1 and taken + sizes[left - 1] / 2 <= share * sizes.sum():
            left -= 1
            taken += sizes[left]
            codes[left] = code
        # one large date is too much for the share, but no date at all would leave nothing to test
        if share and not taken and left > 1:
            left -= 1
            codes[left] = code
    return codes[units]


def finish_pixels(store: Path, plan: Plan, assembled: AssembledScenes) -> None:
    """Split labeled pixels by fields and write the records; DataError if none is left to train."""
    options, patch_px = plan.options, plan.options.patch_px
    assert patch_px is not None
    scenes = assembled.pixels
    labels_of = [np.unique(scene.codes[scene.usable]) for scene in scenes]
    class_codes, names = plan.classes.settle(np.concatenate(labels_of))
    images = []
    fields = 0
    for scene in scenes:
        image = scene.field_image(np.array(class_codes), fields)
        fields = max(fields, int(image.fields.max()) + 1)
        images.append(image)
    # no patch in training may contain a test pixel
    buffer_px = max(patch_px // 2, options.buffer_px or 0)
    labeled = [image.fields >= 0 for image in images]
    overlaps = find_overlaps(assembled.scenes, labeled, buffer_px)
    wider = find_overlaps(assembled.scenes, labeled, buffer_px + SEEN_PX)
    images = join_fields(images, overlaps)
    is_given = options.split_by == "given"
    if is_given:
        scene_codes = _given([scene.name for scene in assembled.scenes], assembled.splits)
        whole = [
            np.where(mask, code, np.int8(-1))
            for mask, code in zip(labeled, scene_codes, strict=True)
        ]
        splits = set_pixel_buffer(whole, overlaps, buffer_px)
    else:
        splits = split_fields(images, overlaps, buffer_px=buffer_px, **options.shares)
    parts = []
    for scene, image, split in zip(scenes, images, splits, strict=True):
        rows, cols = np.nonzero(image.fields >= 0)
        own: Columns = {
            "label": image.labels[rows, cols],
            "code": split[rows, cols],
            "block": _numbered("field", image.fields[rows, cols]),
        }
        parts.append(scene.columns(rows, cols) | own)
    columns = join_columns(parts)
    codes: SplitCodes = columns.pop("code")
    _check_trainable(codes, options.split_by, "--patch, --buffer or --test")
    notes = []
    for label, name in enumerate(() if is_given else names):
        if len(np.unique(columns["block"][columns["label"] == label].astype(str))) == 1:
            notes.append(f"{name} has a single field, which is not tested on")
    report = make_report(
        "given" if is_given else "fields",
        codes,
        columns["label"],
        names,
        buffer_px=buffer_px,
        blocks=len(np.unique(columns["block"].astype(str))),
        least_distance_px=least_distance_px(splits, wider),
        notes=notes,
        **options.shares,
    )
    # rows of the samples' own pixels in the padded arrays; ``offset`` is the patch's first row
    centers = columns["offset"] + patch_px // 2 * (columns["stride"] + 1)
    sums = [
        band_sums(
            ShardedArray(store, shards, m.dtype),
            centers[codes == TRAIN],
            m.nodata,
            ShardedArray(store, layer, "uint8") if layer else None,
        )
        for m, shards, layer in zip(
            plan.modalities, assembled.shards, assembled.validity, strict=True
        )
    ]
    _write(store, plan, assembled, columns, codes, sums, (class_codes, names), report)


def _numbered(name: str, numbers: NDArray[np.int64]) -> NDArray[Any]:
    return np.array([f"{name}-{number:05d}" for number in numbers], dtype=object)


def _check_trainable(codes: SplitCodes, split_by: str | None, options: str) -> None:
    if (codes == TRAIN).any():
        return
    remedy = f"choose a smaller {options}"
    if split_by in ("given", "scene") and (codes == BUFFER).any():
        remedy = "scenes of train show the ground of others, so use --split-by blocks"
    raise DataError(
        f"no train sample is left ({int((codes == TEST).sum())} test samples): {remedy}"
    )


def _write(
    store: Path,
    plan: Plan,
    assembled: AssembledScenes,
    columns: Columns,
    codes: SplitCodes,
    sums: Sequence[BandSums],
    classes: tuple[list[int], list[str]],
    report: SplitReport,
) -> None:
    """Write the manifest and ``meta.json``; ``classes`` are codes and names."""
    options, patch_px = plan.options, plan.options.patch_px
    columns |= {"chip": np.arange(len(codes)), "split": split_names(codes)}
    side_px = options.chip_px if patch_px is None else 1
    geometry, lacking = footprint_polygons(columns, assembled.scenes, side_px)
    if geometry is not None:
        columns["geometry"] = geometry
    synthetic = options.synthetic
    write_records(
        store,
        columns,
        plan.modalities,
        assembled.shards,
        sums,
        assembled.validity,
        name=options.name or plan.archive.name,
        source=f"{plural(len(plan.sources), 'scene')} of {plan.archive.name}",
        synthetic=plan.archive.is_synthetic() if synthetic is None else synthetic,
        scenes=assembled.scenes,
        skipped=assembled.skipped,
        notes=[*note_lines(plan.notes), *lacking],
        left_out=assembled.left_out,
        kind="chips" if patch_px is None else "pixels",
        class_codes=classes[0],
        classes=classes[1],
        chip_px=patch_px or options.chip_px,
        stride_px=options.rules.stride_px if patch_px is None else 1,
        patch_px=patch_px or 0,
        splits=report,
    )
