"""The network over one row of windows after another, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from clients.loader import Chips
from clients.memory_format import format_chips, place_model
from clients.micro_batch import MicroBatch, Part
from clients.normalization import ModalityNormalizer, Normalization, stack_modalities, to_native
from data_prep.ingest.scene_reader import Rows, SceneReader
from data_prep.validity import pack
from fl_app.delivered_model import DeliveredModel
from fl_app.predict.scene_inputs import SceneInput
from fl_app.predict.value_check import ValueCheck
from fl_app.predict.windows import WindowAxis

BATCH_PIXELS = 2**18
"""Pixels of a band in a batch: 64 chips of 64 px, which a CPU's caches hold."""
LEAST_BATCH, MOST_BATCH = 16, 4096


@dataclass(frozen=True, eq=False)
class RowOfWindows:
    """What the network says of the windows that begin in one row of pixels."""

    number: int
    probabilities: NDArray[np.float32]
    """Of each window and class, [n, K]; 0 where a window is not valid."""
    valid: NDArray[np.bool_]
    """Windows with enough valid pixels, [n]."""
    first: int
    """First row of pixels that :attr:`usable` tells of."""
    usable: NDArray[np.bool_]
    """Pixels that are valid in all bands and not masked, [h, width]."""


@dataclass(frozen=True, eq=False)
class _Band:
    """Pixels of a row of windows, padded by reflection around patches."""

    images: list[NDArray[Any]]
    valid: NDArray[np.bool_]
    first: int
    usable: NDArray[np.bool_]
    masks: list[NDArray[np.bool_] | None]
    """Validity of the images where no value of theirs says it; see :mod:`data_prep.validity`."""


class SceneClassifier:
    """Classifies the windows of a scene by a network on a device.

    ``min_valid`` is the least share of valid pixels in a chip; of a patch, the central pixel must
    be valid.
    """

    def __init__(
        self,
        model: DeliveredModel,
        scene: SceneInput,
        axes: tuple[WindowAxis, WindowAxis],
        device: torch.device,
        min_valid: float,
    ) -> None:
        self._scene = scene
        self._rows, self._cols = axes
        self._min_valid = min_valid
        self._device = device
        self._network = place_model(model.network, device).eval()
        self._stacked = not model.fusion
        own = [s for s, here in zip(model.statistics, scene.present, strict=True) if here]
        self._normalizers = [
            ModalityNormalizer(
                np.dtype(meta.dtype),
                Normalization(
                    statistics.mean,
                    statistics.std,
                    meta.nodata,
                    np.asarray(meta.scale) if meta.scale else None,
                    np.asarray(meta.offset) if meta.offset else None,
                ),
                device,
            )
            for meta, statistics in zip(scene.source.modalities, own, strict=True)
        ]
        self._micro_batch = MicroBatch()
        self.values = ValueCheck(scene.source.modalities)

    def rows(self, first: int = 0) -> Iterator[RowOfWindows]:
        """Yield the rows of windows from number ``first`` on; a thread reads one ahead."""
        side, last = self._cols.side, len(self._rows)
        radius = side // 2 if self._cols.centered else 0
        with ExitStack() as stack:
            unit = int(self._rows.starts[1] - self._rows.starts[0]) if last > 1 else side
            stop = max(self._cols.length, int(self._cols.starts[-1]) + side - radius)
            cols = None if self._cols.centered else (0, stop)
            reader = SceneReader(stack, self._scene.source, cols, unit)
            thread = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="reader"))
            ahead = thread.submit(self._read, reader, first) if first < last else None
            for number in range(first, last):
                assert ahead is not None
                band = ahead.result()
                if number + 1 < last:
                    ahead = thread.submit(self._read, reader, number + 1)
                probabilities = self._classify(band, radius)
                yield RowOfWindows(number, probabilities, band.valid, band.first, band.usable)

    def _read(self, reader: SceneReader, number: int) -> _Band:
        start, side = int(self._rows.starts[number]), self._rows.side
        if self._rows.centered:
            return self._read_patches(reader, start, side)
        stop = start + side
        if self._rows.spans[number, 1] > stop:  # a rest that is smaller than a coarse pixel
            stop += self._scene.step
        rows = reader.rows(start, stop)
        # A row of windows that reaches beyond the scene is filled by reflection, as at ingestion.
        counts = np.zeros(rows.usable.shape[1] + 1, np.int64)
        np.cumsum(rows.usable[:side].sum(axis=0), out=counts[1:])
        shares = (counts[self._cols.starts + side] - counts[self._cols.starts]) / side**2
        usable = rows.usable[: self._rows.length - start, : self._cols.length]
        valid = (shares >= self._min_valid) & (shares > 0)
        # Copied, for the next reading may overwrite them.
        heights = [side // meta.factor for meta in self._scene.source.modalities]
        images = [image[:, :px].copy() for image, px in zip(rows.images, heights, strict=True)]
        masks = [
            None if mask is None else mask[:, :px]
            for mask, px in zip(self._masks(rows), heights, strict=True)
        ]
        return _Band(images, valid, start, usable.copy(), masks)

    def _read_patches(self, reader: SceneReader, start: int, side: int) -> _Band:
        height, width, radius = self._rows.length, self._cols.length, side // 2
        first, stop = max(0, start), min(height, start + side)
        rows = reader.rows(first, stop)
        row_of = np.pad(np.arange(height), radius, mode="reflect")[start + radius :][:side] - first
        col_of = np.pad(np.arange(width), radius, mode="reflect")
        images = [image[:, row_of][:, :, col_of] for image in rows.images]
        centers = self._cols.starts + radius
        valid = rows.usable[start + radius - first, centers]
        masks = [None if m is None else m[:, row_of][:, :, col_of] for m in self._masks(rows)]
        return _Band(images, valid, first, rows.usable.copy(), masks)

    def _masks(self, rows: Rows) -> list[NDArray[np.bool_] | None]:
        return [
            mask.copy() if mask is not None and meta.may_need_validity else None
            for mask, meta in zip(rows.valid, self._scene.source.modalities, strict=True)
        ]

    def _classify(self, band: _Band, radius: int) -> NDArray[np.float32]:
        chosen = np.flatnonzero(band.valid)
        parts = []
        size = int(np.clip(BATCH_PIXELS // self._cols.side**2, LEAST_BATCH, MOST_BATCH))
        with torch.inference_mode():
            for begin in range(0, len(chosen), size):
                starts = self._cols.starts[chosen[begin : begin + size]] + radius
                chips = self._chips(band, starts, check=begin == 0)
                labels = torch.zeros(len(starts), dtype=torch.int64, device=self._device)
                parts.append(self._micro_batch.run(self._probabilities, chips, labels).cpu())
        if not parts:  # the number of classes does not matter: nothing is said
            return np.zeros((len(band.valid), 1), np.float32)
        result = np.zeros((len(band.valid), parts[0].shape[1]), np.float32)
        result[chosen] = torch.cat(parts).numpy()
        return result

    def _probabilities(self, parts: list[Part]) -> Tensor:
        network = self._network
        logits = [network(*format_chips(chips, network)).float() for chips, _ in parts]
        return torch.softmax(torch.cat(logits), dim=1)

    def _chips(self, band: _Band, starts: NDArray[np.int64], *, check: bool) -> Chips:
        normalized = []
        for image, mask, meta, normalizer in zip(
            band.images,
            band.masks,
            self._scene.source.modalities,
            self._normalizers,
            strict=True,
        ):
            px, places = self._cols.side // meta.factor, starts // meta.factor
            native = to_native(_windows(image, px, places)).to(self._device)
            bits = None if mask is None else torch.from_numpy(pack(_windows(mask, px, places)))
            validity = None if bits is None else bits.to(self._device)
            normalized.append(normalizer.normalize(native, validity))
            if check:
                self.values.add(len(normalized) - 1, normalized[-1])
        if self._stacked:
            return [stack_modalities(normalized)]
        left = iter(normalized)
        return [next(left) if here else None for here in self._scene.present]


def _windows(rows: NDArray[Any], px: int, starts: NDArray[np.int64]) -> NDArray[Any]:
    """Copy square windows of rows (C, px, W) that begin at some columns: (n, C, px, px)."""
    windows = sliding_window_view(rows, px, axis=-1)[..., starts, :]
    return np.ascontiguousarray(np.moveaxis(windows, -2, 0))
