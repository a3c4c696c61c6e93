"""Pixel mode: labeled pixels of padded scenes, each read with the patch round it.

A store of pixels holds each scene once, padded by the patch radius, and gathers patches when they
are read: patches written out would take as many times the space as a patch has pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_prep.field_split import FieldImage, connected_fields
from data_prep.ingest.job_results import JOB_BYTES, Job, JobResult, SampleBatch
from data_prep.ingest.scene_reader import SceneReader, SceneSource
from data_prep.manifest import Columns, join_columns, text_column
from data_prep.store_writer import chip_hashes
from data_prep.validity import pack
from rsdgc.errors import DataError

#: Least number of padded rows that are read and written at once, so that a call's cost is small.
BAND_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class PixelJob(Job):
    """Some rows, from ``first`` up to ``stop``, of a padded scene."""

    source: SceneSource
    radius: int  #: of a patch, which is the padding, in pixels
    first: int
    stop: int

    @property
    def windows(self) -> int:
        """Most samples: the scene's pixels in these rows."""
        return len(self._own(self.first, self.stop)) * self.source.grid.width

    def run(self) -> Iterator[SampleBatch]:
        """Yield bands of padded pixels (n, C), with code and usability of the scene's own pixels.

        The padding reflects the scene at its edges.
        """
        grid, radius = self.source.grid, self.radius
        if min(grid.height, grid.width) <= radius:
            raise DataError(
                f"{grid.height}×{grid.width} px is too small for patches of {2 * radius + 1} px: "
                "choose a smaller --patch"
            )
        row_of = np.pad(np.arange(grid.height), radius, mode="reflect")
        col_of = np.pad(np.arange(grid.width), radius, mode="reflect")
        step = _step(radius)
        with ExitStack() as stack:
            reader = SceneReader(stack, self.source)
            for first in range(self.first, self.stop, step):
                stop = min(first + step, self.stop)
                wanted = row_of[first:stop]
                low = int(wanted.min())
                band = reader.rows(low, int(wanted.max()) + 1)
                pixels = [_interleaved(im[:, wanted - low][:, :, col_of]) for im in band.images]
                masks = [
                    None
                    if valid is None or not modality.may_need_validity
                    else _interleaved(valid[:, wanted - low][:, :, col_of])
                    for valid, modality in zip(band.valid, self.source.modalities, strict=True)
                ]
                bits = [None if mask is None or mask.all() else pack(mask) for mask in masks]
                own = self._own(first, stop)
                facts = _labels(reader, own, band.usable[own.start - low : own.stop - low])
                facts["hash"] = chip_hashes([values[None] for values in pixels])
                yield SampleBatch(pixels, facts, [], losses=reader.take_losses(), validity=bits)

    def _own(self, first: int, stop: int) -> range:
        """Rows of the scene that padded rows correspond to, without those of the padding."""
        height = self.source.grid.height
        low, high = (min(max(row - self.radius, 0), height) for row in (first, stop))
        return range(low, high)


def pixel_jobs(source: SceneSource, patch_px: int, number: int) -> list[PixelJob]:
    """Divide a scene into jobs of about :data:`JOB_BYTES`."""
    radius, height = patch_px // 2, source.grid.height
    step = _step(radius)
    rows = max(1, JOB_BYTES // (source.row_bytes * step)) * step
    jobs: list[PixelJob] = []
    for first in range(0, height + 2 * radius, rows):
        stop = min(first + rows, height + 2 * radius)
        jobs.append(
            PixelJob(
                key=f"{number:05d}-{len(jobs):05d}",
                scene=source.scene.name,
                bytes=(stop - first) * source.row_bytes,
                source=source,
                radius=radius,
                first=first,
                stop=stop,
            )
        )
    return jobs


def _step(radius: int) -> int:
    """Rows of a band: enough that no reflection reaches above what the reader still holds."""
    return max(BAND_ROWS, 2 * radius + 2)


def _labels(reader: SceneReader, own: range, usable: NDArray[np.bool_]) -> Columns:
    if not own:  # a band of padding alone
        return {"code": np.zeros(0, np.uint8), "usable": np.zeros(0, np.bool_)}
    codes, labeled = reader.labels(own.start, own.stop)
    known = np.where(labeled, codes, 0)
    # the smallest type that holds the codes: results stay in memory until the store is made
    kind = np.result_type(*(np.min_scalar_type(int(end)) for end in (known.min(), known.max())))
    return {"code": known.astype(kind).ravel(), "usable": (labeled & usable).ravel()}


def scene_pixels(
    source: SceneSource, results: Sequence[JobResult], start: int, radius: int
) -> PixelScene:
    """Join a scene's labels; its padded pixels begin at row ``start`` of the arrays."""
    shape = (source.grid.height, source.grid.width)
    columns = join_columns([result.columns for result in results])
    return PixelScene(
        source=source,
        codes=columns["code"].astype(np.int64).reshape(shape),
        usable=columns["usable"].reshape(shape),
        start=start,
        radius=radius,
        digest=hashlib.blake2b("".join(columns["hash"]).encode(), digest_size=8).hexdigest(),
    )


@dataclass
class PixelScene:
    """Labels of a scene that was written, and where its pixels lie."""

    source: SceneSource
    codes: NDArray[np.int64]  #: label codes [H, W]
    usable: NDArray[np.bool_]  #: labeled, and valid in all bands [H, W]
    start: int  #: row of the scene's first padded pixel in the arrays
    radius: int  #: of a patch, which is the padding, in pixels
    digest: str  #: hash of the scene's pixels

    def field_image(self, class_codes: NDArray[np.int64], first_field: int) -> FieldImage:
        """Return class indices and field numbers (from ``first_field``); -1 where unusable.

        Fields are those of the labels: an invalid pixel inside a field does not divide it.
        """
        of_class = np.isin(self.codes, class_codes)
        known = of_class & self.usable
        # by class, because a code may be negative
        index = np.searchsorted(class_codes, np.where(of_class, self.codes, class_codes[0]))
        labels = np.where(known, index, -1).astype(np.int64)
        fields = connected_fields(np.where(of_class, index, -1).astype(np.int64))
        return FieldImage(labels, np.where(known, fields + first_field, -1))

    def columns(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> Columns:
        """Describe samples at some pixels; ``row`` and ``col`` are the pixels themselves."""
        count = len(rows)
        stride = self.codes.shape[1] + 2 * self.radius  # width of the padded scene
        return {
            **self.source.places(rows, cols, 1),
            "valid": np.ones(count, np.float32),
            "hash": text_column(self.digest, count),
            # the patch's top left in padded pixels is the pixel's own place in the scene
            "offset": self.start + rows * stride + cols,
            "stride": np.full(count, stride),
        }


def _interleaved(image: NDArray[Any]) -> NDArray[Any]:
    """Turn (C, h, W) into contiguous rows (h * W, C)."""
    return np.ascontiguousarray(np.moveaxis(image, 0, -1).reshape(-1, image.shape[0]))
