"""Cutting a scene into square chips on a regular grid, with one label each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from data_prep.ingest.class_list import distinct
from data_prep.ingest.job_results import JOB_BYTES, Job, SampleBatch
from data_prep.ingest.options import ChipRules
from data_prep.ingest.scene_reader import SceneReader, SceneSource
from data_prep.statistics import ChipSums
from data_prep.store_writer import chip_hashes
from data_prep.validity import pack

#: Bytes of a row of blocks from which on its columns are divided among jobs. Whole rows are read
#: faster, but a job needs the memory of one.
WIDE_BYTES = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class ChipJob(Job):
    """Some rows of chips of a scene."""

    source: SceneSource
    rules: ChipRules
    rows: tuple[int, ...]  #: first pixel rows of the windows
    cols: tuple[int, ...]  #: and first pixel columns
    drain: bool  #: read on to the scene's end

    @property
    def windows(self) -> int:
        """Most samples."""
        return len(self.rows) * len(self.cols)

    def run(self) -> Iterator[SampleBatch]:
        """Cut the windows, a row of chips at a time, from top to bottom."""
        side = self.rules.chip_px
        with ExitStack() as stack:
            cols = (self.cols[0], self.cols[-1] + side)
            reader = SceneReader(stack, self.source, cols, self.rules.stride_px)
            for row in self.rows:
                yield _cut_row(reader, self.rules, row, np.array(self.cols))
            if self.drain:
                reader.drain(self.rows[-1] + side)


def chip_jobs(source: SceneSource, rules: ChipRules, number: int) -> list[ChipJob]:
    """Divide a scene into jobs of about :data:`JOB_BYTES`; none if no window fits.

    Jobs begin at the blocks of the reference modality where they can, so that few blocks are read
    twice, and do not depend on how many processes there are.
    """
    step = int(np.lcm.reduce([modality.factor for modality in source.modalities]))
    rows = window_starts(source.grid.height, rules, step)
    cols = window_starts(source.grid.width, rules, step)
    if not rows or not cols:
        return []
    block = max(file.block_height for file in source.scene.images)
    parts = -(-source.row_bytes * block // WIDE_BYTES)
    groups = [tuple(part.tolist()) for part in np.array_split(cols, parts) if len(part)]
    per_job = max(1, JOB_BYTES * len(groups) // (source.row_bytes * rules.stride_px))
    # rows of chips after which one begins at a block again
    period = int(np.lcm(block, rules.stride_px)) // rules.stride_px
    if period <= per_job:
        per_job -= per_job % period
    jobs: list[ChipJob] = []
    for first in range(0, len(rows), per_job):
        rows_of_job = tuple(rows[first : first + per_job])
        last = first + per_job >= len(rows)
        stop = source.grid.height if last else rows_of_job[-1] + rules.stride_px
        covered = stop - rows_of_job[0]
        for group in groups:
            share = len(group) / len(cols)
            jobs.append(
                ChipJob(
                    key=f"{number:05d}-{len(jobs):05d}",
                    scene=source.scene.name,
                    bytes=int(max(1, covered) * source.row_bytes * share),
                    source=source,
                    rules=rules,
                    rows=rows_of_job,
                    cols=group,
                    drain=last,
                )
            )
    return jobs


def window_starts(length: int, rules: ChipRules, step: int) -> list[int]:
    """First pixels of the windows along a side of ``length`` pixels, by the edge policy.

    ``step`` is what windows that are shifted to the edge begin at a multiple of.
    """
    side, stride = rules.chip_px, rules.stride_px
    starts = list(range(0, length - side + 1, stride))
    covered = starts[-1] + side if starts else 0
    if covered >= length or rules.edge == "drop":
        return starts
    if rules.edge == "shift":
        last = (length - side) // step * step
        return [*starts, last] if starts and last > starts[-1] else starts
    return [*starts, starts[-1] + stride if starts else 0]


def _cut_row(
    reader: SceneReader, rules: ChipRules, row: int, cols: NDArray[np.int64]
) -> SampleBatch:
    side = rules.chip_px
    lefts = cols - cols[0]
    codes, labeled = reader.labels(row, row + side)
    rows = reader.rows(row, row + side)
    majority, label_share = majority_codes(codes, labeled, lefts, side)
    if rows.usable.all():
        valid_share = np.ones(len(lefts))
    else:
        valid_share = _windows(rows.usable, lefts, side).mean(axis=(1, 2))
    seen = valid_share >= rules.min_valid
    # the second condition is for a --min-label of 0: a chip without any label has no class
    known = (label_share >= rules.min_label) & (label_share > 0)
    keep = seen & known
    arrays, sums = [], []
    validity: list[NDArray[np.uint8] | None] = []
    modalities = reader.source.modalities
    for image, valid, modality in zip(rows.images, rows.valid, modalities, strict=True):
        starts, px = lefts[keep] // modality.factor, side // modality.factor
        chips = _windows(image, starts, px)
        arrays.append(chips)
        masks = None if valid is None else _windows(valid, starts, px)
        sums.append(ChipSums.of(chips, masks))
        marked = masks is not None and modality.may_need_validity and not masks.all()
        validity.append(pack(masks) if masks is not None and marked else None)
    columns = {
        "row": np.full(int(keep.sum()), row),
        "col": cols[keep],
        "label": majority[keep],
        "valid": valid_share[keep],
        "hash": chip_hashes(arrays),
    }
    left_out = {"no_data": int((~seen).sum()), "no_label": int((seen & ~known).sum())}
    return SampleBatch(
        arrays, columns, sums, left_out, losses=reader.take_losses(), validity=validity
    )


def _windows(band: NDArray[Any], cols: NDArray[np.int64], side: int) -> NDArray[Any]:
    """Copy square windows of a band of rows (…, side, W): (n, …, side, side)."""
    windows = sliding_window_view(band, side, axis=-1)[..., cols, :]
    return np.ascontiguousarray(np.moveaxis(windows, -2, 0))


def majority_codes(
    codes: NDArray[np.integer[Any]],
    labeled: NDArray[np.bool_],
    cols: NDArray[np.int64],
    side: int,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Find each window's commonest code, and the share of its pixels that have a label.

    ``codes`` and ``labeled`` [side, W] are a band of rows, ``cols`` [n] the windows' first columns.
    Returns codes [n], the least where several are equally common, and shares [n].
    """
    complete = bool(labeled.all())
    best = np.zeros(len(cols), np.int64)
    most, filled = np.zeros(len(cols), np.int64), np.zeros(len(cols), np.int64)
    # counts down a column of at most 255 pixels fit a byte, which NumPy adds up fastest
    kind = np.uint8 if side < 256 else np.uint32
    for code in distinct(codes if complete else codes[labeled]).tolist():
        pixels = codes == code
        if not complete:
            pixels &= labeled
        # a running sum along the columns: each window's count is one difference, however much
        # windows overlap
        running = np.zeros(codes.shape[1] + 1, np.int64)
        np.cumsum(pixels.view(np.uint8).sum(axis=0, dtype=kind), out=running[1:])
        counts = running[cols + side] - running[cols]
        # codes rise, so that of equally common ones the first stays
        better = counts > most
        best[better], most[better] = code, counts[better]
        filled += counts
    return best, filled / (side * side)
