"""The last step of an ingestion: classes settled, samples split, statistics, records."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.blocks import Footprints, least_distance, split_blocks
from data_prep.fields import least_distance_px, split_fields
from data_prep.manifest import Columns, join_columns
from data_prep.splits import TEST, TRAIN, SplitCodes, check_shares, make_report, split_names
from rsdgc.errors import DataError, SettingError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from data_prep.ingest.chips import ChipRules
    from data_prep.ingest.classes import ClassList
    from data_prep.ingest.pixels import PixelScene
    from data_prep.schema import SceneMeta
    from data_prep.writer import StoreWriter


@dataclass(frozen=True)
class SplitRules:
    """How samples are split; the fields are those of :func:`data_prep.ingest.ingest_scenes`."""

    test_share: float
    val_share: float
    seed: int
    buffer_px: int | None = None
    block_px: int | None = None

    def check(self) -> None:
        """Raise SettingError if a value is out of range."""
        check_shares(self.test_share, self.val_share)
        if self.buffer_px is not None and self.buffer_px < 0:
            raise SettingError(f"buffer_px is {self.buffer_px}: choose 0 or more")
        if self.block_px is not None and self.block_px < 1:
            raise SettingError(f"block_px is {self.block_px}: choose at least the chip's side")

    @property
    def shares(self) -> dict[str, Any]:
        """Arguments that every split takes."""
        return {"test_share": self.test_share, "val_share": self.val_share, "seed": self.seed}


def finish_chips(
    writer: StoreWriter,
    parts: Sequence[Columns],
    classes: ClassList,
    rules: ChipRules,
    split: SplitRules,
    about: dict[str, Any],
) -> None:
    """Split chips by blocks and write the records of their store."""
    columns = join_columns(parts)
    codes, names = classes.settle(columns["label"])
    labels = np.searchsorted(codes, columns["label"]).astype(np.int64)
    buffer_px = rules.chip_px // 2 if split.buffer_px is None else split.buffer_px
    ground = footprints(columns, about["scenes"], rules.chip_px)
    result = split_blocks(
        ground,
        labels,
        columns["folder"].astype(str),
        columns["hash"],
        chip_px=rules.chip_px,
        buffer_px=buffer_px,
        block_px=split.block_px,
        **split.shares,
    )
    _check_trainable(result.codes)
    gap = least_distance(ground, result.codes)
    report = make_report(
        "blocks",
        result.codes,
        labels,
        names,
        buffer_px=buffer_px,
        block_px=result.block_px,
        blocks=int(result.blocks.max()) + 1,
        least_distance_px=gap[0] if gap else None,
        least_distance=gap[1] if gap and (columns["crs"] != "").all() else None,
        **split.shares,
    )
    columns |= {
        "chip": np.arange(len(labels)),
        "label": labels,
        "split": split_names(result.codes),
        "block": np.array([f"block-{i:05d}" for i in result.blocks], dtype=object),
    }
    writer.finish(
        columns,
        np.flatnonzero(result.codes == TRAIN),
        kind="chips",
        classes=names,
        class_codes=codes,
        chip_px=rules.chip_px,
        stride_px=rules.stride_px,
        splits=report,
        **about,
    )


def footprints(columns: Columns, scenes: Sequence[SceneMeta], side: int) -> Footprints:
    """Lay chips out in planes: one for each CRS, and one for each scene without a CRS."""
    count = len(columns["row"])
    boxes = np.zeros((count, 4))
    pixel = np.ones(count)
    plane = np.zeros(count, np.int64)
    planes: dict[str, int] = {}
    for scene in scenes:
        here = columns["scene"] == scene.name
        plane[here] = planes.setdefault(scene.crs or f"scene {scene.name}", len(planes))
        rows, cols = columns["row"][here], columns["col"][here]
        a, _, c, _, e, f = scene.transform if scene.crs else (1.0, 0.0, 0.0, 0.0, -1.0, 0.0)
        left, top = c + a * cols, f + e * rows
        boxes[here] = np.stack([left, top + e * side, left + a * side, top], axis=1)
        pixel[here] = a
    return Footprints(plane, boxes, pixel)


def finish_pixels(
    writer: StoreWriter,
    scenes: Sequence[PixelScene],
    classes: ClassList,
    patch_px: int,
    split: SplitRules,
    about: dict[str, Any],
) -> None:
    """Split labelled pixels by fields and write the records of their store."""
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
    writer.finish(
        columns,
        _middles(columns, patch_px)[split_of == TRAIN],
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
