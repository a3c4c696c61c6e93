"""Pixel mode: labelled pixels of padded scenes, each read with the patch round it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep.fields import FieldImage, connected_fields
from data_prep.ingest.places import place_columns
from data_prep.manifest import Columns, texts
from rsdgc.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_prep.ingest.grid import Grid
    from data_prep.ingest.reading import SceneReader
    from data_prep.ingest.scene import Scene
    from data_prep.writer import StoreWriter

#: Least number of padded rows that are written at once.
BAND_ROWS = 64


@dataclass
class PixelScene:
    """What is kept of a scene that was written: its labels, and where its pixels lie.

    Attributes
    ----------
    codes : int64 [H, W]
        Label codes.
    usable : bool [H, W]
        Labelled, and valid in all bands.
    start
        Row of the scene's first padded pixel in the arrays.
    radius
        Patch radius, which is the padding, in pixels.
    digest
        Hash of the scene's pixels.
    """

    scene: Scene
    grid: Grid
    codes: NDArray[np.int64]
    usable: NDArray[np.bool_]
    start: int
    radius: int
    digest: str

    @property
    def stride(self) -> int:
        """Width of the padded scene."""
        return int(self.codes.shape[1]) + 2 * self.radius

    def field_image(self, class_codes: NDArray[np.int64], first_field: int) -> FieldImage:
        """Return class indices and field numbers (from ``first_field``); -1 where unusable.

        Fields are those of the labels: an invalid pixel inside a field does not part it.
        """
        known = np.isin(self.codes, class_codes) & self.usable
        index = np.searchsorted(class_codes, np.where(known, self.codes, class_codes[0]))
        labels = np.where(known, index, -1).astype(np.int64)
        whole = np.where(np.isin(self.codes, class_codes), self.codes, -1)
        fields = connected_fields(whole)
        return FieldImage(labels, np.where(known, fields + first_field, -1))

    def columns(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> Columns:
        """Describe samples at some pixels; ``row`` and ``col`` are the pixels themselves."""
        count = len(rows)
        return {
            **place_columns(self.scene, self.grid, rows, cols, 1),
            "valid": np.ones(count, np.float32),
            "hash": texts(self.digest, count),
            # the patch's top left in padded pixels is the pixel's own place in the scene
            "offset": self.start + rows * self.stride + cols,
            "stride": np.full(count, self.stride),
        }


def write_scene(reader: SceneReader, writer: StoreWriter, patch_px: int) -> PixelScene:
    """Write a scene's padded pixels, band-interleaved by pixel, and read its labels.

    The padding reflects the scene at its edges.

    Raises
    ------
    DataError
        The scene is smaller than the padding needs, or has a label outside the class list.
    """
    radius = patch_px // 2
    height, width = reader.grid.height, reader.grid.width
    if min(height, width) <= radius:
        raise DataError(f"{height}×{width} px is too small for patches of {patch_px} px")
    codes, labelled = reader.labels(0, height)
    valid = np.zeros((height, width), np.bool_)
    start = writer.rows
    digest = hashlib.blake2b(digest_size=8)
    row_of = np.pad(np.arange(height), radius, mode="reflect")
    col_of = np.pad(np.arange(width), radius, mode="reflect")
    # bands so high that the reflected rows of none lie before the band that was read last
    step = max(BAND_ROWS, 2 * radius + 2)
    for first in range(0, len(row_of), step):
        wanted = row_of[first : first + step]
        low = int(wanted.min())
        band = reader.rows(low, int(wanted.max()) + 1)
        valid[low : low + len(band.usable)] = band.usable
        rows = [_interleaved(image[:, wanted - low][:, :, col_of]) for image in band.images]
        for values in rows:
            digest.update(values.data)
        writer.append(rows)
    return PixelScene(
        scene=reader.scene,
        grid=reader.grid,
        codes=np.where(labelled, codes, 0).astype(np.int64),
        usable=labelled & valid,
        start=start,
        radius=radius,
        digest=digest.hexdigest(),
    )


def _interleaved(image: NDArray[Any]) -> NDArray[Any]:
    """Turn (C, h, W) into contiguous rows (h * W, C)."""
    return np.ascontiguousarray(np.moveaxis(image, 0, -1).reshape(-1, image.shape[0]))
